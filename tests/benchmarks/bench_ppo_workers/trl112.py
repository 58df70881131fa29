"""TRL 1.12's PPOTrainer (trl.experimental.ppo), in the fastest way that its interface allows.

- Policy: LoRA; the reference is the same model with adapters off.
- Value model: as in TRL's example a sequence classifier from the same checkpoint. The example trains all of it; here
  it gets a LoRA adapter like the policy's and a float32 score head, which saves time and memory.
- Reward model: its interface wants a module with a backbone and a score head. `PythonReward` decodes the completions
  and calls the plain Python reward, so that no model is paid for.
- Minibatches: one optimizer step a minibatch needs `gradient_accumulation_steps=1` and the whole rollout as the batch
  size, since its accumulation counts over minibatches.
- Number format: the frozen weights are loaded in the job's, adapters are float32. Mixed precision on top (which this
  trainer takes from accelerate's launcher only, and only for updates) is a little slower and is left out; all in
  float32 takes half as long again.
- Gradient checkpointing is off, the learning rate constant, debug samples are off.
"""

from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import torch
from datasets import Dataset
from job import Job
from peft import LoraConfig, inject_adapter_in_model
from recorder import Recorder, RolloutBorders, cpu_flags, train
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer


class PythonReward(nn.Module):
    """A reward function in the shape of TRL's reward model: the same score at every position.

    Args:
        reward: with TRL's signature for reward functions.
        tokenizer: decodes completions.
        rows: rows by their prompt's tokens, from which the reward's columns come.
    """

    base_model_prefix = "backbone"

    def __init__(self, reward: Any, tokenizer: Any, rows: dict[tuple[int, ...], dict[str, Any]]) -> None:
        super().__init__()
        self.score = nn.Identity()
        self.reward, self.tokenizer, self.rows = reward, tokenizer, rows
        self.lengths = sorted({len(ids) for ids in rows}, reverse=True)

    def backbone(self, input_ids: Tensor, attention_mask: Tensor, **_: Any) -> SimpleNamespace:
        prompts, completions, columns = [], [], []
        for ids, keep in zip(input_ids, attention_mask.bool(), strict=True):
            tokens = ids[keep].tolist()
            length = next(n for n in self.lengths if tuple(tokens[:n]) in self.rows)
            prompts.append(tuple(tokens[:length]))
            completions.append(tokens[length:])
        columns = [self.rows[prompt] for prompt in prompts]
        scores = self.reward(
            completions=self.tokenizer.batch_decode(completions, skip_special_tokens=True),
            completion_ids=completions,
            **{name: [row[name] for row in columns] for name in columns[0] if name != "prompt"},
        )
        scores = torch.tensor([score or 0.0 for score in scores], device=input_ids.device)
        return SimpleNamespace(hidden_states=[scores[:, None, None].expand(*input_ids.shape, 1)])


class FloatHead(nn.Linear):
    """A score head in float32, which small steps can move."""

    def forward(self, hidden: Tensor) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            return super().forward(hidden.float())


def lora(job: Job) -> LoraConfig:
    linear = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    return LoraConfig(r=job.lora_r, lora_alpha=2 * job.lora_r, target_modules=linear, task_type="CAUSAL_LM")


def value_model(job: Job) -> nn.Module:
    model = AutoModelForSequenceClassification.from_pretrained(
        job.model, num_labels=1, dtype=getattr(torch, job.dtype)
    )
    head = FloatHead(model.config.hidden_size, 1, bias=False)
    nn.init.normal_(head.weight, std=model.config.initializer_range)
    if job.lora_r and job.options.get("value_lora", True):
        inject_adapter_in_model(lora(job), model)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    model.score = head
    return model


def main() -> None:
    job = Job.read()
    torch.manual_seed(job.seed)
    recorder = Recorder(job)
    tokenizer = AutoTokenizer.from_pretrained(job.model, padding_side="left")
    by_tokens = {}
    for row in job.read_rows():
        plain = isinstance(row["prompt"], str)
        text = (
            row["prompt"]
            if plain
            else tokenizer.apply_chat_template(row["prompt"], tokenize=False, add_generation_prompt=True)
        )
        by_tokens[tuple(tokenizer(text, add_special_tokens=plain)["input_ids"])] = row
    prompts = [list(ids) for ids in by_tokens for _ in range(job.num_generations)]
    if len(prompts) < job.samples:  # TRL would wait for a first whole batch forever
        raise SystemExit(f"{job.rows} has {len(by_tokens)} distinct prompts, but a rollout takes {job.prompts}")

    args = PPOConfig(
        output_dir=job.output_dir,
        per_device_train_batch_size=job.samples,
        gradient_accumulation_steps=1,
        num_mini_batches=job.minibatches,
        local_rollout_forward_batch_size=job.options.get("rollout_batch", job.samples),
        num_ppo_epochs=job.epochs,
        total_episodes=job.samples * job.planned_rollouts,
        response_length=job.max_new_tokens,
        stop_token="eos",
        temperature=job.temperature,
        kl_coef=job.kl_coef,
        vf_coef=job.vf_coef,
        gamma=job.gamma,
        lam=job.lam,
        cliprange=job.cliprange,
        cliprange_value=job.cliprange_value,
        whiten_rewards=False,
        learning_rate=job.learning_rate,
        lr_scheduler_type="constant",
        gradient_checkpointing=False,
        num_sample_generations=0,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        logging_steps=10**9,
        seed=job.seed,
        **cpu_flags(job),
    )
    trainer = PPOTrainer(
        args=args,
        processing_class=tokenizer,
        model=AutoModelForCausalLM.from_pretrained(job.model, dtype=getattr(torch, job.dtype)),
        ref_model=None,
        reward_model=PythonReward(recorder.reward_function(), tokenizer, by_tokens),
        value_model=value_model(job),
        train_dataset=Dataset.from_dict({"input_ids": prompts}),
        peft_config=lora(job) if job.lora_r else None,
        callbacks=[RolloutBorders(recorder, 1)],
    )
    recorder.time_calls(ppo_trainer, "batch_generation", "rollout")
    accumulate = trainer.accelerator.accumulate

    def timed_accumulate(*models: Any) -> Any:
        stack = ExitStack()
        stack.enter_context(recorder.phase("update"))
        stack.enter_context(accumulate(*models))
        return stack

    trainer.accelerator.accumulate = timed_accumulate  # each micro-batch of an update runs inside of it
    train(trainer)
    if job.minutes:
        trainer.policy_model.save_pretrained(job.output_dir)
    recorder.finish()


if __name__ == "__main__":
    main()
