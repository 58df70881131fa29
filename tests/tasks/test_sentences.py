"""The task out of raw text that ships with recipes/configs/from_raw_text."""

from pathlib import Path

import pytest

from recipes import tasks_show
from rlgen.data import check_disjoint
from rlgen.errors import ConfigError, DataError
from rlgen.tasks import SPLITS, Task, get_task

SHIPPED = "from_raw_text/sentences.py"
NOUNS = [f"{first}{second}" for first in ("Alph", "Bet", "Gamm", "Delt", "Epsil") for second in "abcdefghijklmnop"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    middles = [" ".join(["very"] * count) for count in range(1, 7)]
    text = "\n\n".join(
        f"{noun} {verb}\nin {middle} cold water." for noun in NOUNS for middle in middles for verb in ("stood", "sat")
    )
    (folder / "text.txt").write_text(f"{text}\n\nIt had x = 3 in it, today.\n\nToo short.")
    return folder


@pytest.fixture(scope="module")
def task(folder: Path) -> Task:
    return get_task(SHIPPED, str(folder))


def test_a_shipped_task_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert get_task(SHIPPED).name == get_task(f"recipes/configs/{SHIPPED}").name == "sentences"
    with pytest.raises(ConfigError, match="no such file"):
        get_task("from_raw_text/sentence.py")


def test_no_pair_is_asked_for_in_two_splits(task: Task) -> None:
    splits = {name: task.split(name) for name in SPLITS}
    check_disjoint(splits)
    pairs = [{(row["begin"], row["words"]) for row in rows} for rows in splits.values()]
    assert sum(map(len, pairs)) == len(set().union(*pairs))
    taught = set(splits["sft"]["begin"])
    for name, rows in splits.items():
        assert taught.issuperset(rows["begin"])
        for row in rows:
            if row["reference"] is None:
                assert name == "rl"  # pairs that the text has no sentence for
            else:
                assert row["reference"].startswith(f"{row['begin']} ")
                assert len(row["reference"].split()) == row["words"]
            assert row["prompt"][0]["content"].endswith(f"begins with {row['begin']}.")
            assert f"{row['words']} words" in row["prompt"][0]["content"]


def test_sft_has_several_answers_to_a_prompt(task: Task) -> None:
    rows = task.split("sft")
    assert len({row["prompt"][0]["content"] for row in rows}) < len(rows)
    assert len(set(rows["reference"])) == len(rows)


def test_better_sentences_score_higher(task: Task) -> None:
    follows = task.reward_functions["follows"]
    ordered = [
        "Alpha, it stood in cold water.",
        "Alpha stood in the very old and very cold water.",  # too long
        "Alpha.",  # too short
        "Alpha stood in very cold water",  # no end
    ]
    scores = follows(ordered, begin=["Alpha"] * 4, words=[6] * 4)
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == 1
    assert scores[1] > scores[2]
    one_wish_at_most = [
        "Beta stood in very cold water.",
        "The Alpha stood in cold water.",
        "Alphabets stood in very cold water.",
        "Alpha . . . . .",
        "Alpha , , , , .",
    ]
    assert max(follows(one_wish_at_most, begin=["Alpha"] * 5, words=[6] * 5)) <= 0.5
    formless = ["Alpha Alpha Alpha Alpha Alpha Alpha.", "Alpha stood in very\ncold water.", ""]
    assert follows(formless, begin=["Alpha"] * 3, words=[6] * 3) == [0, 0, 0]


def test_the_parts_of_the_reward(task: Task) -> None:
    texts = ["Alpha, it stood.", "Alpha it stood in water.", "One two three four five six seven.", "Alphabets stood."]
    assert task.metrics["begins"](texts, begin=["Alpha"] * 4) == [1, 1, 0, 0]
    assert task.metrics["near_length"](texts, words=[3] * 4) == [1, 0.5, 0, 0.75]
    assert task.metrics["exact_length"](texts, words=[3] * 4) == [1, 0, 0, 0]


def test_too_little_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("The cat sat in the cold water again.")
    with pytest.raises(DataError, match="only 0 words"):
        get_task(SHIPPED, str(tmp_path / "text.txt")).split("sft")


def test_rows_without_an_answer_can_be_shown(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [SHIPPED, "--task_source", str(folder), "--split", "rl", "--rows", "64", "--model_name_or_path", "none"]
    tasks_show.main.__wrapped__(words)
    assert "Write a sentence" in capsys.readouterr().out
