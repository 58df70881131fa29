"""Training of reward models: one, or an ensemble of adapters on a shared base, through TRL's RewardTrainer."""

import copy
import json
import statistics
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import PreTrainedTokenizerBase, set_seed
from trl import RewardConfig

from rlgen.best_checkpoint import best_checkpoint
from rlgen.config import ModelArguments
from rlgen.dropout import set_dropout
from rlgen.errors import ConfigError, DataError
from rlgen.memory import release_memory
from rlgen.models import load_reward_model, save_model
from rlgen.optimizers import use_optimizer
from rlgen.pair_trainers import RewardTrainer
from rlgen.rewards.ensemble import write_ensemble
from rlgen.rewards.model import STATISTICS, RewardModel, longest_text, reads_pairs, token_ids
from rlgen.runs import Run, open_run, write_atomic
from rlgen.tuning import leave_casts_to_autocast, start_tuning
from rlgen.tuning_callbacks import tuning_callbacks

__all__ = ["bootstrap_groups", "record_statistics", "train_ensemble", "train_reward_model", "with_margins"]

_STATISTICS_PAIRS = 128


def train_reward_model(
    run: Run,
    args: RewardConfig,
    model_args: ModelArguments,
    start: str,
    tokenizer: PreTrainedTokenizerBase,
    train: Dataset,
    heldout: Dataset | None = None,
    *,
    merge: bool = True,
) -> dict[str, Any]:
    """Train one reward model on pairs and save it into the run's folder, with the statistics of its scores.

    The loss is that of Bradley and Terry, -log sigmoid(chosen - rejected - margin), plus
    `args.center_rewards_coefficient` times (chosen + rejected)^2.

    Args:
        run: gets metrics and checkpoints; an interrupted one goes on.
        args: TRL's settings; the seed also decides the head's first weights and the order of the pairs.
        model_args: what trains: an adapter with a head, or all weights, or those of the top layers.
        start: a causal model, an encoder, or a reward model, as a plain folder or hub id.
        tokenizer: its tokenizer.
        train: pairs with prompt, chosen, rejected and, where margins count, margin (log odds).
        heldout: pairs for TRL's own evaluation between steps, None for none.
        merge: save a plain model; else the adapter with its head.

    Returns:
        TRL's metrics.

    Source: Christiano et al. 2017, arXiv 1706.03741 (loss); Touvron et al. 2023, arXiv 2307.09288, eq. 2 (margin);
        Eisenstein et al. 2023, arXiv 2312.09244 (centering).
    """
    set_seed(args.seed)
    model = load_reward_model(start, dtype=model_args.weights_dtype, trust_remote_code=args.trust_remote_code)
    set_dropout(model, getattr(args, "dropout", None))
    adapter = start_tuning(model_args, model, "SEQ_CLS")
    if reads_pairs(tokenizer):
        limits = [limit for limit in (longest_text(model, tokenizer), args.max_length) if limit]
        longest = min(limits, default=None)
        train = tokenized_pairs(train, tokenizer, longest)
        heldout = None if heldout is None else tokenized_pairs(heldout, tokenizer, longest)
    trainer = RewardTrainer(
        model=model,
        args=args,
        train_dataset=train,
        eval_dataset=heldout,
        processing_class=tokenizer,
        peft_config=adapter,
        callbacks=[*run.callbacks(), *tuning_callbacks(model_args, run), *best_checkpoint(run, args)],
    )
    use_optimizer(trainer)
    if args.bf16:  # the score head comes in the model's bfloat16, too coarse for small steps
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    if args.bf16 or args.fp16:
        leave_casts_to_autocast(trainer.model)
    result = trainer.train(resume_from_checkpoint=args.resume_from_checkpoint or run.last_checkpoint())
    if trainer.is_world_process_zero():
        save_model(trainer.accelerator.unwrap_model(trainer.model), tokenizer, run.path, merge=merge)
    trainer.accelerator.wait_for_everyone()
    metrics: dict[str, Any] = result.metrics
    return metrics


def train_ensemble(
    run: Run,
    members: int,
    args: RewardConfig,
    model_args: ModelArguments,
    start: str,
    tokenizer: PreTrainedTokenizerBase,
    train: Dataset,
    heldout: Dataset | None = None,
    *,
    bootstrap: bool = False,
) -> dict[str, Any]:
    """Train the members of an ensemble one after the other, each with its own seed, in folders member_0, member_1, ...

    Members differ in their head's first weights, in the order of the pairs and, if asked, in the prompts that they
    see. A finished member is not trained again.

    Args:
        run: of the whole ensemble.
        members: how many, at least 2.
        args: as for `train_reward_model`; member i trains with seed `args.seed + i`.
        model_args: must ask for adapters.
        start: the base of all members.
        tokenizer: its tokenizer.
        train: pairs, see `train_reward_model`.
        heldout: likewise.
        bootstrap: every member trains on groups of pairs drawn with replacement.

    Returns:
        The members' training losses.

    Raises:
        ConfigError: fewer than two members, or members that would be whole models.
    """
    if members < 2:
        raise ConfigError(f"an ensemble needs at least 2 members, not {members}")
    if not model_args.use_peft:
        raise ConfigError("the members of an ensemble are adapters on one base: leave out --use_peft false")
    names = [f"member_{number}" for number in range(members)]
    settings = [_member_settings(args, run.path / name, number) for number, name in enumerate(names)]
    runs = [
        open_run(own.output_dir or "", stage="reward_member", config={**run.record["config"], "seed": own.seed})
        for own in settings
    ]
    todo = [number for number, member in enumerate(runs) if not member.finished]  # known before the first one trains
    for number in todo:
        own, member = settings[number], runs[number]
        rows = bootstrap_groups(train, own.seed) if bootstrap else train
        metrics = train_reward_model(member, own, model_args, start, tokenizer, rows, heldout, merge=False)
        release_memory()
        if args.process_index == 0:
            record_statistics(member.path, train, trust_remote_code=args.trust_remote_code)
            member.finish(metrics)
    if args.process_index == 0:
        write_ensemble(run.path, start, names)
    return {f"{name}_train_loss": member.summary.get("train_loss") for name, member in zip(names, runs, strict=True)}


def with_margins(pairs: Dataset, scale: float) -> Dataset:
    """Pairs as the trainer takes them: with the margin by which the chosen text should win, or without.

    Args:
        pairs: rows with prompt, chosen, rejected and, if a margin is wanted, `margin` or else `chosen_score` and
            `rejected_score`, whose difference it is then (0 where one of them is missing).
        scale: what a margin is multiplied by to become log odds; 0 for none.

    Raises:
        DataError: a margin is wanted and not there, or is not a finite number.
    """
    columns = ["prompt", "chosen", "rejected"]
    if scale == 0:
        return pairs.select_columns(columns)
    names = pairs.column_names
    if "margin" in names:
        margins = list(pairs["margin"])
    elif {"chosen_score", "rejected_score"} <= set(names):
        scores = zip(pairs["chosen_score"], pairs["rejected_score"], strict=True)
        margins = [0.0 if a is None or b is None else a - b for a, b in scores]
    else:
        raise DataError(f"--margin_scale {scale} needs a column 'margin' (found: {', '.join(names)}); add one")
    for row, margin in enumerate(margins):
        if isinstance(margin, bool) or not isinstance(margin, (int, float)) or not np.isfinite(margin):
            raise DataError(f"row {row} of the pairs has the margin {margin!r}; it must be a finite number")
    return pairs.select_columns(columns).add_column("margin", [float(scale * margin) for margin in margins])


def tokenized_pairs(pairs: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int | None) -> Dataset:
    """Pairs with the tokens that TRL's trainer would otherwise make itself, for decoders only.

    Args:
        pairs: see `train_reward_model`.
        tokenizer: the reward model's.
        max_length: longest text in tokens.
    """

    def tokens(row: Mapping[str, Any]) -> dict[str, list[int]]:
        return {
            f"{name}_ids": token_ids(tokenizer, row["prompt"], row[name], max_length=max_length)
            for name in ("chosen", "rejected")
        }

    return pairs.map(tokens, remove_columns=["prompt", "chosen", "rejected"])


def bootstrap_groups(pairs: Dataset, seed: int) -> Dataset:
    """As many prompts as there are, drawn with replacement, each with all of its pairs.

    Args:
        pairs: rows with `prompt`.
        seed: of the drawing.
    """
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for row, prompt in enumerate(pairs["prompt"]):
        groups[json.dumps(prompt)].append(row)
    rows = list(groups.values())
    drawn = np.random.default_rng(seed).integers(len(rows), size=len(rows))
    return pairs.select([row for index in drawn for row in rows[index]])


def record_statistics(folder: str | Path, pairs: Dataset, *, trust_remote_code: bool = False) -> None:
    """Write the mean and deviation of a saved reward model's scores, by which models compare, into its folder.

    Args:
        folder: the reward model, plain or adapter.
        pairs: training pairs, of which some are scored.
        trust_remote_code: run code that ships with a hub model.
    """
    count = min(len(pairs), _STATISTICS_PAIRS)
    some = pairs.select([index * len(pairs) // count for index in range(count)])
    scorer = RewardModel(str(folder), standardize=False, trust_remote_code=trust_remote_code)
    chosen, rejected = scorer.score_pairs(some)
    scores = chosen + rejected
    record = {"mean": statistics.fmean(scores), "std": statistics.pstdev(scores), "n": len(scores)}
    write_atomic(Path(folder) / STATISTICS, json.dumps(record) + "\n")


def _member_settings(args: RewardConfig, folder: Path, number: int) -> RewardConfig:
    own = copy.copy(args)
    own.output_dir, own.seed, own.data_seed = str(folder), args.seed + number, None
    own.resume_from_checkpoint = None  # a checkpoint is one member's; each finds its own last one
    return own
