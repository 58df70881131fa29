"""PPO on two processes: same collectives on both, one folder that loads."""

import json
from pathlib import Path

import pytest

from rlgen.models import load_policy

REWARD = """
import torch.distributed as dist

def short(prompts, completions, completion_ids, **columns):
    assert dist.get_world_size() == 2
    # Uneven on purpose: rows without a score leave the processes with different numbers of tokens.
    return [None if "odd" in prompt else 1.0 - len(ids) / 16 for prompt, ids in zip(prompts, completion_ids)]
"""


@pytest.mark.slow
@pytest.mark.timeout(1600)
def test_two_processes_train_together_and_save_one_folder(tiny_llama, tmp_path, launch):
    (tmp_path / "reward.py").write_text(REWARD)
    rows = [{"prompt": f"Say {'odd' if i % 3 else 'even'} number {i}"} for i in range(48)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    root = Path(__file__).parents[2]
    command = [str(root / "recipes" / "ppo.py")]
    command += f"--model_name_or_path {tiny_llama} --dataset_name rows.jsonl --reward reward.py:short".split()
    command += "--output_dir out --max_steps 8 --per_device_train_batch_size 4 --steps_per_generation 2".split()
    command += "--num_generations 2 --max_completion_length 8 --top_layers 2 --critic_warmup_rollouts 1".split()
    launch(command, tmp_path)
    logged = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert logged[0]["objective/kl"] == 0
    assert 0 < logged[0]["objective/unscored"] < 1
    assert load_policy(str(tmp_path / "out"), dtype="float32")
    assert (tmp_path / "out" / "critic" / "critic.safetensors").is_file()
