"""A task of one's own as one YAML file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlgen.data import check_disjoint
from rlgen.errors import ConfigError, DataError, RewardError
from rlgen.rewards import load_rewards
from rlgen.tasks import SPLITS, get_task

TRIVIA = """
name: trivia
description: Answer trivia.
data: trivia.jsonl
columns: {answer: short}
prompt: "Answer in one line: {question} Write {{it}} out."
completion: "I think so. The answer is {short}."
rewards: {reasoning_correct: 0.75, my_rewards.py:brief: 0.25}
metrics: [reasoning_working]
max_completion_tokens: 24
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = [{"question": f"What is {n} plus one?", "short": str(n + 1)} for n in range(200)]
    (tmp_path / "trivia.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:20]))
    (tmp_path / "my_rewards.py").write_text(
        "def brief(completions, **_):\n    return [float(len(str(text)) < 200) for text in completions]\n"
    )
    (tmp_path / "trivia.yaml").write_text(TRIVIA)
    return tmp_path


def test_a_task_from_one_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    task = get_task(str(folder / "trivia.yaml"))
    splits = {name: task.split(name) for name in SPLITS}
    check_disjoint(splits)
    assert sum(map(len, splits.values())) == 200
    row = splits["sft"][0]
    assert row["prompt"][0]["content"] == f"Answer in one line: {row['question']} Write {{it}} out."
    assert row["reference"] == f"I think so. The answer is {row['short']}."
    assert row["answer"] == row["short"]
    assert (task.name, task.max_completion_tokens, list(task.metrics)) == ("trivia", 24, ["reasoning_working"])
    functions, weights = load_rewards(None, None, task)
    assert weights == [0.75, 0.25]
    given = {"prompts": [row["prompt"]], "completions": [row["completion"]], "completion_ids": [[0]]}
    assert [function(**given, answer=[row["answer"]]) for function in functions] == [[1.0], [1.0]]


def test_held_out_rows_of_their_own(folder: Path) -> None:
    (folder / "trivia.yaml").write_text(TRIVIA + "heldout: test.jsonl\n")
    task = get_task(str(folder / "trivia.yaml"))
    splits = {name: task.split(name) for name in SPLITS}
    check_disjoint(splits)
    assert len(splits["heldout"]) == 20
    assert sum(map(len, splits.values())) == 200


def test_prompts_as_they_are(folder: Path) -> None:
    rows = [{"prompt": f"Say {n}.", "reference": str(n)} for n in range(100)]
    (folder / "plain.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "plain.yml").write_text("data: plain.jsonl\nrewards: {my_rewards.py:brief: 1}\n")
    rows = get_task(str(folder / "plain.yml")).split("rl")
    assert "completion" not in rows.column_names
    assert rows[0]["prompt"][0]["content"] == f"Say {rows[0]['reference']}."
    other = get_task(str(folder / "plain.yml"), str(folder / "trivia.jsonl"))
    with pytest.raises(ConfigError, match="no column 'prompt'"):
        other.split("rl")


@pytest.mark.parametrize(
    ("old", "new", "kind", "message"),
    [
        ("rewards:", "rewrads:", ConfigError, "unknown key rewrads; did you mean rewards"),
        ("data: trivia.jsonl", "", ConfigError, "data must be given"),
        ("data: trivia.jsonl", "data: nowhere.jsonl", DataError, "nowhere.jsonl"),
        ("{question}", "{qestion}", ConfigError, "no column 'qestion'; did you mean question"),
        ("{question}", "{question} {", ConfigError, "trivia.yaml: prompt: .*; write a brace that is meant twice"),
        ("answer: short", "answer: shrt", ConfigError, "columns: answer: the data has no column 'shrt'"),
        ("0.75", "much", ConfigError, "weight of reward reasoning_correct must be a number"),
        ("tokens: 24", "tokens: many", ConfigError, "max_completion_tokens must be of type int, not str"),
        ("tokens: 24", "tokens: 0", ConfigError, "must be at least 1"),
        ("reasoning_correct", "reasoning_corect", RewardError, "reasoning_corect"),
        ("name: trivia", "name: [", ConfigError, "cannot be read"),
    ],
)
def test_mistakes_are_one_clear_line(folder: Path, old: str, new: str, kind: type[Exception], message: str) -> None:
    file = folder / "trivia.yaml"
    file.write_text(TRIVIA.replace(old, new, 1))
    with pytest.raises(kind, match=message) as caught:
        get_task(str(file)).split("rl")
    assert "\n" not in str(caught.value)


def test_a_missing_file() -> None:
    with pytest.raises(ConfigError, match="no such file"):
        get_task("nowhere.yaml")


@pytest.mark.parametrize("completion", ["The answer is {short}.", "{short}"])
def test_a_missing_value_is_no_answer(folder: Path, completion: str) -> None:
    (folder / "trivia.jsonl").write_text('{"question": "One?", "short": "1"}\n{"question": "Two?", "short": null}\n')
    (folder / "trivia.yaml").write_text(TRIVIA.replace("I think so. The answer is {short}.", completion))
    with pytest.raises(DataError, match="row 1 has no short; fill it in or remove the row"):
        get_task(str(folder / "trivia.yaml")).split("rl")
