"""The audit on two processes: one audits, both go back, and nobody waits for ever."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlgen.models import load_policy

REWARDS = """
import torch.distributed as dist

def rising(completions, trainer_state, **_):
    return [trainer_state.global_step + row / 10 for row in range(len(completions))]

def falling(completions, trainer_state, **_):
    assert not dist.is_initialized() or dist.get_world_size() == 2
    fall = max(0, trainer_state.global_step - 2)
    return [1.0 - fall * (1 + row / 10) for row in range(len(completions))]
"""


@pytest.mark.slow
def test_two_processes_go_back_together(tiny_llama, tmp_path):
    (tmp_path / "reward.py").write_text(REWARDS)
    for name, verb in (("rows", "Say"), ("held_out", "Tell")):
        rows = [{"prompt": f"{verb} number {i}"} for i in range(24)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    command += [str(root / "recipes" / "ppo.py")]
    command += (
        f"--model_name_or_path {tiny_llama} --dataset_name rows.jsonl --eval_dataset_name held_out.jsonl".split()
    )
    command += "--reward reward.py:rising --audit_reward reward.py:falling --audit_steps 2".split()
    command += "--audit_action rollback --audit_prompts 12 --output_dir out --max_steps 6 --reward_check false".split()
    command += "--per_device_train_batch_size 4 --steps_per_generation 2 --num_generations 2".split()
    command += "--num_ppo_epochs 1 --max_completion_length 8 --top_layers 2 --critic_warmup_rollouts 0".split()
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for line in (tmp_path / "out" / "audit.jsonl").read_text().splitlines()]
    assert [(row["step"], row["action"]) for row in rows] == [(2, "none"), (4, "rollback"), (6, "rollback")]
    assert (tmp_path / "out" / "audit" / "checkpoint-2").is_dir()
    assert done.stderr.count("audit: the weight of the KL penalty is 0.2 from now on") >= 1
    assert load_policy(str(tmp_path / "out"), dtype="float32")
