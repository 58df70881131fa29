"""`rlgen reward explain` through its command line."""

import importlib
import json
from pathlib import Path

import pytest

REWARDS = """
def polite(completions, bonus=1.0, **_):
    return [bonus * ("please" in c[-1]["content"]) for c in completions]

def brief(completions, **_):
    return [None if "[" in c[-1]["content"] else -float(len(c[-1]["content"])) for c in completions]
"""
MIX = """
rewards:
  polite: {reward: my_rewards.py:polite, options: {bonus: 2.5}}
  brief: {reward: my_rewards.py:brief, weight: 0.5, gate: {polite: 1}, when_closed: -7}
"""


@pytest.fixture
def explain(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    Path("my_rewards.py").write_text(REWARDS)
    Path("mix.yaml").write_text(MIX)
    words = ["yes please", "no", "[bold]please"]
    rows = [
        {"prompt": [{"role": "user", "content": "ask"}], "completion": [{"role": "assistant", "content": word}]}
        for word in words
    ]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run(line):
        importlib.import_module("recipes.reward_explain").main(f"--dataset_name rows.jsonl {line}".split())
        return capsys.readouterr().out

    return run


def cells(shown, part):
    return [line.split()[1:] for line in shown.splitlines() if line.split()[:1] == [part]]


def test_a_composition_is_shown_step_by_step_and_adds_up(explain):
    shown = explain("--reward_config mix.yaml")
    full, nothing = ["2.5", "open", "1", "2.5", "2.5"], ["0", "open", "1", "0", "0"]
    assert cells(shown, "polite") == [full, nothing, full]
    assert cells(shown, "brief")[0] == ["-10", "open", "0.5", "-10", "-5"]
    assert cells(shown, "brief")[1] == ["-2", "polite", "0", "<", "1", "0.5", "-7", "-3.5"]
    assert cells(shown, "brief")[2] == ["none", "0.5", "none", "none"]
    assert cells(shown, "reward") == [["-2.5"], ["-3.5"], ["2.5"]]
    assert "[bold]please" in shown  # no markup
    assert "debiased" not in shown
    assert shown.strip().splitlines()[-1].startswith("next: rlgen ppo")


def test_a_weighted_sum_and_a_text_of_ones_own(explain):
    shown = explain(
        "--reward my_rewards.py:polite my_rewards.py:brief --reward_weights 3 1 --rows 1 --completion please"
    )
    assert cells(shown, "polite") == [["1", "3", "3"]]
    assert cells(shown, "reward") == [["-3"]]


def test_what_has_learned_nothing_says_so(explain):
    Path("mix.yaml").write_text(MIX.replace("when_closed", "normalize: true, when_closed"))
    assert "nothing has been learned yet for brief" in explain("--reward_config mix.yaml")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--rows 0", "rows must be at least 1"),
        ("--checkpoint run --reward x", "a checkpoint has its own rewards"),
        ("--reward_config mix.yaml --reward my_rewards.py:polite", "one or the other"),
        ("", "own rows need a reward of their own"),
    ],
)
def test_a_mistake_is_one_clear_line(explain, line, message, capsys):
    with pytest.raises(SystemExit) as left:
        explain(line)
    assert left.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
