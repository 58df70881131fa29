"""Reward model: learn from preference pairs which of two answers is better.

    rlgen reward --config recipes/configs/docstring/reward.yaml
    rlgen reward --model_name_or_path runs/sft --dataset_name pairs.jsonl --output_dir runs/reward
    rlgen reward --model_name_or_path runs/sft --dataset_name rows.jsonl --reward my_rewards.py:politeness

Needs pairs (`prompt`, `chosen`, `rejected`), or rows with a reference (`prompt`, `completion`; a task has them): then
the model samples answers, and pairs are the reference over a sample, and the better over the worse sample by the named
rewards. The 144 prompts of the quickstart take about five minutes on two CPU cores. Leaves a plain
sequence-classification folder, pairs/{train,heldout}.jsonl for `rlgen dpo`, and evaluation.json: accuracy on held-out
pairs with its interval, beside rankers that see only a surface. The same command goes on with an interrupted run.
"""

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import rlgen  # isort: skip  # noqa: F401  (it sets what the libraries below read when they are imported)

from datasets import Dataset
from transformers import PreTrainedTokenizerBase, set_seed
from trl import RewardConfig

from rlgen.config import ModelArguments, TaskArguments, fit_to_machine, parse_arguments, recipe, resolved_config
from rlgen.data import check_disjoint, load_rows
from rlgen.generation import Completion, generate
from rlgen.memory import release_memory
from rlgen.models import load_policy, load_reward_model, load_tokenizer, save_model, starting_model
from rlgen.pair_trainers import RewardTrainer
from rlgen.preferences import build_pairs, evaluate_pairs, sample_once, split_pairs, write_jsonl
from rlgen.rewards import check_rewards, load_rewards, weighted_sum
from rlgen.rewards.model import STATISTICS, RewardModel
from rlgen.runs import open_run, write_atomic
from rlgen.tasks import get_task
from rlgen.tuning import freeze_below, leave_casts_to_autocast, peft_config


@dataclass
class PairArguments:
    """How pairs are made from rows with a reference."""

    reward: list[str] | None = field(
        default=None, metadata={"help": "Rewards that order samples: file.py:function, name, ...; default the task's."}
    )
    reward_weights: list[float] | None = field(default=None, metadata={"help": "One weight per reward."})
    num_generations: int = field(default=4, metadata={"help": "Samples per prompt."})
    temperature: float = field(default=1.0, metadata={"help": "Temperature of the sampling."})
    max_completion_length: int | None = field(
        default=None, metadata={"help": "Tokens per sample; default the task's."}
    )
    generation_batch_size: int = field(default=8, metadata={"help": "Prompts that are sampled at a time."})
    min_margin: float = field(default=0.1, metadata={"help": "Least reward difference between two samples of a pair."})
    pairs_per_prompt: int = field(default=1, metadata={"help": "Most pairs per prompt from each of the two sources."})
    heldout_fraction: float = field(default=0.25, metadata={"help": "Share of the prompts kept for evaluation."})
    reward_check: bool = field(
        default=True, metadata={"help": "Try the rewards on a few rows and odd completions before sampling."}
    )

    def __post_init__(self) -> None:
        """Refuse values that leave nothing to train on or nothing to evaluate with."""
        if not 0 < self.heldout_fraction < 1:
            raise ValueError(f"heldout_fraction must lie between 0 and 1, not {self.heldout_fraction}")
        for name in ("num_generations", "generation_batch_size", "pairs_per_prompt"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")


@dataclass
class RewardArguments(RewardConfig):
    """TRL's reward modelling settings, with defaults for LoRA on a small machine."""

    output_dir: str | None = field(default="runs/reward", metadata={"help": "Folder of this run."})
    learning_rate: float = field(default=5e-4, metadata={"help": "Highest learning rate of AdamW."})
    num_train_epochs: float = field(default=1.0, metadata={"help": "Passes over the training pairs."})
    warmup_steps: float = field(default=0.1, metadata={"help": "Steps, or share of all steps, of rising rate."})
    center_rewards_coefficient: float | None = field(default=0.01, metadata={"help": "Pulls scores towards zero."})
    train_sampling_strategy: str = field(
        default="group_by_length", metadata={"help": "Order of the rows; like lengths together need little padding."}
    )
    logging_steps: float = field(default=5, metadata={"help": "Log every so many steps."})
    save_steps: float = field(default=0.25, metadata={"help": "Checkpoint every so many steps or share of all."})
    save_total_limit: int | None = field(default=2, metadata={"help": "How many checkpoints to keep."})
    bf16: bool | None = field(default=None, metadata={"help": "Mixed precision; default where the device is fast."})
    gradient_checkpointing: bool = field(default=False, metadata={"help": "Trade time for memory."})
    report_to: str | None = field(default="none", metadata={"help": "Where to log besides metrics.jsonl."})
    disable_tqdm: bool | None = field(default=True, metadata={"help": "Leave the progress display to rlgen."})

    def __post_init__(self) -> None:
        """Choose the number format that this machine is fast in."""
        fit_to_machine(self)
        super().__post_init__()


@recipe
def main(argv: Sequence[str] | None = None) -> None:
    """Make pairs, train, evaluate, save, and say what comes next."""
    args, pair_args, data, model_args = parse_arguments(
        (RewardArguments, PairArguments, TaskArguments, ModelArguments),
        description="Reward model from preference pairs.",
        argv=argv,
    )
    run = open_run(args.output_dir, stage="reward", config=resolved_config(args, pair_args, data, model_args))
    folder, policy = Path(args.output_dir), model_args.model_name_or_path
    next_command = (
        f"next: rlgen ppo --model_name_or_path {policy} --reward {folder} --output_dir runs/ppo\n"
        f"  or: rlgen dpo --model_name_or_path {policy} --pairs {folder}/pairs --output_dir runs/dpo"
    )
    if run.finished:
        print(f"{folder} is finished\n{next_command}")
        return

    # 1. Pairs: given, or built once from samples of the starting model; held-out ones share no prompt with the others
    with args.main_process_first(desc="base model"):
        start = starting_model(policy, folder, trust_remote_code=args.trust_remote_code)
    tokenizer = load_tokenizer(start, trust_remote_code=args.trust_remote_code)
    files = {name: folder / "pairs" / f"{name}.jsonl" for name in ("train", "heldout")}
    with args.main_process_first(desc="making pairs"):
        if not all(file.is_file() for file in files.values()):
            for file, pairs in zip(
                files.values(), make_pairs(start, tokenizer, args, pair_args, data, model_args), strict=True
            ):
                write_jsonl(file, pairs)
    columns = ["prompt", "chosen", "rejected"]
    train, heldout = (load_rows(str(file), columns=columns) for file in files.values())
    check_disjoint({"training pairs": train, "held-out pairs": heldout})
    run.record_data("preference", train)
    run.record_data("preference_heldout", heldout)

    # 2. Model: the starting model with a score in place of its LM head
    set_seed(args.seed)
    model = load_reward_model(
        start,
        dtype=model_args.weights_dtype,
        trust_remote_code=args.trust_remote_code,
    )
    lora = peft_config(model_args, model, "SEQ_CLS")
    if lora is None:
        freeze_below(model, model_args.top_layers)
        model.score.requires_grad_(True)

    # 3. Train
    trainer = RewardTrainer(
        model=model,
        args=args,
        train_dataset=train.select_columns(columns),
        eval_dataset=heldout.select_columns(columns) if args.eval_strategy != "no" else None,
        processing_class=tokenizer,
        peft_config=lora,
        callbacks=run.callbacks(),
    )
    if args.bf16:  # the score head comes in the model's bfloat16, too coarse for small steps
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    if args.bf16 or args.fp16:
        leave_casts_to_autocast(trainer.model)
    result = trainer.train(resume_from_checkpoint=args.resume_from_checkpoint or run.last_checkpoint())
    if not trainer.is_world_process_zero():
        return

    # 4. Save, and evaluate what was saved
    save_model(trainer.accelerator.unwrap_model(trainer.model), tokenizer, folder, merge=True)
    metrics = result.metrics
    del trainer, model
    release_memory()
    scorer = RewardModel(args.output_dir, standardize=False, trust_remote_code=args.trust_remote_code)
    chosen, rejected = scorer.score_pairs(train.select(range(min(len(train), 128))))
    scores = {"mean": statistics.fmean(chosen + rejected), "std": statistics.pstdev(chosen + rejected)}
    write_atomic(folder / STATISTICS, json.dumps({**scores, "n": 2 * len(chosen)}) + "\n")
    chosen, rejected = scorer.score_pairs(heldout)
    evaluation = evaluate_pairs(heldout, chosen, rejected)
    write_atomic(folder / "evaluation.json", json.dumps(evaluation, indent=2) + "\n")
    run.finish({**metrics, **{key: evaluation[key] for key in ("accuracy", "ci_low", "ci_high", "n_pairs")}})
    print(
        f"held-out accuracy {evaluation['accuracy']:.3f} [{evaluation['ci_low']:.3f}, {evaluation['ci_high']:.3f}], "
        f"longer wins {evaluation['trivial_rankers']['longer_wins']['accuracy']:.3f}"
    )
    print(next_command)


def make_pairs(
    start: str,
    tokenizer: PreTrainedTokenizerBase,
    args: RewardArguments,
    pair_args: PairArguments,
    data: TaskArguments,
    model_args: ModelArguments,
) -> tuple[Dataset, Dataset]:
    """Training and held-out pairs: given ones, split where needed, or ones built from samples of the model."""
    task = get_task(data.task, data.task_source) if data.task else None
    if data.dataset_name:
        load = partial(load_rows, split=data.dataset_train_split, max_rows=data.max_train_rows)
        rows = load(data.dataset_name, columns=["prompt"])
        if {"chosen", "rejected"} & set(rows.column_names):
            columns = ["prompt", "chosen", "rejected"]
            pairs = load(data.dataset_name, columns=columns)
            if data.eval_dataset_name:
                return pairs, load_rows(data.eval_dataset_name, columns=columns, max_rows=data.max_eval_rows)
            return split_pairs(pairs, pair_args.heldout_fraction)
        rows = load(data.dataset_name, columns=["prompt", "completion"])
    else:
        task = task or get_task("docstring", data.task_source)
        rows = task.split("preference", data.max_train_rows)
    functions, weights = load_rewards(
        pair_args.reward,
        pair_args.reward_weights,
        task,
        own_rows=bool(data.dataset_name),
        model_options={"trust_remote_code": args.trust_remote_code},
    )
    if pair_args.reward_check:
        check_rewards(functions, rows)
    model = load_policy(
        start,
        dtype=model_args.dtype,
        trust_remote_code=args.trust_remote_code,
        attn_implementation=model_args.attn_implementation,
    ).to(args.device)
    limits = None if data.dataset_name else task  # a task knows how long its prompts and answers are

    def sample(part: Dataset, first: int) -> list[list[Completion]]:
        return generate(
            model,
            tokenizer,
            part["prompt"],
            max_new_tokens=pair_args.max_completion_length or (limits.max_completion_tokens if limits else 64),
            temperature=pair_args.temperature,
            num_generations=pair_args.num_generations,
            batch_size=pair_args.generation_batch_size,
            seed=args.seed + first,
            max_prompt_tokens=limits.max_prompt_tokens if limits else None,
        )

    samples = sample_once(Path(str(args.output_dir)) / "samples.jsonl", rows, sample)
    pairs = build_pairs(
        rows,
        samples,
        weighted_sum(functions, weights),
        min_margin=pair_args.min_margin,
        pairs_per_prompt=pair_args.pairs_per_prompt,
    )
    return split_pairs(pairs, pair_args.heldout_fraction)


if __name__ == "__main__":
    main()
