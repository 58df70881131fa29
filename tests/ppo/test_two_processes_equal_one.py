"""Two processes give the update of one with twice the batch, metrics included, and save a folder that loads."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from rlgen.models import load_policy

# Completions follow from their prompt and their place beside it, and minibatches are not shuffled, so that both ways
# see the same tokens in the same minibatches. Everything else is as in any run.
SCRIPT = """
import json, sys
import torch
import trl.trainer.grpo_trainer
from datasets import Dataset
from peft import LoraConfig
from safetensors.torch import save_file
import rlgen.ppo.trainer
from rlgen.decoding import Sampled
from rlgen.models import load_policy, load_tokenizer
from rlgen.ppo import PPOConfig, PPOTrainer

folder, processes = sys.argv[1], int(sys.argv[2])
rows = Dataset.from_dict({"prompt": [f"Say {'odd' if i % 5 else 'even'} number {i}" for i in range(48)]})
MINIBATCHES, GROUP = 2, 2

def fixed(model, prompt_ids, *, num_generations, max_new_tokens, eos_token_ids, **_):
    tokens = []
    for ids in prompt_ids:
        for place in range(num_generations):
            start = sum(i * token for i, token in enumerate(ids, 1)) + 31 * place
            length = 1 + start % max_new_tokens
            drawn = [5 + (start * (t + 3)) % 50 for t in range(length)]
            tokens.append(drawn if length == max_new_tokens else [*drawn[:-1], eos_token_ids[0]])
    return Sampled(tokens=tokens, logprobs=[[0.0] * len(ids) for ids in tokens], hidden={})

def interleaved(rollout):
    # One process: of what two would hold in halves, each minibatch takes a part of either.
    count = len(rollout["input_ids"])
    order = torch.arange(count)
    order = order.view(2, MINIBATCHES, -1).transpose(0, 1).flatten() if processes == 1 else order
    return {
        key: value[order] if isinstance(value, torch.Tensor) and value.ndim else value
        for key, value in rollout.items()
    }

def uneven(prompts, completions, completion_ids, **columns):
    return [None if "even" in prompt else ids[0] % 7 - len(ids) / 4 for prompt, ids in zip(prompts, completion_ids)]

rlgen.ppo.trainer.sample = fixed
trl.trainer.grpo_trainer.shuffle_sequence_dict = interleaved
for name, settings in json.loads(sys.argv[3]).items():
    lora = settings.pop("lora")
    args = PPOConfig(
        output_dir=f"{processes}/{name}", per_device_train_batch_size=8 // processes,
        steps_per_generation=MINIBATCHES, num_generations=GROUP, num_ppo_epochs=2, max_steps=8,
        max_completion_length=9, critic_warmup_rollouts=1, critic_minibatches=1, critic_dropout=0.0,
        critic_replay_rollouts=1, critic_learning_rate=1e-3, adam_epsilon=1e-4,
        save_strategy="no", bf16=False, use_cpu=True, dataloader_pin_memory=False, disable_tqdm=True,
        **{"learning_rate": 1e-2, **settings},
    )
    model = load_policy(folder, dtype="float32")
    torch.manual_seed(0)  # an adapter starts at random
    adapter = LoraConfig(r=4, target_modules=["q_proj", "up_proj"], layers_to_transform=[2, 3], task_type="CAUSAL_LM")
    trainer = PPOTrainer(
        model, uneven, args, rows, processing_class=load_tokenizer(folder), peft_config=adapter if lora else None
    )
    assert trainer.accelerator.num_processes == processes
    trainer.train()
    trainer.save_model()
    if trainer.accelerator.is_main_process:
        policy = trainer.accelerator.unwrap_model(trainer.model)
        weights = {name: p.detach().contiguous().clone() for name, p in policy.named_parameters() if p.requires_grad}
        save_file(weights, f"{processes}/{name}.safetensors")
        with open(f"{processes}/{name}.json", "w") as file:
            json.dump(trainer.state.log_history, file)
"""

SETTINGS = {
    "frozen": {"lora": True, "critic": "frozen"},
    "adapter": {"lora": True, "critic": "adapter"},
    "full": {"lora": False, "critic": "head", "gradient_accumulation_steps": 2, "learning_rate": 1e-3},
    "options": {
        "lora": True,
        "kl_target": 0.5,
        "kl_horizon": 64,
        "normalize_rewards": True,
        "whiten_rewards": True,
        "entropy_coef": 0.01,
        "missing_eos_penalty": 0.5,
    },
}
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]
TIMES = {"train_runtime", "train_samples_per_second", "train_steps_per_second", "step_time", "total_flos"}


@pytest.fixture(scope="module")
def runs(tiny_llama, tmp_path_factory, launch) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    (folder / "script.py").write_text(SCRIPT)
    for processes in (1, 2):
        launch(["script.py", tiny_llama, str(processes), json.dumps(SETTINGS)], folder, processes)
    return folder


@pytest.mark.parametrize("name", SETTINGS)
def test_two_processes_give_the_same_update_as_one_with_twice_the_batch(runs, tiny_llama, name):
    for file in (f"{name}.safetensors", f"{name}/critic/critic.safetensors"):
        alone, together = (load_file(runs / str(processes) / file) for processes in (1, 2))
        assert alone.keys() == together.keys()
        for key, value in alone.items():
            torch.testing.assert_close(together[key], value, atol=1e-5, rtol=1e-4, msg=lambda m, k=key: f"{k}: {m}")
    start = load_file(Path(tiny_llama) / "model.safetensors")
    weights = load_file(runs / "1" / f"{name}.safetensors")
    moved = [
        value for key, value in weights.items() if "lora_B" in key or not torch.equal(value, start.get(key, value))
    ]
    assert max(float(value.abs().max()) for value in moved) > 1e-3


@pytest.mark.parametrize("name", SETTINGS)
def test_two_processes_log_what_one_logs(runs, name):
    alone, together = (json.loads((runs / str(processes) / f"{name}.json").read_text()) for processes in (1, 2))
    assert len(alone) == 9  # eight updates and the summary
    for one, two in zip(alone, together, strict=True):
        assert one.keys() == two.keys()
        for key in one.keys() - TIMES:
            assert two[key] == pytest.approx(one[key], abs=2e-4, rel=1e-3, nan_ok=True), (one["step"], key)


def test_the_saved_folders_load_in_plain_libraries(runs, tiny_llama):
    ids = torch.tensor([[5, 6, 7]])
    for name, settings in SETTINGS.items():
        folder = runs / "2" / name
        if settings["lora"]:
            loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_llama), folder)
            weights = load_file(runs / "2" / f"{name}.safetensors")
            held = {key: value for key, value in loaded.state_dict().items() if key in weights}
            assert held.keys() == weights.keys()
            assert all(torch.equal(held[key], weights[key]) for key in weights)
        else:
            loaded = AutoModelForCausalLM.from_pretrained(folder)
        with torch.no_grad():
            torch.testing.assert_close(loaded(ids).logits, load_policy(str(folder), dtype="float32")(ids).logits)
