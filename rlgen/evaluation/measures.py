"""What is measured: rewards, their weighted sum, metrics and diagnostics, each one score per completion."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from datasets import Dataset

from rlgen.errors import ConfigError, RewardError
from rlgen.evaluation.metrics import (
    METRICS,
    Group,
    Score,
    length_tokens,
    missing_column,
    parse_pass,
    pass_group,
    truncated,
    unknown_metric,
)
from rlgen.rewards.build import load_composite
from rlgen.rewards.check import check_rewards, checked, reward_name
from rlgen.rewards.compose import add_up, call_reward
from rlgen.rewards.composite import CompositeReward
from rlgen.rewards.load import load_reward, load_rewards
from rlgen.rewards.model import RewardModel

if TYPE_CHECKING:
    from rlgen.generation import Completion
    from rlgen.tasks import Task

COMPOSITE = "reward"

Kind = Literal["reward", "metric", "diagnostic"]
Author = tuple[str, str]  # sampling plan and checkpoint
Scores = list[list[float | None]]  # per prompt, per sample; None where the measure does not apply


@dataclass(frozen=True)
class Measure:
    """One column of the comparison.

    Args:
        name: Short name, unique in a comparison.
        description: One sentence for the report.
        kind: Reward (training optimises it), metric (evaluation only) or diagnostic (neither good nor bad as such).
        higher_is_better: Direction, None where there is none.
        score: Function with the signature of a reward; None for a measure that is computed otherwise.
        terms: For a weighted sum, the names of the measures it adds, with their weights.
        group: Function of the texts of one prompt's samples, whose answer stands for all of them.
        over: What the group function reads in place of texts: the scores of the measure of this name.
        mix: What else is done to those measures before they are added.
    """

    name: str
    description: str
    kind: Kind
    higher_is_better: bool | None
    score: Score | None = None
    terms: tuple[tuple[str, float], ...] = ()
    group: Group | None = None
    over: str | None = None
    mix: CompositeReward | None = None

    def entry(self) -> dict[str, Any]:
        """The measure as it stands in results.json."""
        return {
            "name": self.name,
            "description": self.description,
            "kind": self.kind,
            "higher_is_better": self.higher_is_better,
        }


def reward_measures(functions: Sequence[Score], weights: Sequence[float]) -> list[Measure]:
    """The weighted sum of the rewards, then each of them. One reward of weight 1 is its own sum."""
    alone = len(functions) == 1 and weights[0] == 1.0
    names = _unique([reward_name(function) for function in functions], reserved=() if alone else (COMPOSITE,))
    measures = [
        Measure(name, _first_line(function) or f"Reward function {name}.", "reward", True, function)
        for name, function in zip(names, functions, strict=True)
    ]
    if alone or not measures:
        return measures
    terms = tuple(zip(names, weights, strict=True))
    formula = " + ".join(f"{weight:g} × {name}" for name, weight in terms)
    return [Measure(COMPOSITE, f"Weighted sum of the rewards: {formula}.", "reward", True, terms=terms), *measures]


def composite_measures(composite: CompositeReward) -> list[Measure]:
    """A composition, then the raw score of each of its parts.

    Raises:
        ConfigError: A part is normalised or debiased by what a run has learned, and there is no such run.
    """
    if composite.unlearned:
        raise ConfigError(
            f"reward '{composite.unlearned[0]}' is normalised by what training has seen: "
            "give the run's folder as --reward_config"
        )
    names = _unique([part.name for part in composite.parts], reserved=(COMPOSITE,))
    terms = tuple((name, part.weight) for name, part in zip(names, composite.parts, strict=True))
    whole = f"Composed of {', '.join(names)} as in training."
    raw = [
        Measure(
            name, f"Raw score of {part.name} in the composition.", "reward", True, composite.part_reward(part.name)
        )
        for name, part in zip(names, composite.parts, strict=True)
    ]
    return [Measure(COMPOSITE, whole, "reward", True, terms=terms, mix=composite), *raw]


def metric_measures(
    names: Sequence[str] | None, available: Mapping[str, Score], load: Callable[[str], Score], columns: Sequence[str]
) -> list[Measure]:
    """Evaluation-only measures.

    Args:
        names: Which ones; None takes all of `available`, and ROUGE-L where the rows have a reference.
        available: The task's own metrics by name.
        load: Finds any other name, e.g. `path.py:function`.
        columns: Columns of the held-out rows.

    Raises:
        ConfigError: The rows lack a column that a metric reads.
    """
    if names is None:
        names = list(dict.fromkeys([*(["rouge_l"] if "reference" in columns else []), *available]))
    return [_metric_measure(name, available, load, columns) for name in dict.fromkeys(names)]


def _metric_measure(
    name: str, available: Mapping[str, Score], load: Callable[[str], Score], columns: Sequence[str]
) -> Measure:
    passing = parse_pass(name)
    if passing:
        k, over = passing
        description = f"Probability that one of {k} samples of a prompt or more passes {over}."
        return Measure(name, description, "metric", True, group=pass_group(k, over), over=over)
    if name in METRICS:
        problem = missing_column(name, columns)
        if problem:
            raise ConfigError(problem)
    if name in METRICS and name not in available:
        metric = METRICS[name]
        return Measure(
            name, metric.description, metric.kind, metric.higher_is_better, metric.score, group=metric.group
        )
    function = available.get(name) or load(name)
    label = name if name in available else reward_name(function)
    return Measure(label, _first_line(function) or f"Metric {label}.", "metric", True, function)


def diagnostic_measures(kl_reference: str | None) -> list[Measure]:
    """Length, truncation and, where there is a reference checkpoint, KL to it."""
    measures = [
        Measure("length", "Tokens of the completion, the end token included.", "diagnostic", None, length_tokens),
        Measure("truncated", "Share of completions cut at the length limit.", "diagnostic", False, truncated),
    ]
    if kl_reference:
        description = (
            f"Sum over the completion's tokens of log p(checkpoint) - log p({kl_reference}), in nats, on the "
            "checkpoint's own completions. Sampled completions make it an unbiased estimate of the KL divergence; on "
            "greedy ones it is the log-ratio of what was written."
        )
        measures.append(Measure(f"kl_{kl_reference}", description, "diagnostic", None))
        each = f"The same divided by the number of the completion's tokens, in nats per token: kl_{kl_reference} "
        each += "grows with length, this does not."
        measures.append(Measure(token_kl(kl_reference), each, "diagnostic", None))
    return measures


def token_kl(kl_reference: str) -> str:
    """Name of the KL per token to a checkpoint."""
    return f"token_kl_{kl_reference}"


def choose_measures(
    task: Task | None,
    rows: Dataset,
    *,
    reward: Sequence[str] | None,
    reward_weights: Sequence[float] | None,
    reward_model: str | None,
    metrics: Sequence[str] | None,
    kl_reference: str | None,
    own_rows: bool = False,
    reward_config: str | None = None,
) -> list[Measure]:
    """All measures of a comparison, tried on two rows before anything is generated.

    Args:
        task: Whose rewards and metrics are the default.
        rows: The held-out rows.
        reward: Rewards by name; None for the task's own.
        reward_weights: Their weights; None for the task's, or 1 each.
        reward_model: Folder or hub id of a trained reward model to measure besides.
        metrics: Metrics by name; None for the task's own.
        kl_reference: Name of the checkpoint that KL is measured to.
        own_rows: The rows are not the task's, so that its rewards and metrics are no default.
        reward_config: File or run folder of a composition in place of rewards and weights.

    Raises:
        ConfigError: Two measures share a name, a metric is unknown, or weights do not fit.
        RewardError: A reward or metric cannot be loaded or breaks the reward contract.
    """
    default_task = None if own_rows else task
    measures: list[Measure] = []
    if reward_config:
        if reward or reward_weights:
            raise ConfigError("reward_config stands in place of reward and reward_weights: give one or the other")
        measures += composite_measures(load_composite(reward_config, task))
    elif reward or default_task:
        functions, weights = load_rewards(reward, reward_weights, task)
        measures += reward_measures(functions, weights)
    elif reward_weights:
        raise ConfigError("reward_weights are given, but no reward; add --reward NAME ...")
    if reward_model:
        judge = load_reward(reward_model, task=task)
        name = _unique([reward_name(judge)], [measure.name for measure in measures])[0]
        description = f"Score of the trained reward model {reward_model}."
        measures.append(Measure(name, description, "reward", True, judge))
    available = default_task.metrics if default_task else {}

    def load(name: str) -> Score:
        try:
            return load_reward(name, task=task)
        except RewardError as error:
            if not re.fullmatch(r"\w+", name):  # it says where the reward is, and the error knows what is wrong there
                raise
            raise unknown_metric(name, list(available)) from error

    measures += metric_measures(metrics, available, load, rows.column_names)
    measures += diagnostic_measures(kl_reference)
    check_unique(measures)
    check_pass(measures)
    tried = [measure.score for measure in measures if measure.score and measure.kind != "diagnostic"]
    check_rewards([checked(score) for score in tried], rows, probe=False)
    return measures


def check_unique(measures: Sequence[Measure]) -> None:
    """Refuse two measures of one name.

    Raises:
        ConfigError: Two share a name.
    """
    names = [measure.name for measure in measures]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise ConfigError(f"measure '{doubled[0]}' is named twice; rename the function or leave one of the two out")


def check_pass(measures: Sequence[Measure]) -> None:
    """Refuse a `pass@K:MEASURE` whose measure is not there to be read, one score per completion.

    Raises:
        ConfigError: There is no such measure, or it is no score of completions.
    """
    readable = [measure.name for measure in measures if measure.score]
    for measure in measures:
        if measure.over is not None and measure.over not in readable:
            raise ConfigError(
                f"metric {measure.name}: '{measure.over}' is not measured for every completion; add it to --metrics "
                f"(measured: {', '.join(readable)})"
            )


def score_completions(score: Score, rows: Dataset, completions: Sequence[Sequence[Completion]]) -> Scores:
    """Score every sample of every prompt in one call.

    Args:
        score: Function with the signature of a reward.
        rows: The held-out rows; their columns other than `prompt` and `completion` are passed on by name.
        completions: Per prompt, its samples.

    Returns:
        Per prompt, one score per sample.

    Raises:
        RewardError: The function raised or broke the reward contract.
    """
    counts = [len(samples) for samples in completions]
    flat = [sample for samples in completions for sample in samples]
    columns: dict[str, list[Any]] = {
        name: [value for value, count in zip(rows[name], counts, strict=True) for _ in range(count)]
        for name in rows.column_names
        if name != "completion"
    }
    prompts = columns.pop("prompt")
    answers: list[Any] = [
        sample.text if isinstance(prompt, str) else [{"role": "assistant", "content": sample.text}]
        for prompt, sample in zip(prompts, flat, strict=True)
    ]
    scores = call_reward(
        score,
        prompts,
        answers,
        **columns,
        completion_ids=[sample.token_ids for sample in flat],
        finished=[sample.finished for sample in flat],
    )
    values = iter(scores)
    return [[next(values) for _ in range(count)] for count in counts]


def score_side_by_side(
    score: Score, rows: Dataset, authors: Mapping[Author, Sequence[Sequence[Completion]]], part: range
) -> dict[Author, Scores]:
    """Score what all checkpoints wrote under all plans in one call, the completions of a prompt side by side.

    A reward model then reads each prompt once.

    Args:
        score: Function with the signature of a reward.
        rows: The held-out rows.
        authors: By sampling plan and checkpoint, per held-out row, its samples.
        part: Which rows to score.

    Returns:
        The same for those rows, one score per sample.

    Raises:
        RewardError: The function raised or broke the reward contract; the message says on whose completion.
    """
    written = [[(author, sample) for author in authors for sample in authors[author][i]] for i in part]
    try:
        scored = score_completions(score, rows.select(part), [[sample for _, sample in row] for row in written])
    except RewardError as error:
        if error.row is None:
            raise
        places = [(i, *author) for i, row in zip(part, written, strict=True) for author, _ in row]
        i, plan, name = places[error.row]
        raise RewardError(f"{error}; row {error.row} is what {name} wrote for held-out prompt {i} ({plan})") from error
    return {
        author: [
            [value for (writer, _), value in zip(row, values, strict=True) if writer == author]
            for row, values in zip(written, scored, strict=True)
        ]
        for author in authors
    }


def score_groups(
    measure: Measure, completions: Sequence[Sequence[Completion]], scores: Mapping[str, Scores]
) -> Scores:
    """Score all samples of a prompt together; each of them gets the prompt's number.

    Args:
        measure: One with a `group`.
        completions: Per prompt, its samples.
        scores: What is measured already, by name.
    """
    assert measure.group is not None
    read: Sequence[Sequence[Any]] = (
        scores[measure.over] if measure.over else [[sample.text for sample in samples] for samples in completions]
    )
    return [[measure.group(values)] * len(values) for values in read]


def is_model(score: Score | None) -> bool:
    """Whether a measure is a trained reward model, which costs time worth counting."""
    return isinstance(getattr(score, "function", score), RewardModel)


def combined(measure: Measure, scores: Mapping[str, Scores], completions: Sequence[Sequence[Completion]]) -> Scores:
    """Combine rewards as training does: None counts as absent, and a sample without any score stays None.

    Args:
        measure: One with terms.
        scores: Per measure, per prompt, one score per sample.
        completions: Per prompt, its samples.
    """
    parts = [[value for samples in scores[term] for value in samples] for term, _ in measure.terms]
    if measure.mix is None:
        flat = add_up(parts, [weight for _, weight in measure.terms])
    else:
        names = [part.name for part in measure.mix.parts]
        texts = [sample.text for samples in completions for sample in samples]
        flat = [row.reward for row in measure.mix.explain_scores(dict(zip(names, parts, strict=True)), texts)]
    values = iter(flat)
    return [[next(values) for _ in samples] for samples in completions]


def _first_line(function: Any) -> str:
    function = getattr(function, "function", function)  # the user's function inside a CheckedReward
    # A class instance would answer with its class' docstring, which says nothing about this reward.
    text = function.__doc__ if inspect.isroutine(function) or "__doc__" in getattr(function, "__dict__", {}) else None
    return (inspect.cleandoc(text).splitlines() or [""])[0] if text else ""


def _unique(names: Sequence[str], reserved: Sequence[str] = ()) -> list[str]:
    """Number the later ones of equal names: two rewards may both be called `score`."""
    taken = dict.fromkeys(reserved, 1)
    unique = []
    for name in names:
        taken[name] = taken.get(name, 0) + 1
        unique.append(name if taken[name] == 1 else f"{name}_{taken[name]}")
    return unique
