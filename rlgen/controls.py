"""Training controls that transformers and TRL lack or take in silence, and the checks that come before any model."""

import logging
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rlgen.errors import ConfigError
from rlgen.optimizers import check_optimizer, muon_hidden

logger = logging.getLogger(__name__)

# What each stage's evaluation logs by itself; rewards and metrics of generated answers come on top.
EVALUATED = {
    "pretrain": frozenset({"eval_loss", "eval_nll", "eval_perplexity"}),
    "sft": frozenset({"eval_loss", "eval_entropy", "eval_mean_token_accuracy"}),
    "reward": frozenset({"eval_loss", "eval_accuracy", "eval_margin", "eval_min_reward", "eval_mean_reward"})
    | {"eval_max_reward"},
    "dpo": frozenset({"eval_loss", "eval_entropy", "eval_mean_token_accuracy"})
    | {f"eval_rewards/{name}" for name in ("chosen", "rejected", "accuracies", "margins")}
    | {f"eval_{name}/{side}" for name in ("logps", "logits") for side in ("chosen", "rejected")},
}
DEFAULT_METRICS = {"pretrain": "eval_perplexity", "ppo": "eval_reward"}
LESS_IS_BETTER = ("loss", "nll", "perplexity")  # by the ends of their names
# The losses of TRL's DPO that read its label_smoothing; the others, its default among them, do not.
SMOOTHED_DPO_LOSSES = ("robust", "exo_pair", "aot", "aot_unpaired")


@dataclass
class ControlArguments:
    """Optimizer, dropout, early stopping, best checkpoint; must be the first base of a recipe's settings."""

    optim: str = field(default="adamw_torch_fused", metadata={"help": "Optimizer; see docs/training.md."})
    dropout: float | None = field(
        default=None, metadata={"help": "Dropout of every layer in training; default the model's own."}
    )
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "Stop after so many evaluations without a better one; keep the best."}
    )
    early_stopping_threshold: float = field(default=0.0, metadata={"help": "How much better counts as better."})


@dataclass
class AnswerArguments:
    """Evaluation of greedy answers during training, for stages whose own evaluation is a loss."""

    eval_generate_rows: int = field(
        default=0,
        metadata={
            "help": "At each evaluation answer so many held-out prompts greedily; logs eval_reward and the task's "
            "metrics, such as eval_rouge_l, which --metric_for_best_model may name."
        },
    )
    eval_reward: list[str] | None = field(
        default=None, metadata={"help": "Rewards of these answers, named as for rlgen ppo; default are the task's."}
    )
    eval_max_new_tokens: int | None = field(
        default=None, metadata={"help": "Longest of these answers, in tokens; default the task's, else 64."}
    )


@contextmanager
def controlled(args: Any, stage: str) -> Iterator[None]:
    """Check and settle the controls of some training arguments, around the checks of transformers and TRL.

    Args:
        args: a recipe's training arguments with `ControlArguments`, at the beginning of their `__post_init__`; the
            block calls that of the base class.
        stage: "pretrain", "sft", "reward", "dpo" or "ppo".

    Raises:
        ConfigError: a control that does not exist, does not work here, or would have no effect.
    """
    check_optimizer(args)
    _check_ranges(args)
    _check_effects(args, stage)
    _settle_best_checkpoint(args, stage)
    with muon_hidden(args):
        yield
    if stage == "ppo" and args.load_best_model_at_end:
        args.eval_steps = args.save_steps  # which PPO has rounded up to whole rollouts
    if args.dropout:
        args.disable_dropout = False


def check_shared_reference(args: Any, *, adapters: bool) -> None:
    """Whether noise in the policy stays out of DPO's reference; with adapters both are one network.

    Raises:
        ConfigError: it does not.
    """
    noisy = [name for name in ("dropout", "neftune_noise_alpha") if getattr(args, name)]
    if noisy and adapters and not args.precompute_ref_log_probs:
        raise ConfigError(
            f"--{noisy[0]} would disturb the reference, too, which is the same network without its adapter: add "
            "--precompute_ref_log_probs true, or take --tuning full"
        )


def check_best_metric(args: Any, stage: str, generated: Collection[str] = ()) -> None:
    """Whether the metric that chooses the best checkpoint is one that evaluations of this stage have.

    Args:
        args: settled training arguments.
        stage: a key of `EVALUATED`; other stages are checked at their first evaluation.
        generated: names of rewards and metrics of generated answers.

    Raises:
        ConfigError: nothing evaluates it.
    """
    if not args.load_best_model_at_end or stage not in EVALUATED:
        return
    known = EVALUATED[stage] | set(generated)
    if best_metric(args) not in known:
        hint = "" if stage == "reward" or generated else "; rewards and task metrics need --eval_generate_rows N"
        raise ConfigError(
            f"--metric_for_best_model {args.metric_for_best_model}: no evaluation of {stage} has it, only "
            f"{', '.join(sorted(known))}{hint}"
        )


def require_heldout(args: Any) -> None:
    """Refuse to choose a best checkpoint where no held-out rows were found.

    Raises:
        ConfigError: early stopping or the best checkpoint was asked for.
    """
    if args.load_best_model_at_end:
        raise ConfigError("early stopping and the best checkpoint need held-out rows: give --eval_dataset_name FILE")
    if getattr(args, "eval_generate_rows", 0):
        if getattr(args.eval_strategy, "value", args.eval_strategy) == "no":
            raise ConfigError("--eval_generate_rows needs evaluations: give --eval_strategy steps --eval_steps N")
        raise ConfigError("--eval_generate_rows needs held-out rows: give --eval_dataset_name FILE")


def best_metric(args: Any) -> str:
    """Name of the metric that chooses the best checkpoint, as evaluations log it."""
    name = str(args.metric_for_best_model)
    return name if name.startswith("eval_") else f"eval_{name}"


def _check_ranges(args: Any) -> None:
    if args.dropout is not None and not 0 <= args.dropout < 1:
        raise ConfigError(f"dropout is {args.dropout}; it must be at least 0 and below 1")
    if args.early_stopping_patience is not None and args.early_stopping_patience < 1:
        raise ConfigError(f"early_stopping_patience is {args.early_stopping_patience}; it must be at least 1")
    if args.early_stopping_threshold < 0:
        raise ConfigError(f"early_stopping_threshold is {args.early_stopping_threshold}; it must be at least 0")
    if args.early_stopping_threshold and args.early_stopping_patience is None:
        raise ConfigError("early_stopping_threshold does nothing without early_stopping_patience: give both")
    if not 0 <= args.label_smoothing_factor < 1:
        raise ConfigError(f"label_smoothing_factor is {args.label_smoothing_factor}; it must be in [0, 1)")
    if args.weight_decay < 0:
        raise ConfigError(f"weight_decay is {args.weight_decay}; it must be at least 0")
    if args.neftune_noise_alpha is not None and args.neftune_noise_alpha <= 0:
        raise ConfigError(f"neftune_noise_alpha is {args.neftune_noise_alpha}; it must be above 0")
    for name in ("eval_generate_rows", "eval_max_new_tokens"):
        value = getattr(args, name, None)
        if value is not None and value < (0 if name == "eval_generate_rows" else 1):
            raise ConfigError(f"{name} is {value}; it must be at least {0 if name == 'eval_generate_rows' else 1}")


def _check_effects(args: Any, stage: str) -> None:
    """Refuse what a trainer takes and never reads."""
    if args.label_smoothing_factor and stage == "sft" and args.loss_type != "nll":
        raise ConfigError(f"label_smoothing_factor has no effect with loss_type {args.loss_type}: take nll")
    if args.label_smoothing_factor and stage == "dpo":
        raise ConfigError("label_smoothing_factor has no effect in dpo: take --loss_type robust --label_smoothing P")
    if args.label_smoothing_factor and stage == "ppo":
        raise ConfigError("label_smoothing_factor has no effect in ppo, which has no labels: leave it out")
    if stage == "reward" and args.label_smoothing_factor >= 0.5:
        raise ConfigError("label_smoothing_factor of a reward model must be below 0.5: above, the pairs are reversed")
    losses = [args.loss_type] if isinstance(getattr(args, "loss_type", None), str) else getattr(args, "loss_type", ())
    if stage == "dpo" and args.label_smoothing and not set(losses) & set(SMOOTHED_DPO_LOSSES):
        raise ConfigError(
            f"label_smoothing has no effect with loss_type {' '.join(losses)}: take one of "
            f"{', '.join(SMOOTHED_DPO_LOSSES)}"
        )
    if args.neftune_noise_alpha and stage == "ppo":
        raise ConfigError(
            "neftune_noise_alpha would make the updated policy another than the one that sampled: leave it out of ppo"
        )
    if stage == "sft" and args.packing and args.packing_strategy == "wrapped":
        logger.warning("packing_strategy wrapped cuts examples anywhere and lets them see each other; bfd does not")


def _settle_best_checkpoint(args: Any, stage: str) -> None:
    """What early stopping and the choice of a checkpoint need: evaluations, and a checkpoint at each of them."""
    wanted = args.early_stopping_patience is not None or args.metric_for_best_model is not None
    if not wanted and not args.load_best_model_at_end:
        return
    strategy = getattr(args.eval_strategy, "value", args.eval_strategy)
    if strategy == "no":
        raise ConfigError(
            "early stopping and the best checkpoint are chosen by evaluations, and there are none: give "
            "--eval_strategy steps --eval_steps N"
        )
    if stage == "ppo" and strategy != "steps":
        raise ConfigError("the best checkpoint of ppo stands between two rollouts: take --eval_strategy steps")
    args.load_best_model_at_end = True
    args.metric_for_best_model = args.metric_for_best_model or DEFAULT_METRICS.get(stage, "eval_loss")
    if args.greater_is_better is None and args.metric_for_best_model.endswith(LESS_IS_BETTER):
        args.greater_is_better = False
    if getattr(args.save_strategy, "value", args.save_strategy) != "best":
        args.save_strategy = strategy
        args.eval_steps = args.eval_steps or args.logging_steps
        if strategy == "steps":
            args.save_steps = args.eval_steps
