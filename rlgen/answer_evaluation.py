"""Greedy answers to held-out prompts at each evaluation, scored by the task's rewards and metrics."""

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from datasets import Dataset
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rlgen.audit.sampling import Score, answer, in_first_process, score
from rlgen.controls import AnswerArguments, require_heldout
from rlgen.errors import ConfigError
from rlgen.evaluation.metrics import METRICS
from rlgen.evaluation.rows import with_reference
from rlgen.rewards import check_rewards, load_rewards
from rlgen.rewards.check import CheckedReward
from rlgen.rewards.compose import add_up
from rlgen.tasks import Task

logger = logging.getLogger(__name__)

REFERENCE_METRICS = ("rouge_l", "exact_match")
DEFAULT_NEW_TOKENS = 64


class AnswerEvaluation(TrainerCallback):
    """Adds `eval_reward`, `eval_rewards/NAME` and `eval_METRIC` to each evaluation of a trainer.

    Stands before the callbacks that read an evaluation. Needs `bind`.

    Args:
        rows: held-out rows with `prompt`; further columns reach the rewards.
        rewards: functions with a `__name__`; may be none.
        weights: one a reward.
        metrics: further functions by name.
        max_new_tokens: length limit of an answer.
    """

    def __init__(
        self,
        rows: Dataset,
        rewards: Sequence[Score],
        weights: Sequence[float],
        metrics: Mapping[str, Score],
        *,
        max_new_tokens: int,
    ) -> None:
        self.rows, self.max_new_tokens = rows, max_new_tokens
        self.rewards = {f"rewards/{reward.__name__}": reward for reward in rewards}
        self.weights, self.metrics = list(weights), dict(metrics)
        self.trainer: Any = None

    @property
    def names(self) -> list[str]:
        """What an evaluation gets, as it is logged."""
        whole = ["reward"] if self.rewards else []
        return [f"eval_{name}" for name in (*whole, *self.rewards, *self.metrics)]

    def bind(self, trainer: Any) -> None:
        """Say who logs."""
        self.trainer = trainer

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: Any = None, **kwargs: Any
    ) -> None:
        """Answer and score in the first process, and let all processes know."""
        work = partial(self._evaluate, args, state, kwargs)
        found = in_first_process(state, work, "the evaluation of answers")
        metrics.update(found)
        self.trainer.log(dict(found))

    def _evaluate(
        self, args: TrainingArguments, state: TrainerState, kwargs: Mapping[str, Any]
    ) -> dict[str, float | None]:
        completions = answer(
            kwargs["model"],
            kwargs["processing_class"],
            self.rows,
            args,
            max_new_tokens=self.max_new_tokens,
            temperature=0.0,
            seed=args.seed,
        )
        _, scores = score({**self.rewards, **self.metrics}, [], [], self.rows, completions, state)
        if self.rewards:
            scores["reward"] = add_up([scores[name] for name in self.rewards], self.weights)
        return {f"eval_{name}": _mean(values) for name, values in scores.items()}


def answer_evaluation(
    args: AnswerArguments, task: Task | None, rows: Dataset | None, *, own_rows: bool, sharded: bool = False
) -> list[AnswerEvaluation]:
    """The callback, if the arguments ask for answers; its rewards are tried on two rows at once.

    Args:
        args: how many rows, which rewards.
        task: whose rewards and metrics are the default.
        rows: held-out rows, None if there are none.
        own_rows: the rows are not the task's, so that its rewards and metrics are no default.
        sharded: no process has the whole model.

    Raises:
        ConfigError: no rows, nothing to score with, or a model in shards.
        RewardError: a reward cannot be loaded or fails.
    """
    if args.eval_reward and not args.eval_generate_rows:
        raise ConfigError("eval_reward scores the answers of --eval_generate_rows N: give it, too")
    if not args.eval_generate_rows:
        return []
    if rows is None:
        require_heldout(args)
        return []
    if sharded:
        raise ConfigError("eval_generate_rows answers in one process, which needs the whole model: train unsharded")
    rows = with_reference(rows.select(range(min(args.eval_generate_rows, len(rows)))))
    rewards: Sequence[CheckedReward] = []
    weights: Sequence[float] = []
    if args.eval_reward or not own_rows:
        rewards, weights = load_rewards(args.eval_reward, None, task, own_rows=own_rows)
    metrics: dict[str, Any] = {}
    if "reference" in rows.column_names:
        metrics |= {name: METRICS[name].score for name in REFERENCE_METRICS}
    if task is not None and not own_rows:
        metrics |= task.metrics
    if not rewards and not metrics:
        raise ConfigError("the answers of --eval_generate_rows have no reference to be compared with: --eval_reward")
    check_rewards(rewards, rows.select(range(min(2, len(rows)))))
    longest = args.eval_max_new_tokens or (task.max_completion_tokens if task and not own_rows else DEFAULT_NEW_TOKENS)
    return [AnswerEvaluation(rows, rewards, weights, metrics, max_new_tokens=longest)]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
