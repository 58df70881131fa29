"""Warnings during PPO that a person can act on: what was seen, why it is likely so, what to change.

A rule is a pure function from a history to what it saw, or None. A history has one row a rollout, in order: the
metrics of docs/metrics.md, averaged over the rollout's updates, and `step`. Rows of evaluations, whose keys begin with
`eval_`, stand between them.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite
from statistics import fmean
from typing import Any

from transformers import PreTrainedTokenizerBase, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

logger = logging.getLogger(__name__)

Row = Mapping[str, Any]

PATIENCE = 3
"""Rollouts in a row before most findings count: one rollout of a few dozen completions may be odd by chance."""
ENTROPY_SHARE = 0.2
"""Of the entropy at the start. PPO that works sharpens a policy to a half or a third; below a fifth most tokens are
certain, and a rollout holds little that could turn out better or worse than expected."""
KL_PER_TOKEN = 0.5
"""Nats. Sampled tokens are then exp(0.5) = 1.6 times as probable as under the reference, on geometric average. Runs
that keep their language stay below about 0.3."""
CRITIC_GRACE = 5
"""Rollouts that a critic gets to learn from, be there a warm-up or not."""
CRITIC_PATIENCE = 5
"""Explained variance over some hundred tokens is noisy: a useful critic is at 0 now and then, not 5 times in a row."""
SAME_REWARD = 1e-6
"""Standard deviation as a share of the mean reward: what rounding of equal float32 numbers leaves, and no more."""
TRUNCATED = 0.95
"""Share of completions. So few that end give no idea of how to end."""
CLIP_FRACTION = 0.3
"""Share of tokens whose gradient is clipped away, mean over a rollout's updates; 0.01 to 0.1 in runs that learn."""
CLIP_PATIENCE = 5
"""Rollouts: a policy may take a few large steps when it first finds the reward."""
FALLS = 3
"""Evaluations in a row, each worse than the one before; noise alone does that in 1 of 24 cases."""
FALL_SIZE = 0.1
"""Of the standard deviation between completions: a smaller fall is within what evaluation prompts differ by."""


def recent(history: Sequence[Row], key: str, count: int) -> list[float]:
    """The last `count` values of a metric, or nothing if there are not so many yet."""
    values = [float(row[key]) for row in history if row.get(key) is not None]
    return values[-count:] if len(values) >= count else []


def entropy_collapse(history: Sequence[Row]) -> str | None:
    """Entropy of the next token is a small share of what it was at the start."""
    key = "policy/entropy" if any("policy/entropy" in row for row in history) else "policy/entropy_estimate"
    values = recent(history, key, sum(row.get(key) is not None for row in history))
    if len(values) < 2 * PATIENCE:
        return None
    start, now = fmean(values[:PATIENCE]), values[-PATIENCE:]
    if max(now) >= ENTROPY_SHARE * start:
        return None
    return f"{key} fell from {start:.3g} to {fmean(now):.3g} nats"


def kl_blow_up(history: Sequence[Row]) -> str | None:
    """The policy has left its reference far behind."""
    values = recent(history, "objective/kl_per_token", PATIENCE)
    if not values or min(values) <= KL_PER_TOKEN:
        return None
    return f"objective/kl_per_token is {values[-1]:.3g} nats, above {KL_PER_TOKEN} for {PATIENCE} rollouts"


def dead_critic(history: Sequence[Row]) -> str | None:
    """The critic explains nothing, although it has had rollouts to learn from."""
    rollouts = [row for row in history if row.get("objective/kl_per_token") is not None]
    values = recent(rollouts[CRITIC_GRACE:], "critic/explained_variance", CRITIC_PATIENCE)
    if not values or max(values) > 0:
        return None
    return f"critic/explained_variance is {values[-1]:.3g}, at most 0 for {CRITIC_PATIENCE} rollouts"


def equal_rewards(history: Sequence[Row]) -> str | None:
    """All completions of a rollout have the same reward, and no token-level reward tells them apart either."""
    if any(key.startswith("token_rewards/") for row in history for key in row):
        return None
    spreads = recent(history, "reward_std", PATIENCE)
    means = recent(history, "reward", PATIENCE)
    if not spreads or not means:
        return None
    if any(spread > SAME_REWARD * abs(mean) for spread, mean in zip(spreads, means, strict=True)):
        return None
    return f"reward is {means[-1]:.3g} for every completion of {PATIENCE} rollouts"


def nothing_scored(history: Sequence[Row]) -> str | None:
    """No reward applies to any completion."""
    values = recent(history, "objective/unscored", PATIENCE)
    if not values or min(values) < 1:
        return None
    return f"objective/unscored is 1 for {PATIENCE} rollouts"


def all_truncated(history: Sequence[Row]) -> str | None:
    """Completions run into the length limit instead of ending."""
    values = recent(history, "completions/clipped_ratio", PATIENCE)
    if not values or min(values) < TRUNCATED:
        return None
    return f"completions/clipped_ratio is {values[-1]:.3g}, at least {TRUNCATED} for {PATIENCE} rollouts"


def stuck_clipping(history: Sequence[Row]) -> str | None:
    """Much of each rollout is clipped away."""
    values = recent(history, "policy/clip_fraction", CLIP_PATIENCE)
    if not values or min(values) <= CLIP_FRACTION:
        return None
    return f"policy/clip_fraction is {values[-1]:.3g}, above {CLIP_FRACTION} for {CLIP_PATIENCE} rollouts"


def over_optimisation(history: Sequence[Row]) -> str | None:
    """What training maximizes rises, while the same measure on held-out prompts falls."""
    for key in ("reward", "objective/rlhf_reward"):
        trained, held_out = _between_evaluations(history, key)
        trained, held_out = trained[-FALLS - 1 :], held_out[-FALLS - 1 :]
        if len(held_out) <= FALLS or trained[-1] <= trained[0]:
            continue
        spread = [float(row["eval_reward_std"]) for row in history if row.get("eval_reward_std") is not None]
        falls = all(later < earlier for earlier, later in pairwise(held_out))
        if falls and held_out[0] - held_out[-1] > FALL_SIZE * (spread[-1] if spread else 0.0):
            return (
                f"over {FALLS + 1} evaluations {key} rose from {trained[0]:.3g} to {trained[-1]:.3g}, but eval_{key} "
                f"fell from {held_out[0]:.3g} to {held_out[-1]:.3g}"
            )
    return None


def _between_evaluations(history: Sequence[Row], key: str) -> tuple[list[float], list[float]]:
    """Mean of a metric over the rollouts before each evaluation, and what that evaluation says."""
    trained: list[float] = []
    held_out: list[float] = []
    rollouts: list[float] = []
    for row in history:
        if row.get(key) is not None:
            rollouts.append(float(row[key]))
        elif row.get(f"eval_{key}") is not None and rollouts:
            trained.append(fmean(rollouts))
            held_out.append(float(row[f"eval_{key}"]))
            rollouts = []
    return trained, held_out


@dataclass(frozen=True)
class Finding:
    """Something wrong with a run, and advice."""

    name: str
    rule: Callable[[Sequence[Row]], str | None]
    cause: str
    change: str


FINDINGS = (
    Finding(
        "entropy collapse",
        entropy_collapse,
        "updates too large or a KL penalty too weak, unless the reward is at its maximum",
        "lower learning_rate, raise kl_coef, or set entropy_coef, e.g. 0.01",
    ),
    Finding(
        "KL blow-up",
        kl_blow_up,
        "the reward pays for text that the reference would not write, and the KL penalty is too weak",
        "raise kl_coef or lower learning_rate; read some completions before trusting the reward",
    ),
    Finding(
        "dead critic",
        dead_critic,
        "the critic learns too slowly, forgets, or gets too few rollouts",
        "raise critic_learning_rate, critic_epochs or critic_warmup_rollouts, or take another critic",
    ),
    Finding(
        "equal rewards",
        equal_rewards,
        "the reward is constant, saturated, or out of the policy's reach, so that nothing is learnt from it",
        "try the reward on some completions; give partial credit, easier prompts, or a higher temperature",
    ),
    Finding(
        "nothing scored",
        nothing_scored,
        "every reward returns None for every completion, so that the policy is not updated",
        "check the dataset columns and the answer format that the rewards expect",
    ),
    Finding(
        "all completions truncated",
        all_truncated,
        "max_completion_length is too short, or the model has not learnt to end its answers",
        "raise max_completion_length, set missing_eos_penalty, or run SFT on answers that end in EOS first",
    ),
    Finding(
        "clipping stuck high",
        stuck_clipping,
        "the policy moves too far within each rollout",
        "lower learning_rate or num_ppo_epochs, or raise per_device_train_batch_size",
    ),
    Finding(
        "over-optimisation",
        over_optimisation,
        "the policy overfits the training prompts or exploits what the reward gets wrong",
        "go back to an earlier checkpoint, raise kl_coef, train for fewer steps, or on more prompts",
    ),
)


def missing_generation_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Any) -> str | None:
    """What the policy has to write before its answer, if the chat template does not write it into the prompt.

    Args:
        tokenizer: with or without a chat template.
        prompt: as in the dataset's column; only messages of plain text that await an answer are looked at.

    Returns:
        The text that the template puts between prompt and answer, or None if generation begins at the answer.
    """
    if isinstance(prompt, str) or not tokenizer.chat_template:
        return None
    if prompt[-1]["role"] == "assistant" or not all(isinstance(message["content"], str) for message in prompt):
        return None
    asked, bare = (
        tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=wanted) for wanted in (True, False)
    )
    answer = "answer"
    full = tokenizer.apply_chat_template([*prompt, {"role": "assistant", "content": answer}], tokenize=False)
    if asked != bare or not full.startswith(asked):  # a template may put more in an answer than a model has to write
        return None
    between = full.removeprefix(asked).partition(answer)[0].strip()
    return between or None


class DiagnosticsCallback(TrainerCallback):
    """Warns through `logging` about each finding when it appears, and again only if it went away and came back."""

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        self.history: list[Row] = []
        self.active: set[str] = set()
        self._rows: list[Row] = []  # of the rollout that is under way
        self._rollout_end = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take up what was logged before a checkpoint, and look at how prompts are rendered."""
        self._forget()
        for row in state.log_history:
            self._add(row, args)
        dataset = getattr(kwargs.get("train_dataloader"), "dataset", None)
        if not state.is_world_process_zero or dataset is None:
            return
        missing = missing_generation_prompt(kwargs["processing_class"], dataset[0]["prompt"])
        if missing:
            logger.warning(
                "no generation prompt: the chat template leaves it to the policy to write %r before its answer; "
                "likely the template ignores add_generation_prompt; change chat_template, and run SFT with the same",
                missing,
            )

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Judge the history whenever a rollout or an evaluation is over."""
        if not state.is_world_process_zero or not state.log_history or not self._add(state.log_history[-1], args):
            return
        for finding in FINDINGS:
            seen = finding.rule(self.history)
            if seen is None:
                self.active.discard(finding.name)
            elif finding.name not in self.active:
                self.active.add(finding.name)
                logger.warning(
                    "%s at step %d: %s; likely cause: %s; to change: %s",
                    finding.name,
                    state.global_step,
                    seen,
                    finding.cause,
                    finding.change,
                )

    def _add(self, row: Row, args: TrainingArguments) -> bool:
        """Take a logged row; returns whether the history has grown."""
        if any(key.startswith("eval_") for key in row):
            self.history.append(row)
            return True
        updates = int(getattr(args, "updates_per_rollout", 1))
        self._rollout_end = self._rollout_end or updates
        self._rows.append(row)
        if row["step"] < self._rollout_end:
            return False
        self.history.append(mean_row(self._rows))
        self._rows = []
        self._rollout_end = (row["step"] // updates + 1) * updates
        return True


def mean_row(rows: Sequence[Row]) -> Row:
    """Mean of each metric over the rows that have it, with the last row's step."""
    means: dict[str, Any] = {}
    for key in {key for row in rows for key in row}:
        values = [row[key] for row in rows if isinstance(row.get(key), (int, float)) and isfinite(row[key])]
        if values:
            means[key] = fmean(values)
    return {**means, "step": rows[-1]["step"]}
