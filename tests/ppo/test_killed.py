"""A run that is killed with SIGKILL between the epochs of a rollout goes on as if nothing had been."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1600)]

# Two epochs of two minibatches a rollout: steps 1 to 4, 5 to 8, 9 to 12. A checkpoint lies behind each rollout.
REWARD = """
def even(prompts, completions, **columns):
    return [len(set(text)) / (len(text) + 1) for text in completions]
"""
WAITING = """
import sys, time
from pathlib import Path
from transformers import Trainer, TrainerCallback
import recipes.ppo

class Wait(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == int(sys.argv[1]):  # the checkpoint of an earlier step is complete by now
            Path("waiting").write_text(str(state.global_step))
            time.sleep(600)

made = Trainer.__init__
def waiting(self, *args, **kwargs):
    made(self, *args, **kwargs)
    self.add_callback(Wait())
Trainer.__init__ = waiting
recipes.ppo.main(sys.argv[2:])
"""


def flags(model: str, output_dir: str, critic: str) -> list[str]:
    return (
        f"--model_name_or_path {model} --dataset_name rows.jsonl --reward reward.py:even --output_dir {output_dir} "
        "--per_device_train_batch_size 4 --steps_per_generation 2 --num_generations 2 --num_ppo_epochs 2 "
        "--max_completion_length 6 --max_steps 12 --save_steps 4 --top_layers 2 --critic_warmup_rollouts 1 "
        f"--critic {critic} --normalize_rewards true --kl_target 0.1 --kl_horizon 100 --bf16 false --dtype float32"
    ).split()


def test_a_run_killed_between_the_epochs_of_a_rollout_goes_on_exactly(tiny_llama, tmp_path):
    critic, step = "adapter", 6  # two of its four updates are done
    (tmp_path / "reward.py").write_text(REWARD)
    (tmp_path / "waiting.py").write_text(WAITING)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"prompt": f"Say number {i}"}) + "\n" for i in range(32)))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}

    def run(output_dir: str) -> None:
        command = [sys.executable, "-m", "recipes.ppo", *flags(tiny_llama, output_dir, critic)]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr[-4000:]

    run("straight")
    command = [sys.executable, "waiting.py", str(step), *flags(tiny_llama, "killed", critic)]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
        deadline = time.monotonic() + 600
        while not (tmp_path / "waiting").exists():
            assert process.poll() is None, (tmp_path / "log").read_text()[-4000:]
            assert time.monotonic() < deadline
            time.sleep(0.1)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait(60) == -signal.SIGKILL
    killed = tmp_path / "killed"
    assert [folder.name for folder in killed.glob("checkpoint-*")] == ["checkpoint-4"]
    assert not (killed / "adapter_model.safetensors").exists()

    run("killed")
    straight = tmp_path / "straight"
    for file in ("adapter_model.safetensors", "critic/critic.safetensors"):
        one, two = load_file(straight / file), load_file(killed / file)
        assert one.keys() == two.keys()
        assert all(torch.equal(value, two[name]) for name, value in one.items()), file
    for file in ("optimizer.pt", "critic/critic_state.pt"):
        one, two = (torch.load(folder / "checkpoint-12" / file, weights_only=True) for folder in (straight, killed))
        assert equal(one, two), file
    state = "checkpoint-12/ppo_state.json"
    assert (straight / state).read_text() == (killed / state).read_text()
    assert metrics(straight) == metrics(killed)
    assert len(metrics(straight)) >= 12


def equal(one, two) -> bool:
    """Whether two nests of dictionaries, lists and tensors are equal to the bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(equal(value, two[key]) for key, value in one.items())
    if isinstance(one, (list, tuple)):
        return len(one) == len(two) and all(map(equal, one, two))
    return one == two


def metrics(folder: Path) -> list[dict[str, float]]:
    """What was logged in each step, without what depends on the clock."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    clock = ("time", "step_time", "total_flos")
    return [
        {key: value for key, value in row.items() if key not in clock and not key.startswith("train_")} for row in rows
    ]
