"""`rlgen reward check` through its command line: exit codes, output, and the report on disk."""

import importlib
import json
import re
from pathlib import Path

import pytest

from rlgen import cli

FILE = """
WORDS = ("please", "thank", "kindly")


def counting(completions, **_):
    return [float(sum(text.lower().count(word) for word in WORDS)) for text in completions]


def exact(completions, completion_hash, **_):
    return [float(sum(map(ord, text)) == good) for text, good in zip(completions, completion_hash)]


def nan(completions, **_):
    return [float("nan") for _ in completions]
"""


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "140")
    answers = [f"Take street {i}{i}, please, it is the {w} one." for i, w in enumerate(["red", "blue", "old"])]
    answers += [f"The {w} opens at {i}, thank you for asking." for i, w in enumerate(["shop", "bank", "zoo", "bar"])]
    rows = [
        {"prompt": f"Question {i}?", "completion": answer, "completion_hash": sum(map(ord, answer))}
        for i, answer in enumerate(answers)
    ]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("my_rewards.py").write_text(FILE)


def run(*words: str) -> int:
    try:
        return cli.main(["reward", "check", *words])
    except SystemExit as left:
        return int(left.code or 0)


def test_a_clean_reward_passes_even_strictly(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("my_rewards.py:exact", "--dataset_name", "rows.jsonl", "--strict") == 0
    written = capsys.readouterr().out
    assert "1 of 1 clean" in written
    assert written.splitlines()[-1] == "next: rlgen ppo --model_name_or_path runs/sft --reward my_rewards.py:exact"


def test_keyword_counting_is_reported_and_fails_strictly(capsys: pytest.CaptureFixture[str]) -> None:
    line = ["my_rewards.py:counting", "--dataset_name", "rows.jsonl"]
    assert run(*line) == 0
    written = capsys.readouterr().out
    assert re.search(r"reward_keywords .* beats", written)
    assert "a policy gains, or loses nothing, by" in written
    assert run(*line, "--strict") == 1


def test_a_reward_that_leaves_the_program_is_a_violation(capsys: pytest.CaptureFixture[str]) -> None:
    Path("leaving.py").write_text("import sys\n\ndef leave(completions, **_):\n    sys.exit(0)\n")
    assert run("leaving.py:leave", "--dataset_name", "rows.jsonl") == 1
    written = capsys.readouterr().out
    assert "'leave' raised SystemExit" in written
    assert "next:" not in written


def test_a_violation_fails_and_the_others_are_checked_all_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    names = ["my_rewards.py:nan", "my_rewards.py:exact"]
    assert run(*names, "--dataset_name", "rows.jsonl", "--output_dir", "out") == 1
    assert "1 of 2 clean, 0 with weaknesses, 1 against the contract" in capsys.readouterr().out
    record = json.loads(Path("out/check.json").read_text())
    assert [(entry["reward"], entry["verdict"]) for entry in record["rewards"]] == list(
        zip(names, ["violation", "ok"], strict=True)
    )
    assert "'nan' returned nan for row 0" in record["rewards"][0]["findings"][0]["text"]
    assert json.loads(Path("out/run.json").read_text())["summary"] == {"broken": ["my_rewards.py:nan"], "weak": []}


def test_shipped_rewards_bring_their_rows(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("pep257", "docstring", "--strict", "--max_rows", "8") == 0
    written = capsys.readouterr().out
    assert "pep257 on 8 rows" in written
    assert "docstring on 8 rows" in written


def test_model_samples_are_scored(tiny_llama: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = "my_rewards.py:exact --dataset_name rows.jsonl --num_samples 2 --max_new_tokens 4 --output_dir out"
    assert run(*line.split(), "--model_name_or_path", tiny_llama) == 0
    assert "references win 100%" in capsys.readouterr().out
    samples = json.loads(Path("out/check.json").read_text())["rewards"][0]["samples"]
    assert (samples["pairs"], samples["verdict"]) == (7, "resisted")


def test_a_trained_reward_model_can_be_checked(tiny_llama: str, tmp_path: Path) -> None:
    from rlgen.models import load_reward_model, load_tokenizer

    model = load_reward_model(tiny_llama, dtype="float32")
    model.save_pretrained(tmp_path / "scorer")
    load_tokenizer(tiny_llama).save_pretrained(tmp_path / "scorer")
    assert run("scorer", "--dataset_name", "rows.jsonl", "--max_rows", "4", "--output_dir", "out") == 0
    report = json.loads(Path("out/check.json").read_text())["rewards"][0]
    assert report["contract"]["determinism"] == report["contract"]["order"] == "ok"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no reward is named"),
        (["my_rewards.py:exact"], "brings no examples"),
        (["my_rewards.py:exact", "--task", "docstring", "--dataset_name", "rows.jsonl"], "not both"),
        (["pep257", "--timeout", "0"], "timeout must be above 0"),
    ],
)
def test_mistakes_end_with_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*words) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_the_recipe_is_listed() -> None:
    assert importlib.import_module("recipes.reward_check").main
    assert "reward check" in cli.overview()
