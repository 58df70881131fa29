"""Direct preference optimization: learn from preference pairs without a reward model (Rafailov et al. 2023).

    rlgen dpo --config recipes/configs/docstring/dpo.yaml
    rlgen dpo --model_name_or_path runs/sft --dataset_name pairs.jsonl --output_dir runs/dpo

Needs the pairs that `rlgen reward` left (`--pairs runs/reward/pairs`), or own rows with `prompt`, `chosen` and
`rejected`. The 80 pairs of the quickstart take about two minutes on two CPU cores. Leaves a LoRA adapter
folder whose base is the model it started from, with run.json and metrics.jsonl. The same command goes on with an
interrupted run.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import rlgen  # isort: skip  # noqa: F401  (it sets what the libraries below read when they are imported)

from transformers import set_seed
from trl import DPOConfig

from reward_models._text import completion_text
from rlgen.answer_evaluation import answer_evaluation
from rlgen.best_checkpoint import best_checkpoint
from rlgen.config import ModelArguments, TaskArguments, fit_to_machine, parse_arguments, recipe, resolved_config
from rlgen.controls import (
    AnswerArguments,
    ControlArguments,
    check_best_metric,
    check_shared_reference,
    controlled,
    require_heldout,
)
from rlgen.data import check_disjoint, load_rows
from rlgen.dropout import set_dropout
from rlgen.errors import ConfigError
from rlgen.families import check_family
from rlgen.lm_head import project_labelled_tokens_only
from rlgen.models import load_policy, load_tokenizer, save_model, starting_model
from rlgen.optimizers import use_optimizer
from rlgen.pair_trainers import DPOTrainer
from rlgen.runs import open_run
from rlgen.strategies import check_tuning, find_strategy
from rlgen.tasks import get_task
from rlgen.tuning import leave_casts_to_autocast, loading_options, start_tuning
from rlgen.tuning_callbacks import tuning_callbacks


@dataclass
class DPOArguments(ControlArguments, AnswerArguments, DPOConfig):
    """TRL's DPO settings, with defaults for LoRA on a small machine."""

    pairs: str | None = field(
        default=None,
        metadata={"help": "Folder with train.jsonl and heldout.jsonl, as the reward recipe writes: DIR/pairs."},
    )
    output_dir: str | None = field(default="runs/dpo", metadata={"help": "Folder of this run."})
    beta: float = field(default=0.1, metadata={"help": "How strongly the policy is held near its reference."})
    learning_rate: float = field(default=5e-5, metadata={"help": "Highest learning rate."})
    num_train_epochs: float = field(default=1.0, metadata={"help": "Passes over the training pairs."})
    warmup_steps: float = field(default=0.1, metadata={"help": "Steps, or share of all steps, of rising rate."})
    train_sampling_strategy: str = field(
        default="group_by_length", metadata={"help": "Order of the rows; like lengths together need little padding."}
    )
    logging_steps: float = field(default=5, metadata={"help": "Log every so many steps."})
    eval_strategy: str = field(default="no", metadata={"help": "When to compute loss and accuracy on held-out pairs."})
    save_steps: float = field(default=0.25, metadata={"help": "Checkpoint every so many steps or share of all."})
    save_total_limit: int | None = field(default=2, metadata={"help": "How many checkpoints to keep."})
    bf16: bool | None = field(default=None, metadata={"help": "Mixed precision; default where the device is fast."})
    gradient_checkpointing: bool = field(default=False, metadata={"help": "Trade time for memory."})
    report_to: str | None = field(default="none", metadata={"help": "Where to log besides metrics.jsonl."})
    disable_tqdm: bool | None = field(default=True, metadata={"help": "Leave the progress display to rlgen."})

    def __post_init__(self) -> None:
        """Choose the number format that this machine is fast in."""
        fit_to_machine(self)
        with controlled(self, "dpo"):
            super().__post_init__()


@recipe
def main(argv: Sequence[str] | None = None) -> None:
    """Train, save, and say what comes next."""
    args, data, model_args = parse_arguments(
        (DPOArguments, TaskArguments, ModelArguments),
        description="Direct preference optimization on preference pairs.",
        argv=argv,
    )
    check_tuning(
        model_args,
        "dpo",
        gradient_checkpointing=args.gradient_checkpointing,
        disable_dropout=args.disable_dropout,
    )
    check_shared_reference(args, adapters=find_strategy(model_args.tuning).kind != "weights")
    check_family(model_args, "dpo", trust_remote_code=args.trust_remote_code, settings=args)
    if bool(args.pairs) == bool(data.dataset_name):
        raise ConfigError("give the pairs: either --pairs DIR/pairs of a reward run, or --dataset_name with own pairs")
    if args.pairs and data.eval_dataset_name:
        raise ConfigError("--pairs has held-out pairs of its own: leave --eval_dataset_name out")
    # Pairs need no task, but a misspelt one is a mistake.
    task = get_task(data.task, data.task_source) if data.task else None
    run = open_run(args.output_dir, stage="dpo", config=resolved_config(args, data, model_args))
    next_command = (
        f"next: rlgen compare --checkpoints sft={model_args.model_name_or_path} dpo={args.output_dir} "
        "--output_dir runs/compare"
    )
    if run.finished:
        print(f"{args.output_dir} is finished\n{next_command}")
        return

    # 1. Pairs
    columns = ["prompt", "chosen", "rejected"]
    source, held_source = data.dataset_name, data.eval_dataset_name
    if args.pairs:
        source, held_source = str(Path(args.pairs) / "train.jsonl"), str(Path(args.pairs) / "heldout.jsonl")
    train = load_rows(source, columns=columns, split=data.dataset_train_split, max_rows=data.max_train_rows)
    run.record_data("preference", train)
    heldout = None
    if args.eval_strategy != "no" and held_source:
        heldout = load_rows(
            held_source, columns=columns, max_rows=max(data.max_eval_rows or 64, args.eval_generate_rows)
        )
        check_disjoint({"training pairs": train, "held-out pairs": heldout})
        run.record_data("preference_heldout", heldout)
    else:
        require_heldout(args)
        args.eval_strategy = "no"
    prompts = heldout
    if args.eval_generate_rows and heldout is not None:
        if args.pairs and task is not None:
            prompts = task.split("validation", args.eval_generate_rows)
            run.record_data("validation", prompts)
        elif "reference" not in heldout.column_names:
            prompts = heldout.add_column("reference", [completion_text(chosen) for chosen in heldout["chosen"]])
        check_disjoint({"training pairs": train, "prompts to answer": prompts})
    answers = answer_evaluation(
        args,
        task,
        prompts,
        own_rows=bool(data.dataset_name),
        sharded=bool(args.deepspeed or args.fsdp),
    )
    check_best_metric(args, "dpo", [name for callback in answers for name in callback.names])

    # 2. Model; the reference is the same model with the adapter switched off, or a copy in full fine-tuning
    set_seed(args.seed)
    with args.main_process_first(desc="base model"):
        start = starting_model(
            model_args.model_name_or_path, args.output_dir, trust_remote_code=args.trust_remote_code
        )
    tokenizer = load_tokenizer(start, trust_remote_code=args.trust_remote_code)
    options = {
        "dtype": model_args.weights_dtype,
        "trust_remote_code": args.trust_remote_code,
        "attn_implementation": model_args.attn_implementation,
        **loading_options(model_args),
    }
    model = load_policy(start, **options)
    set_dropout(model, args.dropout)
    adapter = start_tuning(model_args, model)

    # 3. Train
    project_labelled_tokens_only()
    trainer = DPOTrainer(
        model=model,
        ref_model=load_policy(start, **options) if adapter is None else None,
        args=args,
        train_dataset=train.select_columns(columns),
        eval_dataset=None if heldout is None else heldout.select_columns(columns),
        processing_class=tokenizer,
        peft_config=adapter,
        callbacks=[*run.callbacks(), *tuning_callbacks(model_args, run), *answers, *best_checkpoint(run, args)],
    )
    use_optimizer(trainer)
    for callback in answers:
        callback.bind(trainer)
    if args.bf16 or args.fp16:
        leave_casts_to_autocast(trainer.model)
    result = trainer.train(resume_from_checkpoint=args.resume_from_checkpoint or run.last_checkpoint())

    # 4. Save
    if trainer.is_world_process_zero():
        trained = trainer.accelerator.unwrap_model(trainer.model)
        save_model(trained, tokenizer, args.output_dir, merge=False)
        last = {key: value for row in trainer.state.log_history for key, value in row.items() if "accuracies" in key}
        run.finish({**result.metrics, **last})
    print(next_command)


if __name__ == "__main__":
    main()
