"""Measures that no stage trains on, by name: what `--metrics` takes, with what each needs and which way is better.

Functions with the signature of a reward give one score per completion, those of a group one per prompt from all its
samples. The corpus metrics behind them are `evaluate` modules in `rlgen.evaluation.references`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from reward_models import translation
from reward_models._text import completion_text
from rlgen.errors import ConfigError
from rlgen.evaluation import behavior
from rlgen.evaluation.references import distinct, equal, pass_at_k, rouge, self_bleu, several

Score = Callable[..., list[float | None]]
Group = Callable[[Sequence[Any]], float | None]

CORPUS = ("bleu", "chrf")  # counted over all completions together as well, which a mean of sentences is not
LOG_PERPLEXITY, EMBEDDING_SPREAD = "log_perplexity", "embedding_spread"

_REFERENCE = ("reference",)
_PASS = re.compile(r"pass@(?P<k>[1-9]\d*):(?P<over>\S+)")


@dataclass(frozen=True)
class Metric:
    """What a metric is.

    Args:
        description: One sentence for the report.
        higher_is_better: Direction, None where there is none.
        score: Function with the signature of a reward; None for a group, and for what a model must compute.
        group: Function of the texts of one prompt's samples; None where they say nothing.
        needs: Columns of which the rows need one.
    """

    description: str
    higher_is_better: bool | None
    score: Score | None = None
    group: Group | None = None
    needs: tuple[str, ...] = ()

    @property
    def kind(self) -> Literal["metric", "diagnostic"]:
        """A metric has a better direction; a diagnostic has none, and no claim is made about it."""
        return "diagnostic" if self.higher_is_better is None else "metric"


def rouge_l(completions: Sequence[Any], reference: Sequence[Any], **_: Any) -> list[float | None]:
    """Overlap with the human reference: F-measure of the longest common subsequence of stemmed words, 0 to 1."""
    return _rouge("rouge_l", completions, reference)


def exact_match(completions: Sequence[Any], reference: Sequence[Any], **_: Any) -> list[float | None]:
    """1 for a completion that equals a reference, runs of white space counting as one space, else 0."""
    return [
        equal(completion_text(completion), several(target)) if target else None
        for completion, target in zip(completions, reference, strict=True)
    ]


def length_tokens(completions: Sequence[Any], completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float | None]:
    """Tokens of every completion, the end token included."""
    return [float(len(ids)) for ids in completion_ids]


def truncated(completions: Sequence[Any], finished: Sequence[bool], **_: Any) -> list[float | None]:
    """1 for a completion that was cut at the length limit, 0 for one that ended by itself."""
    return [0.0 if done else 1.0 for done in finished]


def unknown_metric(name: str, own: Sequence[str] = ()) -> ConfigError:
    """The error for a name that is no metric and no reward.

    Args:
        name: What was asked for.
        own: Further metrics by name: the task's.
    """
    near = difflib.get_close_matches(name, [*own, *METRICS], n=1)
    known = f"there are {', '.join(dict.fromkeys([*own, *METRICS]))}, pass@K:MEASURE, rewards, and file.py:function"
    return ConfigError(f"unknown metric {name}: {f'did you mean {near[0]}?' if near else known}")


def parse_pass(name: str) -> tuple[int, str] | None:
    """Read `pass@K:MEASURE`: how many samples are drawn, and which measure says whether one passes.

    Raises:
        ConfigError: It begins with `pass@` and is written otherwise.
    """
    found = _PASS.fullmatch(name)
    if found:
        return int(found["k"]), found["over"]
    if name.startswith("pass@"):
        raise ConfigError(f"metric {name}: write it as pass@K:MEASURE, e.g. pass@4:exact_match")
    return None


def pass_group(k: int, over: str) -> Group:
    """Estimate pass@k from one prompt's scores; None where there are fewer samples than k, or not all are scored."""

    def estimate(scores: Sequence[Any]) -> float | None:
        if len(scores) < k or None in scores:
            return None
        try:
            return pass_at_k(scores, k)
        except ValueError as error:
            raise ConfigError(f"metric pass@{k}:{over}: {error}; name a measure that is pass or fail") from error

    return estimate


def missing_column(name: str, columns: Sequence[str]) -> str | None:
    """What keeps a metric from being measured on rows with these columns, as a sentence; None if nothing does."""
    metric = METRICS[name]
    if metric.needs and not set(metric.needs) & set(columns):
        wanted = " or ".join(f"'{column}'" for column in metric.needs)
        wanted += " or 'completion'" if metric.needs == _REFERENCE else ""
        return f"metric {name} needs a {wanted} column (found: {', '.join(columns)})"
    return None


def _rouge(name: str, completions: Sequence[Any], reference: Sequence[Any], **_: Any) -> list[float | None]:
    return [
        rouge(completion_text(completion), several(target), name) if target else None
        for completion, target in zip(completions, reference, strict=True)
    ]


def _samples_alike(texts: Sequence[str]) -> float | None:
    return self_bleu(texts) if len(texts) > 1 else None


def _samples_distinct(texts: Sequence[str], n: int) -> float | None:
    return distinct(texts, n) if len(texts) > 1 else None


def _first_line(function: Score) -> str:
    return (function.__doc__ or "").partition("\n")[0]


def _scored(function: Score, higher_is_better: bool | None, *needs: str) -> Metric:
    return Metric(_first_line(function), higher_is_better, function, needs=needs)


METRICS: Mapping[str, Metric] = {
    "rouge_l": _scored(rouge_l, True, "reference"),
    "rouge_1": Metric(
        "Overlap with the reference: F-measure of shared stemmed words, 0 to 1.",
        True,
        partial(_rouge, "rouge_1"),
        needs=_REFERENCE,
    ),
    "rouge_2": Metric(
        "Overlap with the reference: F-measure of shared pairs of stemmed words, 0 to 1.",
        True,
        partial(_rouge, "rouge_2"),
        needs=_REFERENCE,
    ),
    "rouge_lsum": Metric(
        "Overlap with the reference line by line: F-measure of united common subsequences, 0 to 1.",
        True,
        partial(_rouge, "rouge_lsum"),
        needs=_REFERENCE,
    ),
    "bleu": _scored(translation.bleu, True, "reference"),
    "chrf": _scored(translation.chrf, True, "reference"),
    "exact_match": _scored(exact_match, True, "reference"),
    LOG_PERPLEXITY: Metric(
        "Mean negative log-probability of the reference's tokens under the checkpoint, in nats; its exponential is "
        "the perplexity.",
        False,
        needs=_REFERENCE,
    ),
    "repetition_rate": _scored(behavior.repetition_rate, False),
    "refusal": _scored(behavior.refusal, None),
    "language_fit": _scored(behavior.language_fit, True, "language", "target_language"),
    "toxicity": _scored(behavior.toxicity, False),
    "self_bleu": Metric(
        "Mean BLEU of a prompt's samples against each other, 0 to 1: low where they differ.",
        None,
        group=_samples_alike,
    ),
    "sample_distinct_1": Metric(
        "Share of different words among all words of a prompt's samples.", None, group=partial(_samples_distinct, n=1)
    ),
    "sample_distinct_2": Metric(
        "Share of different word pairs among all pairs of a prompt's samples.",
        None,
        group=partial(_samples_distinct, n=2),
    ),
    EMBEDDING_SPREAD: Metric(
        "Mean cosine distance between a prompt's samples, by mean-pooled hidden states of one model.", None
    ),
}
