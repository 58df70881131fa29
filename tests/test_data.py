"""Loading, checking and fingerprinting of rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict
from hypothesis import given
from hypothesis import strategies as st

from rlgen.data import check_disjoint, conversational, fingerprint, load_rows, prompt_text, row_hash
from rlgen.errors import DataError

ROWS = [{"prompt": f"Say {number}.", "completion": f"It is {number}.", "level": number} for number in range(10)]


def write_jsonl(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "parquet", "saved", "folder", "parts"])
def test_every_format_gives_the_same_rows(tmp_path: Path, suffix: str) -> None:
    source = tmp_path / f"rows.{suffix}"
    if suffix == "jsonl":
        write_jsonl(source, ROWS)
    elif suffix == "json":
        source.write_text(json.dumps(ROWS, indent=1))
    elif suffix == "csv":
        Dataset.from_list(ROWS).to_csv(str(source))
    elif suffix == "parquet":
        Dataset.from_list(ROWS).to_parquet(str(source))
    elif suffix == "saved":
        DatasetDict(train=Dataset.from_list(ROWS), other=Dataset.from_list(ROWS[:1])).save_to_disk(str(source))
    else:
        source.mkdir()
        names = ("train-0.jsonl", "train-1.jsonl") if suffix == "parts" else ("train.jsonl",)
        share = len(ROWS) // len(names)
        for index, name in enumerate(names):
            write_jsonl(source / name, ROWS[index * share : (index + 1) * share])
        write_jsonl(source / "heldout.jsonl", ROWS[:2])
    assert load_rows(str(source), columns=["prompt", "completion"]).to_list() == ROWS


def test_folder_split_is_found_by_file_name(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", ROWS)
    write_jsonl(tmp_path / "heldout.jsonl", ROWS[:2])
    assert len(load_rows(str(tmp_path), columns=["prompt"], split="heldout")) == 2
    with pytest.raises(DataError, match=r"no file for split 'test' \(found: heldout.jsonl, train.jsonl\)"):
        load_rows(str(tmp_path), columns=["prompt"], split="test")


def test_conversational_rows_and_columns_missing_from_some_rows(tmp_path: Path) -> None:
    rows = [{"prompt": conversational("Hi"), "answer": "x"}, {"prompt": conversational("Ho")}]
    loaded = load_rows(write_jsonl(tmp_path / "rows.jsonl", rows), columns=["prompt"])
    assert loaded[1] == {"prompt": [{"role": "user", "content": "Ho"}], "answer": None}


def test_max_rows_spreads_over_the_file(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "rows.jsonl", ROWS)
    assert load_rows(source, columns=["prompt"], max_rows=5)["level"][:] == [0, 2, 4, 6, 8]
    assert len(load_rows(source, columns=["prompt"], max_rows=99)) == 10


def test_csv_prompts_stay_text(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text('prompt,level\n12,1\n"two\nlines",2\n')
    assert load_rows(str(tmp_path / "rows.csv"), columns=["prompt"])["prompt"][:] == ["12", "two\nlines"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.jsonl", "", "the file is empty"),
        ("rows.json", "[]", "the dataset is empty"),
        ("rows.csv", "prompt\n", "the dataset is empty"),
        (
            "rows.jsonl",
            '{"promt": "a", "text": "b"}\n',
            r"no column 'prompt' \(found: 'promt', 'text'\); rename 'promt'",
        ),
        ("rows.jsonl", '{"prompt": "a"}\n\n{"prompt": \n', r"rows\.jsonl:3: malformed JSON"),
        ("rows.json", '[{"prompt": "a"},\n nonsense]', r"rows\.json:2: malformed JSON"),
        ("rows.jsonl", '{"prompt": "a"}\n["b"]\n', r"rows\.jsonl:2: a row must be a JSON object, not list"),
        ("rows.jsonl", '{"prompt": "a"}\n{"other": "b"}\n', "row 1 has no 'prompt'"),
        ("rows.jsonl", '{"prompt": 3}\n', "must hold text or lists of role/content messages, not int64"),
        ("rows.jsonl", '{"prompt": "a"}\n{"prompt": ["b"]}\n', "cannot be read as jsonl"),
        ("rows.parquet", "not parquet", "cannot be read as parquet"),
        ("rows.txt", "hello", "cannot read '.txt' files"),
    ],
)
def test_bad_files_are_one_clear_line(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        load_rows(str(tmp_path / name), columns=["prompt"])
    assert "\n" not in str(caught.value)


def test_missing_file_suggests_the_nearest(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train_rows.jsonl", ROWS)
    with pytest.raises(DataError, match=r"no such file or folder; did you mean .*train_rows\.jsonl"):
        load_rows(str(tmp_path / "train_row.jsonl"), columns=["prompt"])


def test_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no saved dataset"):
        load_rows(str(tmp_path), columns=["prompt"])


def test_unobtainable_hub_dataset_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise ConnectionError("offline\nreally")

    monkeypatch.setattr("rlgen.data.datasets.load_dataset", refuse)
    with pytest.raises(DataError, match="not obtainable from the hub as split 'train': offline really"):
        load_rows("nobody/nothing", columns=["prompt"])


def test_hub_id_with_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def load(name: str, config: str | None, split: str) -> Dataset:
        asked.extend([name, config, split])
        return Dataset.from_list(ROWS)

    monkeypatch.setattr("rlgen.data.datasets.load_dataset", load)
    assert len(load_rows("owner/name:main", columns=["prompt"], split="test")) == len(ROWS)
    assert asked == ["owner/name", "main", "test"]


@given(st.text())
def test_hash_is_the_same_for_plain_and_conversational(prompt: str) -> None:
    assert row_hash({"prompt": prompt}) == row_hash({"prompt": conversational(prompt), "completion": "x"})


def test_hash_ignores_whitespace_only() -> None:
    assert row_hash({"prompt": "a  b\n"}) == row_hash({"prompt": "a b"}) != row_hash({"prompt": "ab"})
    assert row_hash({"chosen": "a", "rejected": "b"}) != row_hash({"chosen": "a", "rejected": "c"})
    dialog = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    assert prompt_text(dialog) == "system: s\nuser: u"


def test_fingerprint_ignores_order_and_sees_content() -> None:
    rows = Dataset.from_list(ROWS)
    assert fingerprint(rows) == fingerprint(rows.shuffle(seed=3))
    assert fingerprint(rows) != fingerprint(rows.select(range(9)))


def test_check_disjoint_names_the_splits_and_a_row() -> None:
    rows = Dataset.from_list(ROWS)
    check_disjoint({"train": rows.select(range(5)), "heldout": rows.select(range(5, 10))})
    with pytest.raises(DataError, match=r"train and heldout share 2 rows, e\.g\. row 3 of train is row 0 of heldout"):
        check_disjoint({"train": rows.select(range(5)), "heldout": rows.select(range(3, 8))})
