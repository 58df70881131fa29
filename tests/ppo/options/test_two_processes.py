"""Options on two processes: one KL weight, one set of moments, one decision to stop, rows shared among them."""

from pathlib import Path

import pytest
from safetensors.torch import load_file

# "all": every option at once. "ptx": nothing but the rows of text moves the policy.
SCRIPT = """
import sys
import torch
import torch.distributed as dist
from datasets import Dataset
from peft import LoraConfig
from safetensors.torch import save_file
from rlgen.models import load_policy, load_tokenizer
from rlgen.ppo import PPOConfig, PPOTrainer

folder, processes = sys.argv[1], int(sys.argv[2])
rows = Dataset.from_dict({"prompt": [f"Say {'odd' if i % 3 else 'even'} number {i}" for i in range(48)]})
texts = Dataset.from_dict({
    "prompt": [f"Say word {i}" for i in range(11)],
    "completion": [" It is" + " very" * (i % 4) + " fine." for i in range(11)],
})

def uneven(prompts, completions, completion_ids, **columns):
    return [None if "odd" in prompt else 1.0 - ids[0] % 16 / 16 for prompt, ids in zip(prompts, completion_ids)]

def nothing(prompts, **columns):
    return [0.0] * len(prompts)

def first(prompts, completions, completion_ids, **columns):
    return [None if "even" in p else [0.1] + [0.0] * (len(ids) - 1) for p, ids in zip(prompts, completion_ids)]

def train(name, reward, lora, token_rewards=(), **settings):
    args = PPOConfig(
        output_dir=f"out/{name}", steps_per_generation=2, num_generations=2, max_completion_length=8,
        critic_warmup_rollouts=0, save_strategy="no", bf16=False, use_cpu=True, dataloader_pin_memory=False,
        disable_tqdm=True, ptx_coef=0.5, **settings,
    )
    model = load_policy(folder, dtype="float32")
    adapter = LoraConfig(target_modules=["q_proj"], layers_to_transform=[2, 3], task_type="CAUSAL_LM")
    trainer = PPOTrainer(
        model, reward, args, rows, processing_class=load_tokenizer(folder), peft_config=adapter if lora else None,
        token_reward_funcs=token_rewards, ptx_dataset=texts,
    )
    assert trainer.accelerator.num_processes == processes
    trainer.train()
    return trainer

def same_everywhere(value):
    others = [torch.empty_like(value) for _ in range(processes)]
    dist.all_gather(others, value.contiguous())
    return torch.equal(*others)

size = {"per_device_train_batch_size": 8 // processes, "ptx_batch_size": 4 // processes}
trainer = train(
    "ptx", nothing, False, kl_coef=0.0, max_steps=3, optim="sgd", learning_rate=0.1, max_grad_norm=0.05, **size
)
if trainer.accelerator.is_main_process:
    policy = trainer.accelerator.unwrap_model(trainer.model)
    weights = {name: p.detach().contiguous().clone() for name, p in policy.named_parameters()}
    save_file(weights, f"ptx{processes}.safetensors")
for lora in (True, False) if processes == 2 else ():
    trainer = train(
        f"all-{lora}", uneven, lora, [first], max_steps=12, num_ppo_epochs=2, learning_rate=1e-2, kl_target=0.01,
        kl_horizon=64, normalize_rewards=True, reward_clip=1.0, target_kl=1e-7, entropy_coef=0.01, **size,
    )
    moments, stops = trainer.shaping.moments, [row["policy/stopped_updates"] for row in trainer.state.log_history[:-1]]
    assert 0 < sum(stops) < len(stops), stops
    assert set(stops) == {0.0, 1.0}, "one process stopped alone"
    state = [trainer.kl_control.kl_coef, moments.count, moments.mean, moments.squares]
    assert same_everywhere(torch.tensor(state, dtype=torch.float64)), state
    assert moments.count < 3 * 16
    assert all(same_everywhere(p.detach()) for p in trainer.model.parameters())
    if trainer.accelerator.is_main_process:
        print("alike, lora", lora)
"""


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_two_processes_decide_alike_and_share_the_rows(tiny_llama, tools, tmp_path, launch):
    (tmp_path / "script.py").write_text(SCRIPT)
    for processes in (1, 2):
        done = launch(["script.py", tiny_llama, str(processes)], tmp_path, processes)
    assert "alike, lora True" in done.stdout
    assert "alike, lora False" in done.stdout
    alone, together = (load_file(tmp_path / f"ptx{processes}.safetensors") for processes in (1, 2))
    assert tools.same(alone, together, atol=1e-6, rtol=1e-5)
    start = load_file(Path(tiny_llama) / "model.safetensors")
    name = "model.embed_tokens.weight"
    assert not tools.same({name: start[name]}, {name: alone[name]}, atol=1e-4)
