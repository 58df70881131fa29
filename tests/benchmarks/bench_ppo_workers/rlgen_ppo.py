"""rlgen's PPOTrainer; `job.options["top_layers"]` puts the adapters on the top decoder layers only."""

import rlgen  # isort: skip  # noqa: F401  (it sets what the libraries below read when they are imported)

from typing import Any

import torch
from datasets import Dataset
from job import Job
from recorder import Recorder, RolloutBorders, cpu_flags, train

from rlgen.config import ModelArguments
from rlgen.models import load_policy, load_tokenizer
from rlgen.ppo import PPOConfig, PPOTrainer
from rlgen.tuning import decoder_layers, peft_config


def parameters(trainer: PPOTrainer) -> dict[str, int]:
    """How many parameters do what, for the count of floating-point operations."""
    policy = trainer.accelerator.unwrap_model(trainer.model)
    layers = decoder_layers(policy)
    lora = sum(p.numel() for n, p in layers.named_parameters() if "lora_" in n)
    frozen = sum(p.numel() for n, p in layers.named_parameters() if "lora_" not in n and p.ndim == 2)
    return {
        "layers": len(layers),
        "trunk_layers": trainer.trunk_depth,
        "layer_parameters": frozen // len(layers),
        "lora_parameters": lora,
        "head_parameters": policy.get_output_embeddings().weight.numel(),
    }


def prompt_tokens(trainer: PPOTrainer) -> Any:
    """Count the prompt tokens of every rollout, each prompt once."""
    counts: list[int] = []
    original = trainer._generate_single_turn

    def counting(prompt_ids: list[list[int]], *args: Any, **kwargs: Any) -> Any:
        counts.append(sum(map(len, {tuple(ids) for ids in prompt_ids})))
        return original(prompt_ids, *args, **kwargs)

    trainer._generate_single_turn = counting
    return counts


def main() -> None:
    job = Job.read()
    torch.manual_seed(job.seed)
    recorder = Recorder(job)
    options = dict(job.options)
    top_layers = options.pop("top_layers", None)
    args = PPOConfig(
        output_dir=job.output_dir,
        per_device_train_batch_size=job.minibatch,
        steps_per_generation=job.minibatches,
        num_generations=job.num_generations,
        num_ppo_epochs=job.epochs,
        max_completion_length=job.max_new_tokens,
        temperature=job.temperature,
        kl_coef=job.kl_coef,
        gamma=job.gamma,
        lam=job.lam,
        cliprange=job.cliprange,
        cliprange_value=job.cliprange_value,
        learning_rate=job.learning_rate,
        max_grad_norm=job.max_grad_norm,
        max_steps=job.updates * job.planned_rollouts,
        save_strategy="no",
        disable_tqdm=True,
        logging_steps=10**9,
        seed=job.seed,
        **{"critic_warmup_rollouts": 4 if job.minutes else 0, **options},
        **cpu_flags(job),
    )
    model = load_policy(job.model, dtype=job.dtype)
    adapter = None
    if job.lora_r:
        lora = ModelArguments(lora_r=job.lora_r, lora_alpha=2 * job.lora_r, top_layers=top_layers)
        adapter = peft_config(lora, model)
    trainer = PPOTrainer(
        model=model,
        reward_funcs=recorder.reward_function(),
        args=args,
        train_dataset=Dataset.from_list(job.read_rows()),
        processing_class=load_tokenizer(job.model),
        peft_config=adapter,
        callbacks=[RolloutBorders(recorder, job.updates)],
    )
    counts = prompt_tokens(trainer)
    recorder.time_calls(trainer, "_generate_single_turn", "rollout")
    recorder.time_calls(trainer, "_generate_and_score_completions", "rollout_and_scoring")
    extra = {"parameters": parameters(trainer)} if job.lora_r else {}
    train(trainer)
    if job.minutes:
        trainer.accelerator.unwrap_model(trainer.model).save_pretrained(job.output_dir)
    recorder.finish(prompt_tokens=counts, **extra)


if __name__ == "__main__":
    main()
