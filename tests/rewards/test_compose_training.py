"""Compositions in training: rlgen's PPO through its command line, TRL's GRPO as it is, one process and two."""

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from rlgen.errors import RewardError
from rlgen.rewards import build_composite, load_composite
from rlgen.rewards.callback import RewardStateCallback
from rlgen.rewards.state import STATE_FILE, load_reward_state, newest_state

ROOT = Path(__file__).parents[2]
REWARDS = """
from pathlib import Path

def letters(completions, trainer_state=None, **columns):
    if Path("crash").exists() and trainer_state is not None and trainer_state.global_step >= 2:
        raise RuntimeError("the power is out")
    return [float(sum(c.isalpha() for c in completion)) for completion in completions]

def even(prompts, completions, completion_ids, **columns):
    return [None if "odd" in p else sum(i % 2 == 0 for i in ids) / 4 for p, ids in zip(prompts, completion_ids)]

def digits(prompts, completions, **columns):
    return [None if "odd" in p else float(any(c.isdigit() for c in t)) for p, t in zip(prompts, completions)]
"""
MIX = """
rewards:
  even: {reward: my_rewards.py:even, weight: 0.5, debias_length: true, normalize: true, clip: [-3, 3]}
  letters:
    reward: my_rewards.py:letters
    weight: 0.1
    normalize: true
    gate: {even: 0.1}
    when_closed: -1
    schedule: {start: 0.5, end: 1, until: 0.5}
  both: {ensemble: [my_rewards.py:even, my_rewards.py:digits], aggregate: worst}
"""
PPO = (
    "--dataset_name rows.jsonl --reward_config mix.yaml --max_steps 4 --save_steps 1 --save_total_limit 4 "
    "--per_device_train_batch_size 4 --steps_per_generation 1 --num_generations 2 --max_completion_length 4 "
    "--critic_warmup_rollouts 0 --num_ppo_epochs 1"
)
TWO_PROCESSES = """
import json, os
from pathlib import Path
import recipes.ppo
from rlgen.rewards import build as builder

made = []
build = builder.build_composite
builder.build_composite = lambda *a, **k: made.append(build(*a, **k)) or made[-1]
recipes.ppo.main()
Path(f"state-{os.environ['RANK']}.json").write_text(json.dumps(made[-1].state_dict()))
"""


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A folder with a user's rewards, composition and rows, of which every third is for nobody to grade."""
    monkeypatch.chdir(tmp_path)
    Path("my_rewards.py").write_text(REWARDS)
    Path("mix.yaml").write_text(MIX)
    rows = [{"prompt": f"Say {'odd' if i % 3 == 0 else 'even'} number {i}.", "completion": f"{i}"} for i in range(24)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


@pytest.fixture
def ppo(tiny_llama):
    def run(line, output):
        command = f"--model_name_or_path {tiny_llama} {PPO} --output_dir {output} {line}"
        importlib.import_module("recipes.ppo").main(command.split())
        return [json.loads(text) for text in Path(output, "metrics.jsonl").read_text().splitlines()]

    return run


def state(folder):
    return json.loads(Path(folder, STATE_FILE).read_text())["composite"]


def test_ppo_by_its_command_line_killed_and_resumed_learns_what_the_straight_run_learns(work, ppo, tiny_llama, capsys):
    logged = ppo("", "straight")
    steps = [row for row in logged if "reward" in row]
    assert len(steps) == 4
    for part in ("even", "letters", "both"):
        assert any(f"rewards/{part}/contribution" in row for row in steps)  # a rollout may be all for nobody to grade
    assert steps[0]["rewards/letters/weight"] == pytest.approx(0.05)
    assert steps[-1]["rewards/letters/weight"] == pytest.approx(0.1)
    learned = state("straight")
    assert learned["parts"]["letters"]["moments"]["count"] == 4 * 4
    assert learned["progress"] == 0.75
    assert state("straight/checkpoint-2")["parts"]["letters"]["moments"]["count"] == 2 * 4
    assert newest_state("straight/checkpoint-2") == Path("straight/checkpoint-2")

    Path("crash").touch()
    with pytest.raises(SystemExit):
        ppo("", "killed")
    assert "reward 'letters' raised RuntimeError: the power is out" in capsys.readouterr().err
    assert newest_state("killed") == Path("killed/checkpoint-2")
    Path("crash").unlink()
    resumed = [row for row in ppo("", "killed") if "reward" in row]
    assert state("killed") == learned
    assert resumed[-1]["reward"] == steps[-1]["reward"]

    # The run's composition, with what it has learned, measures other completions.
    rows = [{"prompt": f"Tell even number {i}.", "completion": f"{i}"} for i in range(6)]
    Path("heldout.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    compare = importlib.import_module("recipes.compare").main
    compare(
        f"--checkpoints a={tiny_llama} b=straight --dataset_name heldout.jsonl --reward_config straight "
        "--max_new_tokens 4 --output_dir compared".split()
    )
    results = json.loads(Path("compared/results.json").read_text())
    mix = load_composite("straight")
    for sample in results["samples"]:
        for written in (written for texts in sample["completions"].values() for written in texts):
            raw = {name: [written["scores"][name]] for name in ("even", "letters", "both")}
            (row,) = mix.explain_scores(raw, [written["text"]])
            assert written["scores"]["reward"] == pytest.approx(row.reward, abs=1e-4)

    # The run explains itself; its composition is part of it.
    assert load_composite("killed").state_dict() == learned
    assert load_composite("killed/checkpoint-2").state_dict() == state("killed/checkpoint-2")
    shutil.rmtree("killed/checkpoint-4")
    explain = importlib.import_module("recipes.reward_explain").main
    explain(f"--dataset_name rows.jsonl --checkpoint killed --rows 2 --tokenizer {tiny_llama}".split())
    shown = capsys.readouterr().out
    assert "member 1" in shown
    assert "nothing has been learned" not in shown
    assert shown.strip().splitlines()[-1].startswith("next: ")
    Path("mix.yaml").write_text(MIX.replace("weight: 0.1", "weight: 0.2"))
    record = json.loads(Path("killed/run.json").read_text())
    Path("killed/run.json").write_text(json.dumps({**record, "finished": None}))
    with pytest.raises(SystemExit):
        ppo("", "killed")
    assert "reward_config" in capsys.readouterr().err


def test_rows_that_no_reward_applies_to_are_left_out_and_counted(work, ppo):
    Path("mix.yaml").write_text("rewards: {even: 'my_rewards.py:even', digits: 'my_rewards.py:digits'}")
    steps = [row for row in ppo("", "run") if "reward" in row]
    counts = [row["objective/unscored_rows"] for row in steps]
    assert any(counts)
    for row in steps:
        assert row["objective/unscored_rows"] == row["rewards/composite/unscored"] == 4 * row["objective/unscored"]
        assert row["rewards/even/skipped"] == row["objective/unscored"]


@pytest.fixture
def grpo(tiny_llama):
    def make(reward, output, **settings):
        args = GRPOConfig(
            output,
            **{
                "report_to": "none",
                "bf16": False,
                "use_cpu": True,
                "max_steps": 4,
                "logging_steps": 1,
                "save_strategy": "steps",
                "save_steps": 2,
                "eval_strategy": "steps",
                "eval_steps": 1,
                "per_device_train_batch_size": 4,
                "per_device_eval_batch_size": 4,
                "steps_per_generation": 1,
                "num_generations": 2,
                "max_completion_length": 4,
                "disable_tqdm": True,
                **settings,
            },
        )
        rows = Dataset.from_dict({"prompt": [f"say even number {i}" for i in range(8)]})
        return GRPOTrainer(
            tiny_llama,
            reward,
            args,
            rows,
            eval_dataset=rows.select(range(4)),
            callbacks=[RewardStateCallback([reward])],
        )

    return make


def test_trls_grpo_takes_it_as_it_is(work, grpo):
    import yaml

    rewards = [build_composite(yaml.safe_load(MIX), "mix.yaml") for _ in range(2)]
    straight = grpo(rewards[0], "straight")
    straight.train()
    logged = [row for row in straight.state.log_history if "rewards/even/mean" in row]
    assert len(logged) == 4
    assert all("rewards/composite/mean" in row for row in logged)
    assert any("eval_rewards/even/mean" in row for row in straight.state.log_history)
    # Evaluation has taught it nothing.
    assert rewards[0].state_dict()["parts"]["letters"]["moments"]["count"] == 4 * 4
    for step in (2, 4):
        shutil.copytree(f"straight/checkpoint-{step}", f"resumed/checkpoint-{step}")
    resumed = grpo(rewards[1], "resumed")
    resumed.train(resume_from_checkpoint="resumed/checkpoint-2")
    assert rewards[1].state_dict() == rewards[0].state_dict()


def test_a_checkpoint_of_other_rewards_is_refused(work):
    import yaml

    composite = build_composite(yaml.safe_load(MIX), "mix.yaml")
    with pytest.raises(RewardError, match=r"the rewards cannot go on from .*reward_state.json: FileNotFoundError"):
        load_reward_state("nowhere", [composite])
    Path(STATE_FILE).write_text('{"other": {}}')
    with pytest.raises(RewardError, match="no state of reward 'composite'; it was saved with other rewards"):
        load_reward_state(".", [composite])
    Path(STATE_FILE).write_text('{"composite": {"progress": 1}}')
    with pytest.raises(RewardError, match=r"cannot go on from .*KeyError"):
        load_reward_state(".", [composite])
    load_reward_state("nowhere", [lambda **_: []])  # nothing to restore


@pytest.mark.slow
def test_two_processes_learn_the_same(work, tiny_llama):
    Path("run.py").write_text(TWO_PROCESSES)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "run.py"]
    command += f"--model_name_or_path {tiny_llama} {PPO} --output_dir out".split()
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (json.loads(Path(f"state-{rank}.json").read_text()) for rank in (0, 1))
    assert first == second == state("out")
    assert first["parts"]["letters"]["moments"]["count"] == 2 * 4 * 4
    assert 0 < first["parts"]["even"]["moments"]["count"] < 2 * 4 * 4
