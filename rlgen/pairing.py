"""Where a reward model's pairs come from: given ones, pairs made by people, or ones built from a model's samples."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from rlgen.config import ModelArguments, TaskArguments
from rlgen.data import load_rows
from rlgen.errors import ConfigError
from rlgen.generation import Completion, generate
from rlgen.human_pairs import PREFIX, human_pairs
from rlgen.models import load_policy
from rlgen.preferences import build_pairs, sample_once, split_pairs, write_jsonl
from rlgen.rewards import check_rewards, load_rewards, weighted_sum
from rlgen.tasks import get_task

__all__ = ["COLUMNS", "PairArguments", "load_pairs", "obtain_pairs"]

COLUMNS = ["prompt", "chosen", "rejected"]


@dataclass
class PairArguments:
    """How pairs are made from rows with a reference."""

    _argument_group_name = "pairs"

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


def load_pairs(source: str, *, split: str = "train", max_rows: int | None = None) -> Dataset:
    """Preference pairs from a file, a folder, the hub, or `human:NAME` (see `rlgen.human_pairs`).

    Args:
        source: where from.
        split: of a folder, a hub data set or human pairs.
        max_rows: keep at most this many, evenly spaced.

    Raises:
        DataError: it is missing or empty, or lacks prompt, chosen or rejected.
    """
    if not source.startswith(PREFIX):
        return load_rows(source, columns=COLUMNS, split=split, max_rows=max_rows)
    pairs = human_pairs(source.removeprefix(PREFIX), "heldout" if split == "heldout" else "train")
    if max_rows is None or max_rows >= len(pairs):
        return pairs
    return pairs.select([index * len(pairs) // max_rows for index in range(max_rows)])


def obtain_pairs(
    folder: Path,
    start: str,
    tokenizer: PreTrainedTokenizerBase,
    args: Any,
    pair_args: PairArguments,
    data: TaskArguments,
    model_args: ModelArguments,
) -> tuple[Dataset, Dataset]:
    """Training and held-out pairs, kept in `folder` from the first call on; they share no prompt.

    Args:
        folder: gets train.jsonl and heldout.jsonl.
        start: the model that samples.
        tokenizer: its tokenizer.
        args: training arguments: seed, device, output_dir, trust_remote_code, main_process_first.
        pair_args: how pairs are built.
        data: given pairs, rows, or a task.
        model_args: how the model is loaded.
    """
    files = [folder / f"{name}.jsonl" for name in ("train", "heldout")]
    with args.main_process_first(desc="making pairs"):
        if not all(file.is_file() for file in files):
            pairs = _given_pairs(pair_args, data) or _built_pairs(start, tokenizer, args, pair_args, data, model_args)
            for file, part in zip(files, pairs, strict=True):
                write_jsonl(file, part)
    train, heldout = (load_rows(str(file), columns=COLUMNS) for file in files)
    return train, heldout


def _given_pairs(pair_args: PairArguments, data: TaskArguments) -> tuple[Dataset, Dataset] | None:
    """What `--dataset_name` holds if it holds pairs; split where no held-out ones are given."""
    if not data.dataset_name:
        return None
    given = partial(load_pairs, data.dataset_name, split=data.dataset_train_split, max_rows=data.max_train_rows)
    if data.dataset_name.startswith(PREFIX):
        return given(), load_pairs(data.dataset_name, split="heldout", max_rows=data.max_eval_rows)
    rows = load_rows(data.dataset_name, columns=["prompt"], split=data.dataset_train_split)
    if not {"chosen", "rejected"} & set(rows.column_names):
        return None
    if data.eval_dataset_name:
        return given(), load_pairs(data.eval_dataset_name, max_rows=data.max_eval_rows)
    return split_pairs(given(), pair_args.heldout_fraction)


def _built_pairs(
    start: str,
    tokenizer: PreTrainedTokenizerBase,
    args: Any,
    pair_args: PairArguments,
    data: TaskArguments,
    model_args: ModelArguments,
) -> tuple[Dataset, Dataset]:
    """Pairs of references and samples of the starting model."""
    if tokenizer.eos_token_id is None:
        raise ConfigError(f"{start} is an encoder and cannot sample answers; give pairs, --dataset_name pairs.jsonl")
    task = get_task(data.task, data.task_source) if data.task else None
    if data.dataset_name:
        rows = load_rows(
            data.dataset_name,
            columns=["prompt", "completion"],
            split=data.dataset_train_split,
            max_rows=data.max_train_rows,
        )
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
