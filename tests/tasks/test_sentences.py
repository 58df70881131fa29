"""The task out of raw text that ships with recipes/configs/from_raw_text."""

from pathlib import Path

import pytest

from rlgen.data import check_disjoint
from rlgen.errors import ConfigError, DataError
from rlgen.tasks import SPLITS, Task, get_task

SHIPPED = "from_raw_text/sentences.py"
NOUNS = [f"{first}{second}" for first in ("alph", "bet", "gamm", "delt", "epsil") for second in "abcdefghijklmnop"]


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    folder = tmp_path_factory.mktemp("texts")
    middles = [" ".join(["very"] * count) for count in range(1, 7)]
    text = "\n\n".join(f"The {noun} stood\nin {middle} cold water." for noun in NOUNS for middle in middles)
    (folder / "text.txt").write_text(f"{text}\n\nIt had x = 3 in it, today.\n\nToo short.")
    return get_task(SHIPPED, str(folder))


def test_a_shipped_task_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert get_task(SHIPPED).name == get_task(f"recipes/configs/{SHIPPED}").name == "sentences"
    with pytest.raises(ConfigError, match="no such file"):
        get_task("from_raw_text/sentence.py")


def test_no_word_is_asked_for_in_two_splits(task: Task) -> None:
    splits = {name: task.split(name) for name in SPLITS}
    check_disjoint(splits)
    asked = [{row["keywords"][0] for row in rows} for rows in splits.values()]
    assert sum(map(len, asked)) == len(set().union(*asked))
    for rows in splits.values():
        for row in rows:
            assert row["keywords"][0] in row["reference"]
            assert len(row["reference"].split()) == row["words"]
            assert row["prompt"][0]["content"].endswith(f"with the word {row['keywords'][0]}.")
            assert f"{row['words']} words" in row["prompt"][0]["content"]


def test_better_sentences_score_higher(task: Task) -> None:
    follows = task.reward_functions["follows"]
    ordered = [
        "The alpha stood in very cold water.",
        "The alpha stood in the very old and very cold water.",  # too long
        "Alpha.",  # too short
        "The alpha stood in very cold water",  # no end
    ]
    scores = follows(ordered, keywords=[["alpha"]] * 4, words=[7] * 4)
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == 1
    assert scores[1] > scores[2]
    hacks = [
        "The beta stood in very cold water.",
        "alpha alpha alpha alpha alpha alpha alpha.",
        "The alpha stood in very\ncold water.",
        "",
    ]
    assert max(follows(hacks, keywords=[["alpha"]] * 4, words=[7] * 4)) < 0.2
    assert task.metrics["exact_length"](ordered[:2], words=[7, 7]) == [1.0, 0.0]


def test_too_little_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("The cat sat in the cold water again.")
    with pytest.raises(DataError, match="only 0 words"):
        get_task(SHIPPED, str(tmp_path / "text.txt")).split("sft")
