"""Ways of tuning under PPO: policy and reference start alike, and nothing trains but what should."""

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from datasets import Dataset

from rlgen.config import ModelArguments
from rlgen.models import load_policy, load_tokenizer, save_model
from rlgen.ppo import PPOConfig, PPOTrainer
from rlgen.runs import open_run
from rlgen.strategies import STRATEGIES
from rlgen.tuning import loading_options, start_tuning
from rlgen.tuning_callbacks import tuning_callbacks

ROWS = Dataset.from_dict({"prompt": [f"Say number {i}" + " please" * (i % 3) for i in range(16)]})
NAMES = [name for name, strategy in STRATEGIES.items() if "ppo" in strategy.stages]


def even_tokens(prompts, completions, completion_ids, **_):
    return [sum(token % 2 == 0 for token in ids) / max(len(ids), 1) for ids in completion_ids]


def make(folder: str, args: ModelArguments, output_dir: Path, critic: str) -> PPOTrainer:
    torch.manual_seed(0)
    model = load_policy(folder, dtype="float32", **loading_options(args))
    adapter = start_tuning(args, model)
    settings = PPOConfig(
        output_dir=str(output_dir),
        critic=critic,
        max_steps=4,
        per_device_train_batch_size=8,
        steps_per_generation=1,
        num_generations=4,
        num_ppo_epochs=2,
        learning_rate=1e-2,
        max_completion_length=5,
        critic_warmup_rollouts=0,
        save_strategy="no",
        bf16=False,
        use_cpu=True,
        dataloader_pin_memory=False,
        disable_tqdm=True,
    )
    return PPOTrainer(
        model,
        even_tokens,
        settings,
        ROWS,
        processing_class=load_tokenizer(folder),
        peft_config=adapter,
        callbacks=tuning_callbacks(args, open_run(output_dir, stage="ppo", config={})),
    )


def snapshot(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(torch.tensor([[5, 6, 7, 8]])).logits


@pytest.mark.parametrize("name", NAMES)
def test_two_rollouts_train_what_the_strategy_names_and_leave_the_reference(name, tiny_llama, tiny_gpt2, tmp_path):
    settings = {"lora_r": 4} if "lora_r" in STRATEGIES[name].settings else {}
    settings |= {"unfreeze_until": 0.25} if name == "gradual" else {}
    args = ModelArguments(tuning=name, **settings)
    adapter = STRATEGIES[name].kind == "adapter"
    folder = tiny_gpt2 if name == "bitfit" else tiny_llama
    trainer = make(folder, args, tmp_path / "run", "adapter" if adapter else "head")
    before, base = snapshot(trainer.model), logits(trainer.model)
    trained = {key for key, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    trainer.train()
    after = snapshot(trainer.model)
    kl = [row["objective/kl"] for row in trainer.state.log_history if row.get("objective/kl") is not None]
    assert kl[0] == pytest.approx(0, abs=1e-4)  # of the first rollout
    assert abs(kl[-1]) > 1e-4
    # bitsandbytes lays 4-bit weights out anew when they are first used; the base's outputs below tell of any change.
    same_layout = {key for key in before if before[key].dtype != torch.uint8}
    assert {key for key in same_layout if not torch.equal(before[key], after[key])} == trained
    assert (trainer.reference is None) == adapter
    rounding = {"atol": 0.03 if name == "qlora" else 1e-5, "rtol": 1e-4}
    with trainer.model.disable_adapter() if adapter else nullcontext():
        reference = logits(trainer.model if adapter else trainer.reference)
    torch.testing.assert_close(reference, base, **rounding)
    assert (logits(trainer.model) - base).abs().max() > 5 * rounding["atol"]

    save_model(trainer.model, load_tokenizer(folder), tmp_path / "saved", merge=False)
    loaded = load_policy(str(tmp_path / "saved"), dtype="float32", **loading_options(args))
    torch.testing.assert_close(logits(loaded), logits(trainer.model), **rounding)
