"""Token rewards and rows for PPO-ptx through the real command line."""

import importlib
import json
from pathlib import Path

import pytest

from rlgen.data import row_hash
from rlgen.pipeline import prove_disjoint

REWARDS = """
def no_repeats(prompts, completions, completion_ids, **columns):
    return [[-float(a == b) for a, b in zip(ids, [None, *ids])] for ids in completion_ids]

def too_short(prompts, completions, completion_ids, **columns):
    return [ids[:-1] for ids in completion_ids]
"""
TASK = """
from datasets import Dataset
from rlgen.tasks import Task

def score(prompts, completions, **columns):
    return [float(len(c)) for c in completions]

def split(name, max_rows=None):
    words = {"sft": ["one", "two"], "rl": ["three", "four", "five", "six"]}[name]
    return Dataset.from_dict({"prompt": [f"Say {w}" for w in words], "completion": [f" {w}." for w in words]})

def build(source=None):
    return Task("mine", "Say it.", split, {"score": 1.0}, {"score": score}, {}, 64, 8)
"""
SMALL = (
    "--output_dir run --per_device_train_batch_size 2 --steps_per_generation 1 --num_generations 2 "
    "--max_completion_length 4 --critic_warmup_rollouts 0 --num_ppo_epochs 1 --max_steps 2 --ptx_batch_size 1"
)


@pytest.fixture
def run(tiny_llama: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("rewards.py").write_text(REWARDS)
    Path("task.py").write_text(TASK)
    for name in ("rows", "texts"):
        rows = [{"prompt": f"Say {name} {i}.", "completion": f"It is {i}."} for i in range(6)]
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def call(line: str) -> list[dict[str, float]]:
        main = importlib.import_module("recipes.ppo").main
        main(f"--model_name_or_path {tiny_llama} {SMALL} {line}".split())
        return [json.loads(text) for text in Path("run/metrics.jsonl").read_text().splitlines()]

    return call


def test_own_rows_need_nothing_but_a_token_reward_and_the_rows_of_text_are_recorded(run):
    logged = run(
        "--dataset_name rows.jsonl --token_reward rewards.py:no_repeats --token_reward_weights 0.5 "
        "--ptx_coef 0.3 --ptx_dataset_name texts.jsonl"
    )
    assert "token_rewards/no_repeats/mean" in logged[0]
    assert 5 < logged[0]["loss/ptx"] < 9
    data = json.loads(Path("run/run.json").read_text())["data"]
    assert data["sft"]["rows"] == data["rl"]["rows"] == 6
    texts = [json.loads(line) for line in Path("texts.jsonl").read_text().splitlines()]
    assert Path("run/data/sft.hashes").read_text().split() == [row_hash(row) for row in texts]


def test_a_task_gives_its_sft_rows_which_stay_disjoint_from_the_others(run):
    assert "loss/ptx" in run("--task task.py --ptx_coef 0.3")[0]
    assert prove_disjoint(Path(), ["run"])["sft"] == {"rows": 2, "stages": ["run"], "disjoint": True}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--token_reward rewards.py:too_short", "token reward 'too_short' returned"),
        ("--token_reward rewards.py:no_repeat", "did you mean no_repeats?"),
        ("--token_reward rewards.py:no_repeats --token_reward_weights 1 2", "2 token_reward_weights for 1"),
        ("--token_reward rewards.py:no_repeats --ptx_coef 0.1", "there are no rows for it"),
        ("--token_reward rewards.py:no_repeats --ptx_dataset_name nowhere.jsonl", "nowhere.jsonl"),
    ],
)
def test_a_mistake_is_one_clear_line(run, line, message, capsys):
    with pytest.raises(SystemExit) as left:
        run(f"--dataset_name rows.jsonl {line}")
    assert left.value.code == 2
    errors = [text for text in capsys.readouterr().err.splitlines() if text.startswith("error")]
    assert len(errors) == 1
    assert message in errors[0]
