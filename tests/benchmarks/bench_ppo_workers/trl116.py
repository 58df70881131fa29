"""TRL 1.16's GRPOTrainer and RLOOTrainer with LoRA, as they come, with gradient checkpointing off for speed."""

import torch
from datasets import Dataset
from job import Job
from peft import LoraConfig
from recorder import Recorder, RolloutBorders, cpu_flags, train
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

TRAINERS = {"grpo": (GRPOTrainer, GRPOConfig), "rloo": (RLOOTrainer, RLOOConfig)}


def main() -> None:
    job = Job.read()
    torch.manual_seed(job.seed)
    recorder = Recorder(job)
    trainer_class, config_class = TRAINERS[job.options["trainer"]]
    args = config_class(
        output_dir=job.output_dir,
        per_device_train_batch_size=job.minibatch,
        steps_per_generation=job.minibatches,
        num_generations=job.num_generations,
        num_iterations=job.epochs,
        max_completion_length=job.max_new_tokens,
        temperature=job.temperature,
        beta=job.kl_coef,
        epsilon=job.cliprange,
        learning_rate=job.learning_rate,
        lr_scheduler_type="constant",
        max_grad_norm=job.max_grad_norm,
        max_steps=job.updates * job.planned_rollouts,
        gradient_checkpointing=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        logging_steps=10**9,
        seed=job.seed,
        **cpu_flags(job),
    )
    trainer = trainer_class(
        model=AutoModelForCausalLM.from_pretrained(job.model, dtype=getattr(torch, job.dtype)),
        reward_funcs=recorder.reward_function(),
        args=args,
        train_dataset=Dataset.from_list(job.read_rows()),
        processing_class=AutoTokenizer.from_pretrained(job.model, padding_side="left"),
        peft_config=LoraConfig(
            r=job.lora_r, lora_alpha=2 * job.lora_r, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
        callbacks=[RolloutBorders(recorder, job.updates)],
    )
    recorder.time_calls(trainer, "_generate_single_turn", "rollout")
    recorder.time_calls(trainer, "_generate_and_score_completions", "rollout_and_scoring")
    train(trainer)
    if job.minutes:
        trainer.accelerator.unwrap_model(trainer.model).save_pretrained(job.output_dir)
    recorder.finish()


if __name__ == "__main__":
    main()
