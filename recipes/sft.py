"""Supervised fine-tuning: teach a model the form of good answers from prompt and completion rows.

    rlgen sft --config recipes/configs/docstring/sft.yaml
    rlgen sft --model_name_or_path PATH --dataset_name rows.jsonl --output_dir runs/sft

Needs rows with `prompt` and `completion`, plain or conversational, or a task that has them. The 360 rows of the
quickstart take about four minutes on two CPU cores. Leaves a plain model folder (the LoRA adapter merged in) that
every later stage can start from, with run.json and metrics.jsonl. The same command goes on with an interrupted run.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import rlgen  # isort: skip  # noqa: F401  (it sets what the libraries below read when they are imported)

from transformers import set_seed
from trl import SFTConfig, SFTTrainer

from rlgen.answer_evaluation import answer_evaluation
from rlgen.best_checkpoint import best_checkpoint
from rlgen.config import ModelArguments, TaskArguments, fit_to_machine, parse_arguments, recipe, resolved_config
from rlgen.controls import AnswerArguments, ControlArguments, check_best_metric, controlled, require_heldout
from rlgen.data import check_disjoint, load_rows
from rlgen.dropout import set_dropout
from rlgen.families import check_family
from rlgen.lm_head import project_labelled_tokens_only
from rlgen.models import load_policy, load_tokenizer, save_model, starting_model
from rlgen.optimizers import use_optimizer
from rlgen.packing import check_packing
from rlgen.runs import open_run
from rlgen.seq2seq import EncoderDecoderSFTTrainer
from rlgen.strategies import check_tuning, find_strategy
from rlgen.tasks import get_task
from rlgen.tuning import leave_casts_to_autocast, loading_options, start_tuning
from rlgen.tuning_callbacks import tuning_callbacks


@dataclass
class SFTArguments(ControlArguments, AnswerArguments, SFTConfig):
    """TRL's SFT settings, with defaults for LoRA on a small machine."""

    output_dir: str | None = field(default="runs/sft", metadata={"help": "Folder of this run."})
    merge_adapter: bool = field(
        default=True, metadata={"help": "Save a plain model with the adapter merged in, not the adapter alone."}
    )
    learning_rate: float = field(default=5e-4, metadata={"help": "Highest learning rate."})
    num_train_epochs: float = field(default=1.0, metadata={"help": "Passes over the training rows."})
    warmup_steps: float = field(default=0.05, metadata={"help": "Steps, or share of all steps, of rising rate."})
    train_sampling_strategy: str = field(
        default="group_by_length", metadata={"help": "Order of the rows; like lengths together need little padding."}
    )
    logging_steps: float = field(default=5, metadata={"help": "Log every so many steps."})
    eval_strategy: str = field(default="epoch", metadata={"help": "When to compute the loss on validation rows."})
    save_steps: float = field(default=0.25, metadata={"help": "Checkpoint every so many steps or share of all."})
    save_total_limit: int | None = field(default=2, metadata={"help": "How many checkpoints to keep."})
    bf16: bool | None = field(default=None, metadata={"help": "Mixed precision; default where the device is fast."})
    gradient_checkpointing: bool = field(default=False, metadata={"help": "Trade time for memory."})
    report_to: str | None = field(default="none", metadata={"help": "Where to log besides metrics.jsonl."})
    disable_tqdm: bool | None = field(default=True, metadata={"help": "Leave the progress display to rlgen."})

    def __post_init__(self) -> None:
        """Choose the number format that this machine is fast in."""
        fit_to_machine(self)
        with controlled(self, "sft"):
            super().__post_init__()


@recipe
def main(argv: Sequence[str] | None = None) -> None:
    """Train, save, and say what comes next."""
    args, data, model_args = parse_arguments(
        (SFTArguments, TaskArguments, ModelArguments),
        description="Supervised fine-tuning on prompt and completion rows.",
        argv=argv,
    )
    check_tuning(
        model_args,
        "sft",
        merge=args.merge_adapter,
        packing=args.packing,
        gradient_checkpointing=args.gradient_checkpointing,
    )
    family = check_family(model_args, "sft", trust_remote_code=args.trust_remote_code, settings=args)
    run = open_run(args.output_dir, stage="sft", config=resolved_config(args, data, model_args))
    next_command = f"next: rlgen reward --model_name_or_path {args.output_dir} --output_dir runs/reward"
    if family == "encoder-decoder":
        next_command = f"next: rlgen ppo --model_name_or_path {args.output_dir} --output_dir runs/ppo"
    if not find_strategy(model_args.tuning).merges:  # the result is for use, not for a stage upon it
        checkpoints = f"base={model_args.model_name_or_path} sft={args.output_dir}"
        next_command = f"next: rlgen compare --checkpoints {checkpoints} --output_dir runs/compare"
    if run.finished:
        print(f"{args.output_dir} is finished\n{next_command}")
        return

    # 1. Rows
    columns = ["prompt", "completion"]
    if data.dataset_name:
        train = load_rows(
            data.dataset_name, columns=columns, split=data.dataset_train_split, max_rows=data.max_train_rows
        )
    else:
        task = get_task(data.task or "docstring", data.task_source)
        train = task.split("sft", data.max_train_rows)
    validation = None
    most = max(data.max_eval_rows or 64, args.eval_generate_rows)
    if args.eval_strategy != "no" and data.eval_dataset_name:
        validation = load_rows(data.eval_dataset_name, columns=columns, max_rows=most)
    elif args.eval_strategy != "no" and not data.dataset_name:
        validation = task.split("validation", most)
    run.record_data("sft", train)
    if validation is None:
        require_heldout(args)
        args.eval_strategy = "no"
    else:
        check_disjoint({"training": train, "validation": validation})
        run.record_data("validation", validation)
    answers = answer_evaluation(
        args,
        None if data.dataset_name else task,
        validation,
        own_rows=bool(data.dataset_name),
        sharded=bool(args.deepspeed or args.fsdp),
    )
    check_best_metric(args, "sft", [name for callback in answers for name in callback.names])

    # 2. Model
    set_seed(args.seed)
    with args.main_process_first(desc="base model"):
        start = starting_model(
            model_args.model_name_or_path, args.output_dir, trust_remote_code=args.trust_remote_code
        )
    tokenizer = load_tokenizer(start, trust_remote_code=args.trust_remote_code)
    model = load_policy(
        start,
        dtype=model_args.weights_dtype,
        trust_remote_code=args.trust_remote_code,
        attn_implementation=model_args.attn_implementation,
        **loading_options(model_args),
    )
    set_dropout(model, args.dropout)
    if args.packing:
        check_packing(model, len(tokenizer))
    adapter = start_tuning(model_args, model)

    # 3. Train
    project_labelled_tokens_only()
    make_trainer = EncoderDecoderSFTTrainer if family == "encoder-decoder" else SFTTrainer
    trainer = make_trainer(
        model=model,
        args=args,
        train_dataset=train.select_columns(columns),
        eval_dataset=None if validation is None else validation.select_columns(columns),
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
        save_model(trained, tokenizer, args.output_dir, merge=args.merge_adapter)
        losses = {row["step"]: row["eval_loss"] for row in trainer.state.log_history if "eval_loss" in row}
        kept = trainer.state.best_global_step if args.load_best_model_at_end else max(losses, default=None)
        run.finish({**result.metrics, "eval_loss": losses.get(kept)})
    print(next_command)


if __name__ == "__main__":
    main()
