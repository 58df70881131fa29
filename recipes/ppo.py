"""Proximal policy optimisation: improve a policy against reward functions, a trained reward model, or a mix.

    rlgen ppo --config recipes/configs/docstring/ppo.yaml
    rlgen ppo --model_name_or_path runs/sft --dataset_name rows.jsonl --reward my_rewards.py:politeness

Needs a model that answers in the right form already (see `rlgen sft`) and rows with `prompt`; further columns reach
the rewards as keyword arguments. The docstring settings take about six minutes on two CPU cores. Leaves an adapter
folder whose base is the model it started from (a plain model after full fine-tuning), the critic in critic/, run.json
and metrics.jsonl. The same command goes on with an interrupted run.
"""

import rlgen  # isort: skip  # noqa: F401  (it sets what the libraries below read when they are imported)

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from transformers import set_seed

from rlgen.audit import AuditArguments, AuditCallback, check_audit, settings, watched_measures
from rlgen.best_checkpoint import best_checkpoint
from rlgen.config import ModelArguments, TaskArguments, fit_to_machine, parse_arguments, recipe, resolved_config
from rlgen.controls import ControlArguments, controlled, require_heldout
from rlgen.data import check_disjoint, load_rows
from rlgen.dropout import set_dropout
from rlgen.errors import ConfigError
from rlgen.evaluation.rows import with_reference
from rlgen.families import check_family
from rlgen.models import load_policy, load_tokenizer, save_model, starting_model
from rlgen.optimizers import use_optimizer
from rlgen.ppo import PPOConfig, PPOTrainer
from rlgen.ppo.state import restore_best
from rlgen.rewards import check_rewards, load_reward, load_rewards, load_token_rewards, save_reward_state
from rlgen.rewards.spec import read_spec
from rlgen.runs import open_run
from rlgen.strategies import check_tuning
from rlgen.tasks import get_task
from rlgen.tuning import loading_options, start_tuning
from rlgen.tuning_callbacks import tuning_callbacks


@dataclass
class PPOArguments(ControlArguments, PPOConfig, AuditArguments):
    """Settings of PPO, its rewards, their audit, and the training controls."""

    reward: list[str] | None = field(
        default=None,
        metadata={
            "help": "Rewards: a task's short name, module:function, file.py:function, or the folder of a trained "
            "reward model; default are the task's. Weights: --reward_weights."
        },
    )
    reward_config: str | None = field(
        default=None,
        metadata={
            "help": "YAML file that composes rewards with options, gates, normalisation and schedules, in place of "
            "--reward and --reward_weights; see docs/rewards/composition.md."
        },
    )
    token_reward: list[str] | None = field(
        default=None,
        metadata={
            "help": "Rewards of single tokens, module:function or file.py:function, which return a list of numbers a "
            "completion, one per token. Weights: --token_reward_weights."
        },
    )
    reward_check: bool = field(
        default=True,
        metadata={
            "help": "Try the rewards on a few rows and odd completions before anything long starts, as the fast form "
            "of rlgen reward check."
        },
    )
    reward_timeout: float | None = field(
        default=None, metadata={"help": "Seconds that one call of a reward may take; longer, and the run stops."}
    )
    ptx_dataset_name: str | None = field(
        default=None,
        metadata={
            "help": "Prompt and completion rows for --ptx_coef, in the formats of --dataset_name; default are the "
            "task's sft rows."
        },
    )
    bf16: bool | None = field(default=None, metadata={"help": "Mixed precision; default where the device is fast."})
    eval_strategy: str = field(default="no", metadata={"help": "When to score samples for validation prompts."})
    save_total_limit: int | None = field(default=2, metadata={"help": "How many checkpoints to keep."})
    disable_tqdm: bool | None = field(default=True, metadata={"help": "Leave the progress display to rlgen."})

    def __post_init__(self) -> None:
        """Choose the number format that this machine is fast in."""
        if self.reward_timeout is not None and self.reward_timeout <= 0:
            raise ValueError(f"reward_timeout must be above 0 seconds, not {self.reward_timeout}")
        fit_to_machine(self)
        with controlled(self, "ppo"):
            super().__post_init__()
        check_audit(self, self.kl_coef)


@recipe
def main(argv: Sequence[str] | None = None) -> None:
    """Train, save, and say what comes next."""
    args, data, model_args = parse_arguments(
        (PPOArguments, TaskArguments, ModelArguments),
        description="PPO with a learned critic against reward functions.",
        argv=argv,
    )
    check_tuning(
        model_args,
        "ppo",
        critic=args.critic,
        gradient_checkpointing=args.gradient_checkpointing,
        disable_dropout=args.disable_dropout,
    )
    check_family(model_args, "ppo", trust_remote_code=args.trust_remote_code, settings=args)
    args.settle_learning_rate(adapters=model_args.use_peft)  # so that run.json says which it is
    config = resolved_config(args, data, model_args)
    if args.reward_config is not None:
        config["reward_config"] = read_spec(args.reward_config)  # what it says, so that a changed file is another run
    run = open_run(args.output_dir, stage="ppo", config=config)
    next_command = (
        f"next: rlgen compare --checkpoints sft={model_args.model_name_or_path} ppo={args.output_dir} "
        "--output_dir runs/compare"
    )
    if run.finished:
        print(f"{args.output_dir} is finished\n{next_command}")
        return

    # 1. Rows
    task = get_task(data.task, data.task_source) if data.task else None
    if data.dataset_name:
        rows = load_rows(
            data.dataset_name, columns=["prompt"], split=data.dataset_train_split, max_rows=data.max_train_rows
        )
    elif task is not None:
        rows = task.split("rl", data.max_train_rows)
    else:
        raise ConfigError("there are no rows to train on; give --task NAME or --dataset_name FILE")
    validation = None
    if args.eval_strategy != "no" and data.eval_dataset_name:
        validation = load_rows(data.eval_dataset_name, columns=["prompt"], max_rows=data.max_eval_rows or 64)
    elif args.eval_strategy != "no" and task is not None and not data.dataset_name:
        validation = task.split("validation", data.max_eval_rows or 64)
    ptx_rows = None
    if args.ptx_dataset_name:
        ptx_rows = load_rows(args.ptx_dataset_name, columns=["prompt", "completion"])
    elif args.ptx_coef and task is not None and not data.dataset_name:
        ptx_rows = task.split("sft")
    run.record_data("rl", rows)
    if ptx_rows is not None:
        run.record_data("sft", ptx_rows)  # the purpose of these rows, whichever stage reads them
    if validation is None:
        require_heldout(args)
        args.eval_strategy = "no"
    else:
        check_disjoint({"training": rows, "validation": validation})
        if ptx_rows is not None:
            check_disjoint({"ptx": ptx_rows, "validation": validation})
        run.record_data("validation", validation)
    audited = None
    if args.audit_steps:
        audited = validation
        if audited is None and data.eval_dataset_name:
            audited = load_rows(data.eval_dataset_name, columns=["prompt"], max_rows=args.audit_prompts)
        elif audited is None and task is not None and not data.dataset_name:
            audited = task.split("validation", args.audit_prompts)
        if audited is None:
            raise ConfigError("the audit needs held-out rows; give --eval_dataset_name FILE")
        if validation is None:
            check_disjoint({"training": rows, "audit": audited})
            if ptx_rows is not None:
                check_disjoint({"ptx": ptx_rows, "audit": audited})
            run.record_data("validation", audited)  # the purpose of these rows, as in other stages
        audited = with_reference(audited.select(range(min(args.audit_prompts, len(audited)))))

    # 2. Rewards, tried on two rows before anything long starts
    token_rewards = load_token_rewards(args.token_reward)
    rewards, weights = load_rewards(
        args.reward,
        args.reward_weights,
        task,
        own_rows=bool(data.dataset_name),
        required=not token_rewards,
        model_options={"trust_remote_code": args.trust_remote_code},
        config=args.reward_config,
    )
    args.reward_weights = weights or None
    for reward in [*rewards, *token_rewards]:
        reward.timeout = args.reward_timeout
    sample = rows.select(range(min(2, len(rows))))
    gold = [load_reward(name, task=task) for name in args.audit_reward or ()]
    if args.reward_check:
        check_rewards(rewards, sample)
        if audited is not None:
            check_rewards([*rewards, *gold], audited)

    # 3. Model
    set_seed(args.seed)
    with args.main_process_first(desc="base model"):
        start = starting_model(
            model_args.model_name_or_path, args.output_dir, trust_remote_code=args.trust_remote_code
        )
    tokenizer = load_tokenizer(start, trust_remote_code=args.trust_remote_code)
    if args.reward_check:
        check_rewards(token_rewards, sample, lambda text: tokenizer(text, add_special_tokens=False)["input_ids"])
    model = load_policy(
        start,
        dtype=model_args.weights_dtype,
        trust_remote_code=args.trust_remote_code,
        attn_implementation=model_args.attn_implementation,
        **loading_options(model_args),
    )
    set_dropout(model, args.dropout)
    adapter = start_tuning(model_args, model)

    # 4. Train
    trainer = PPOTrainer(
        model=model,
        reward_funcs=rewards,
        args=args,
        train_dataset=rows,
        eval_dataset=validation,
        processing_class=tokenizer,
        peft_config=adapter,
        token_reward_funcs=token_rewards,
        ptx_dataset=ptx_rows,
        callbacks=[
            *run.callbacks(progress_every=args.updates_per_rollout),
            *tuning_callbacks(model_args, run),
            *best_checkpoint(run, args),
        ],
    )
    use_optimizer(trainer)
    if audited is not None:
        watched = watched_measures(gold, has_reference="reference" in audited.column_names)
        length = args.max_completion_length or 64
        AuditCallback(
            run.path, audited, rewards, weights, watched, settings(args), max_new_tokens=length, seed=args.seed
        ).bind(trainer)
    result = trainer.train(resume_from_checkpoint=args.resume_from_checkpoint or run.last_checkpoint())

    # 5. Save
    restore_best(trainer)
    if trainer.is_world_process_zero():
        save_model(trainer.accelerator.unwrap_model(trainer.model), tokenizer, args.output_dir, merge=False)
        trainer.critic.save(Path(args.output_dir) / "critic", for_resuming=False)
        save_reward_state(args.output_dir, trainer.reward_funcs)
        last = {key: value for row in trainer.state.log_history for key, value in row.items() if "reward" in key}
        run.finish({**result.metrics, **last})
    print(next_command)


if __name__ == "__main__":
    main()
