"""Raw text in: what counts as a document, what is held out, what is prose."""

import json
from pathlib import Path

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from rlgen.data import check_disjoint
from rlgen.documents import hold_out, load_documents, passages, prose
from rlgen.errors import DataError

CODE = '''"""Module.

    >>> 1 + 1
    2
"""
# A block
# of two lines.
# -----
x = 1  # behind code


TEXT = """
# no comment
"""


def f():
    """Do it."""
    # Inside.
'''


def test_files_folders_and_data_sets_become_documents_each_once(tmp_path: Path) -> None:
    (tmp_path / "docs" / "deep").mkdir(parents=True)
    (tmp_path / "docs" / ".hidden").mkdir()
    for name, text in {
        "docs/b.txt": "two\nlines",
        "docs/deep/a.md": "# one",
        "docs/deep/again.rst": "two\nlines",
        "docs/empty.txt": " \n",
        "docs/.hidden/x.txt": "hidden",
        "docs/picture.png": "no text",
        "single.py": "x = 1",
    }.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "rows.jsonl").write_text(json.dumps({"text": "a row", "n": 1}) + "\n")
    sources = [str(tmp_path / name) for name in ("docs", "single.py", "rows.jsonl")]
    assert load_documents(sources)["text"] == ["two\nlines", "# one", "x = 1", "a row"]
    assert load_documents(sources, max_rows=2)["text"] == ["two\nlines", "x = 1"]


def test_mistakes_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "notes.txt").write_text("text")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "image.png").write_text("x")
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a"}\n')
    (tmp_path / "numbers.jsonl").write_text('{"text": 3}\n')
    (tmp_path / "nothing").mkdir()
    for name, message in {
        "empty.txt": "there is no text in it",
        "note.txt": r"no such file; did you mean .*notes\.txt\?",
        "latin.txt": "cannot be read as UTF-8",
        "image.png": r"cannot read '\.png' files; use one of \.txt",
        "rows.jsonl": "no column 'text'",
        "numbers.jsonl": "row 0 has no text in the column 'text' but 3",
        "nothing": "no saved dataset",
    }.items():
        with pytest.raises(DataError, match=message) as caught:
            load_documents([str(tmp_path / name)])
        assert "\n" not in str(caught.value)


def test_prose_is_docstrings_and_comments_in_their_order() -> None:
    # A docstring's own lines of doctest are left out but for what they print; comments behind code are too short.
    assert prose(CODE) == "Module.\n\nA block\nof two lines.\n\nDo it.\n\nInside."
    assert prose("def broken(:") == ""
    assert prose("x = 1") == ""


def test_the_standard_library_has_prose() -> None:
    documents = load_documents(["stdlib"], max_rows=30)
    assert len(documents) == 30
    assert sum(map(len, documents["text"])) > 30_000


@settings(deadline=None, max_examples=50)
@given(st.text(alphabet="ab \n", max_size=300), st.integers(1, 50))
def test_passages_are_the_text_again(text: str, size: int) -> None:
    parts = passages(text, size)
    assert "".join(parts) == text
    assert all(len(part) >= size for part in parts) or len(parts) == 1
    assert all(part.endswith("\n") for part in parts[:-1])


@settings(deadline=None, max_examples=50)
@given(st.sets(st.text(alphabet="abc", min_size=1, max_size=4), min_size=20, max_size=60), st.floats(0.01, 0.99))
def test_held_out_documents_are_chosen_by_content(texts: set[str], share: float) -> None:
    given_order, other_order = sorted(texts), sorted(texts, reverse=True)
    train, heldout = hold_out(Dataset.from_dict({"text": given_order}), share)
    assert set(train["text"]) | set(heldout["text"]) == texts
    assert len(train) + len(heldout) == len(texts)
    assert len(train) >= 1
    assert abs(len(heldout) - share * len(texts)) <= 1
    again = hold_out(Dataset.from_dict({"text": other_order}), share)[1]
    assert set(again["text"]) == set(heldout["text"])
    check_disjoint({"train": train, "heldout": heldout})


def test_one_long_document_is_held_out_in_part_and_one_short_one_is_refused() -> None:
    long = "".join(f"line {number} of this text\n" for number in range(2000))
    train, heldout = hold_out(Dataset.from_dict({"text": [long]}), 0.1)
    assert 0.05 < len("".join(heldout["text"])) / len(long) < 0.2
    assert sum(map(len, [*train["text"], *heldout["text"]])) == len(long)
    with pytest.raises(DataError, match="one passage of 5 characters"):
        hold_out(Dataset.from_dict({"text": ["short"]}), 0.1)


def test_a_folder_with_texts_and_a_data_set_is_refused(tmp_path):
    (tmp_path / "README.md").write_text("About the data.")
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "seen.json").write_text("{}")
    assert len(load_documents([str(tmp_path)])) == 1
    (tmp_path / "train.jsonl").write_text('{"text": "a row"}\n')
    with pytest.raises(DataError, match=r"holds texts \(README.md\) and a data set \(train.jsonl\)"):
        load_documents([str(tmp_path)])
