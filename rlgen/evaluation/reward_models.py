"""How good a reward is at telling the better text of a pair: accuracy, calibration, shortcuts, and its worst mistakes.

docs/rewards/models.md explains every key of the evaluation.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from datasets import Dataset
from scipy import stats

from rlgen.data import prompt_text
from rlgen.errors import DataError
from rlgen.preferences import (
    accuracy_interval,
    evaluate_pairs,
    pair_texts,
    trivial_outcomes,
    unit_hashes,
    wins,
)
from rlgen.rewards import call_reward
from rlgen.rewards.aggregate import AGGREGATES, aggregate
from rlgen.rewards.check import Reward

Scores = Sequence[float | None]
PairScores = tuple[list[float | None], list[float | None]]

# By how much longer the chosen text is, as a share of the longer one: up to -0.5, -0.1, 0.1, 0.5, and beyond.
LENGTH_GAPS = ("much shorter", "shorter", "alike", "longer", "much longer")
_GAP_EDGES = (-0.5, -0.1, 0.1, 0.5)
RESAMPLES = 1000


def evaluate_reward(
    reward: Reward,
    pairs: Dataset,
    *,
    gold: Mapping[str, Reward] | None = None,
    others: Mapping[str, Reward] | None = None,
    bins: int = 10,
    worst: int = 10,
) -> dict[str, Any]:
    """Evaluate any reward on preference pairs.

    Args:
        reward: function, trained model or ensemble.
        pairs: rows with prompt, chosen, rejected and, where known, source, domain, group and what the reward reads.
        gold: rewards to agree with, by name.
        others: rewards to be better than, by name, besides the trivial rankers.
        bins: of the reliability diagram.
        worst: how many mistakes to keep.

    Returns:
        What evaluation.json holds.

    Raises:
        DataError: no pairs, or none that the reward scores.
        RewardError: a reward raised or broke the contract.
    """
    if len(pairs) == 0:
        raise DataError("there are no pairs to evaluate a reward on; give at least one")
    inner: Any = getattr(reward, "function", reward)
    if hasattr(inner, "member_scores"):
        members = score_members(inner, pairs)
        how = (inner.aggregate, inner.uncertainty_coef)
        scores: PairScores = _aggregated(members, *how)
    else:
        members, scores = [], score_pairs(reward, pairs)
    kept = [row for row, (a, b) in enumerate(zip(*scores, strict=True)) if a is not None and b is not None]
    if not kept:
        raise DataError(f"the reward says None to all {len(pairs)} pairs: it does not apply to them")
    pairs = pairs.select(kept)
    chosen, rejected = _rows(scores, kept)
    outcomes = [wins(a, b) for a, b in zip(chosen, rejected, strict=True)]
    units = unit_hashes(pairs)
    evaluation: dict[str, Any] = {
        **evaluate_pairs(pairs, chosen, rejected),
        "n_unscored": len(scores[0]) - len(kept),
        "by_domain": _by_group(pairs["domain"], outcomes, units) if "domain" in pairs.column_names else {},
        "by_length_gap": _by_group(length_gaps(pairs), outcomes, units, LENGTH_GAPS),
        "calibration": calibration(chosen, rejected, units, bins=bins, unit=float(getattr(inner, "deviation", 1.0))),
        "against": {
            name: {**accuracy_interval(theirs, units), **paired_difference(outcomes, theirs, units)}
            for name, theirs in {
                **trivial_outcomes(pairs),
                **{name: _outcomes(other, pairs) for name, other in (others or {}).items()},
            }.items()
        },
        "gold": {name: gold_agreement(chosen, rejected, other, pairs) for name, other in (gold or {}).items()},
        "worst_mistakes": worst_mistakes(pairs, chosen, rejected, worst),
    }
    if members:
        evaluation["ensemble"] = _ensemble(members, how, kept, outcomes, units)
    return evaluation


def score_pairs(reward: Reward, pairs: Dataset) -> PairScores:
    """Scores of the chosen and of the rejected texts by any reward; None where it does not apply.

    Args:
        reward: function, trained model or ensemble.
        pairs: rows with prompt, chosen, rejected; other columns go to the reward.
    """
    prompts, texts, columns = _side_by_side(pairs)
    scores = call_reward(reward, prompts, texts, **columns)
    return scores[::2], scores[1::2]


def score_members(ensemble: Any, pairs: Dataset) -> list[PairScores]:
    """The same for each member of an ensemble."""
    prompts, texts, _ = _side_by_side(pairs)
    return [(scores[::2], scores[1::2]) for scores in ensemble.member_scores(prompts, texts)]


def length_gaps(pairs: Dataset) -> list[str]:
    """How the length of each chosen text compares with that of the rejected one, in the words of LENGTH_GAPS."""
    gaps = [(len(a) - len(b)) / max(len(a), len(b), 1) for a, b in pair_texts(pairs)]
    return [LENGTH_GAPS[int(np.searchsorted(_GAP_EDGES, gap))] for gap in gaps]


def calibration(
    chosen: Sequence[float], rejected: Sequence[float], units: Sequence[str], *, bins: int = 10, unit: float = 1.0
) -> dict[str, Any]:
    """Whether sigmoid(score difference) is the probability that the text with the higher score is the better one.

    Args:
        chosen: scores of the chosen texts.
        rejected: of the rejected ones.
        units: what may be resampled, one key per pair.
        bins: of the reliability diagram, each with as many pairs (one more or less).
        unit: log odds per unit of score.

    Returns:
        `brier` (mean squared error of the probability that the chosen text wins), `log_loss` (natural log), `ece`
        (expected calibration error over the bins), `mean_confidence`, and the bins: n, confidence (0.5 to 1),
        accuracy with its interval.

    Source: Guo et al. 2017, "On calibration of modern neural networks", arXiv 1706.04599 (ECE); Nguyen and O'Connor
        2015, arXiv 1508.05154 (bins of equal mass); Brier 1950.
    """
    margins = unit * (np.asarray(chosen, dtype=float) - np.asarray(rejected, dtype=float))
    outcomes = np.where(margins == 0, 0.5, (margins > 0).astype(float))
    confidence = 1 / (1 + np.exp(-np.abs(margins)))
    probability = np.where(margins >= 0, confidence, 1 - confidence)
    order = np.argsort(confidence, kind="stable")
    parts = [part for part in np.array_split(order, min(bins, len(order))) if len(part)]
    rows = [
        {
            "confidence": float(confidence[part].mean()),
            **accuracy_interval(outcomes[part].tolist(), [units[index] for index in part]),
        }
        for part in parts
    ]
    gaps = [abs(outcomes[part].mean() - confidence[part].mean()) * len(part) for part in parts]
    return {
        "brier": float(np.mean((1 - probability) ** 2)),
        "log_loss": float(np.mean(np.logaddexp(0, -margins))),
        "ece": float(sum(gaps) / len(order)),
        "mean_confidence": float(confidence.mean()),
        "bins": rows,
    }


def paired_difference(ours: Sequence[float], theirs: Sequence[float], units: Sequence[str]) -> dict[str, float]:
    """How much more often we are right than another ranker on the same pairs, with a 95% interval over units.

    Args:
        ours: 1.0, 0.5 or 0.0 for each pair.
        theirs: likewise.
        units: what is resampled, one key per pair.
    """
    difference = np.asarray(ours) - np.asarray(theirs)
    low, high = _resampled(lambda rows: float(difference[rows].mean()), units)
    return {"difference": float(difference.mean()), "difference_low": low, "difference_high": high}


def gold_agreement(
    chosen: Sequence[float], rejected: Sequence[float], gold: Reward, pairs: Dataset
) -> dict[str, float | None]:
    """How well scores agree with a reward that is taken for the truth.

    Args:
        chosen: scores of the chosen texts.
        rejected: of the rejected ones.
        gold: the other reward.
        pairs: the pairs.

    Returns:
        `spearman` and `kendall` (tau-b) over all texts with 95% intervals over units, `same_order`: the share of
        pairs that both order alike among those that the gold reward orders; None where they are not defined.
    """
    theirs = score_pairs(gold, pairs)
    kept = [row for row, (a, b) in enumerate(zip(*theirs, strict=True)) if a is not None and b is not None]
    units = [unit_hashes(pairs)[row] for row in kept]
    ours = np.array([[chosen[row], rejected[row]] for row in kept])
    golden = np.array([[theirs[0][row], theirs[1][row]] for row in kept], dtype=float)
    ordered = [row for row in range(len(kept)) if golden[row, 0] != golden[row, 1]]
    same = [wins(*(math.copysign(1, golden[r, 0] - golden[r, 1]) * ours[r])) for r in ordered]
    found: dict[str, float | None] = {
        "n_texts": 2 * len(kept),
        "same_order": accuracy_interval(same, [units[row] for row in ordered])["accuracy"] if same else None,
    }
    for name, measure in (("spearman", stats.spearmanr), ("kendall", stats.kendalltau)):
        value = _correlation(measure, ours, golden)
        found[name] = value
        if value is None:
            found[f"{name}_low"] = found[f"{name}_high"] = None
            continue
        of_rows = partial(_correlation_of_rows, measure, ours, golden)
        found[f"{name}_low"], found[f"{name}_high"] = _resampled(of_rows, units, resamples=300)
    return found


def worst_mistakes(
    pairs: Dataset, chosen: Sequence[float], rejected: Sequence[float], count: int
) -> list[dict[str, Any]]:
    """The pairs in which the rejected text wins by most.

    Args:
        pairs: the pairs.
        chosen: scores of the chosen texts.
        rejected: of the rejected ones.
        count: at most so many.
    """
    order = sorted(range(len(pairs)), key=lambda row: chosen[row] - rejected[row])
    texts = pair_texts(pairs)
    return [
        {
            "prompt": prompt_text(pairs[row]["prompt"]),
            "chosen": texts[row][0],
            "rejected": texts[row][1],
            "chosen_score": chosen[row],
            "rejected_score": rejected[row],
        }
        for row in order[:count]
        if chosen[row] < rejected[row]
    ]


def _ensemble(
    members: Sequence[PairScores], how: tuple[str, float], kept: Sequence[int], outcomes: Sequence[float], units: Any
) -> dict[str, Any]:
    """Accuracy of each member and aggregate, and whether members disagree more where the whole is wrong."""

    def accuracy(scores: PairScores) -> dict[str, float]:
        chosen, rejected = _rows(scores, kept)
        return accuracy_interval([wins(a, b) for a, b in zip(chosen, rejected, strict=True)], units)

    margins = np.array([np.subtract(*_rows(scores, kept)) for scores in members])
    spread = margins.std(axis=0)
    right = np.asarray(outcomes) > 0.5
    return {
        "aggregate": how[0],
        "members": [accuracy(scores) for scores in members],
        "aggregates": {name: accuracy(_aggregated(members, name, how[1])) for name in AGGREGATES},
        "disagreement_when_right": float(spread[right].mean()) if right.any() else None,
        "disagreement_when_wrong": float(spread[~right].mean()) if not right.all() else None,
    }


def _aggregated(members: Sequence[PairScores], how: str, coef: float) -> PairScores:
    return (
        aggregate([chosen for chosen, _ in members], how, coef),
        aggregate([rejected for _, rejected in members], how, coef),
    )


def _rows(scores: PairScores, kept: Sequence[int]) -> tuple[list[float], list[float]]:
    chosen, rejected = ([float(side[row] or 0.0) for row in kept] for side in scores)
    return chosen, rejected


def _outcomes(reward: Reward, pairs: Dataset) -> list[float]:
    """1.0, 0.5 or 0.0 for each pair; a pair to which the reward does not apply counts as a tie."""
    scores = zip(*score_pairs(reward, pairs), strict=True)
    return [0.5 if a is None or b is None else wins(a, b) for a, b in scores]


def _by_group(
    names: Sequence[str], outcomes: Sequence[float], units: Sequence[str], order: Sequence[str] | None = None
) -> dict[str, dict[str, float]]:
    groups = [name for name in (order or sorted(set(map(str, names)))) if name in set(map(str, names))]
    rows = {group: [row for row, name in enumerate(names) if str(name) == group] for group in groups}
    return {
        group: accuracy_interval([outcomes[row] for row in rows[group]], [units[row] for row in rows[group]])
        for group in groups
    }


def _correlation_of_rows(
    measure: Callable[..., Any], ours: np.ndarray, golden: np.ndarray, rows: np.ndarray
) -> float | None:
    return _correlation(measure, ours[rows], golden[rows])


def _correlation(measure: Callable[..., Any], ours: np.ndarray, golden: np.ndarray) -> float | None:
    if ours.size < 2 or np.ptp(ours) == 0 or np.ptp(golden) == 0:
        return None
    return float(measure(ours.ravel(), golden.ravel()).statistic)


def _resampled(
    statistic: Callable[[Any], float | None], units: Sequence[str], *, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """95% percentile interval of a statistic of pairs, resampling units."""
    keys, inverse = np.unique(np.asarray(units), return_inverse=True)
    rows = [np.flatnonzero(inverse == key) for key in range(len(keys))]
    random = np.random.default_rng(0)
    values = []
    for _ in range(resamples):
        drawn = random.integers(len(rows), size=len(rows))
        value = statistic(np.concatenate([rows[index] for index in drawn]))
        if value is not None:
            values.append(value)
    if not values:
        return math.nan, math.nan
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def _side_by_side(pairs: Dataset) -> tuple[list[Any], list[Any], dict[str, list[Any]]]:
    """Prompts, texts and other columns with the two texts of a pair next to each other, which share their prompt."""
    prompts = [prompt for prompt in pairs["prompt"] for _ in range(2)]
    texts = [text for pair in zip(pairs["chosen"], pairs["rejected"], strict=True) for text in pair]
    names = [name for name in pairs.column_names if name not in ("prompt", "chosen", "rejected", "completion_ids")]
    columns = {name: [value for value in pairs[name] for _ in range(2)] for name in names}
    return prompts, texts, {**columns, "completion_ids": [[] for _ in texts]}
