"""Critics on two processes, each with rollouts of its own: gradients are averaged, so that weights stay the same."""

import json

import pytest

SCRIPT = """
import json, sys
import torch
import torch.distributed as dist
from datasets import Dataset
from peft import LoraConfig
from rlgen.models import load_policy, load_tokenizer
from rlgen.ppo import PPOConfig, PPOTrainer

folder, kinds = sys.argv[1], json.loads(sys.argv[2])

def uneven(prompts, completions, completion_ids, **columns):
    assert dist.get_world_size() == 2
    return [None if "odd" in prompt else 1.0 - len(ids) / 16 for prompt, ids in zip(prompts, completion_ids)]

rows = Dataset.from_dict({"prompt": [f"Say {'odd' if i % 3 else 'even'} number {i}" for i in range(48)]})
for kind, settings in kinds.items():
    args = PPOConfig(
        output_dir=f"out/{kind}", max_steps=4, per_device_train_batch_size=4, steps_per_generation=2,
        num_generations=2, num_ppo_epochs=1, max_completion_length=8, critic_warmup_rollouts=1,
        save_strategy="no", bf16=False, use_cpu=True, dataloader_pin_memory=False, disable_tqdm=True, **settings,
    )
    model = load_policy(folder, dtype="float32")
    adapter = LoraConfig(target_modules=["q_proj"], layers_to_transform=[2, 3], task_type="CAUSAL_LM")
    trainer = PPOTrainer(model, uneven, args, rows, processing_class=load_tokenizer(folder), peft_config=adapter)
    start = {name: value.clone() for name, value in trainer.critic.state_dict().items()}
    trainer.train()
    moved = 0
    for name, value in trainer.critic.state_dict().items():
        others = [torch.empty_like(value) for _ in range(2)]
        dist.all_gather(others, value.contiguous())
        assert torch.equal(*others), f"{kind}: {name} differs"
        moved += not torch.equal(value, start[name])
    assert moved >= 3
    first = torch.tensor([trainer.critic.replay[-1][-1].sum()])
    others = [torch.empty_like(first) for _ in range(2)]
    dist.all_gather(others, first)
    assert not torch.equal(*others), "both processes had the same rollout"
    if trainer.accelerator.is_main_process:
        print("same weights:", kind)
"""


@pytest.mark.slow
@pytest.mark.timeout(1600)
def test_critics_of_two_processes_stay_the_same(tiny_llama, critic_settings, tmp_path, launch):
    (tmp_path / "script.py").write_text(SCRIPT)
    done = launch(["script.py", tiny_llama, json.dumps(critic_settings)], tmp_path)
    for kind in critic_settings:
        assert f"same weights: {kind}" in done.stdout
