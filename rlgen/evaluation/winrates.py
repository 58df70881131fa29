"""Who wins how often, also if answers were equally long, and which checkpoints give most reward for their KL."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from rlgen.evaluation.results import AllScores, direction, number, primary_measure
from rlgen.evaluation.statistics import CONFIDENCE, TIE, prompt_means, win_share

# A coefficient beyond this (odds of 3,000 to 1) is one that the data do not bound.
UNBOUNDED = 8.0

# texts[sampling][checkpoint] is per prompt the text of each sample
Texts = Mapping[str, Mapping[str, Sequence[Sequence[str]]]]


@dataclass(frozen=True)
class Controlled:
    """How often the second of two would win if both were equally long.

    Attributes:
        rate: Share of prompts, ties counted half; NaN where length and winning cannot be told apart.
        low: Lower end of its interval.
        high: Upper end.
        length_effect: Log-odds of winning for a length difference of one standard deviation; NaN likewise.
    """

    rate: float
    low: float
    high: float
    length_effect: float


def win_rates(results: Mapping[str, Any], scores: AllScores, texts: Texts) -> list[dict[str, Any]]:
    """Every pair of checkpoints in the given order, on the measure that the verdicts are about.

    Args:
        results: The measures and their directions, as results.json has them.
        scores: By plan, checkpoint and measure.
        texts: Whose lengths in characters are held equal: tokens of two vocabularies do not compare.

    Returns:
        The list `win_rates` of results.json.
    """
    name = primary_measure(results)
    if name is None:
        return []
    down = direction(results, name) is False
    rows = []
    for plan, by_checkpoint in scores.items():
        means = {c: prompt_means(values[name]) * (-1 if down else 1) for c, values in by_checkpoint.items()}
        lengths = {
            c: np.array([np.mean([len(text) for text in samples]) for samples in by_prompt])
            for c, by_prompt in texts[plan].items()
        }
        for a, b in itertools.combinations(by_checkpoint, 2):
            won, longer = wins(means[a], means[b]), lengths[b] - lengths[a]
            known = ~np.isnan(won)
            plain = win_share(won)
            controlled = length_controlled(won[known], longer[known])
            rows.append(
                {
                    "a": a,
                    "b": b,
                    "measure": name,
                    "sampling": plan,
                    "n": plain.n,
                    "win_rate": number(plain.mean),
                    "ci_low": number(plain.low),
                    "ci_high": number(plain.high),
                    "length_difference": number(longer[known].mean()) if plain.n else None,
                    "length_controlled_win_rate": number(controlled.rate),
                    "length_controlled_ci_low": number(controlled.low),
                    "length_controlled_ci_high": number(controlled.high),
                    "length_effect": number(controlled.length_effect),
                }
            )
    return rows


def wins(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """1 where b scores higher, 0 where a does, 0.5 for ties, NaN where one of them has no score."""
    difference = b - a
    return np.where(
        np.isnan(difference), np.nan, np.where(abs(difference) <= TIE, 0.5, (difference > 0).astype(float))
    )


def length_controlled(won: np.ndarray, longer: np.ndarray, *, confidence: float = CONFIDENCE) -> Controlled:
    """Win rate at equal lengths, by a logistic regression of winning on the difference in length.

    logit P(b wins) = theta + beta * tanh(longer / sd(longer)), ties counting as half a win; the answer is
    logistic(theta), the prediction at a difference of zero. Standard errors are the sandwich's (HC1), since half wins
    are no Bernoulli draws. AlpacaEval's model has the difficulty of each instruction besides, which needs many models.

    Args:
        won: 1, 0.5 or 0 per prompt, no NaN.
        longer: By how much b's answer is longer, same prompts.
        confidence: Level of the interval, in (0, 1).

    Returns:
        NaN in all fields where there are fewer than three prompts, one side always wins, or length separates wins
        from losses: then the data put no bound on what length explains.

    Source: Dubois et al. 2024, "Length-Controlled AlpacaEval", equation 2.
    """
    unknown = Controlled(math.nan, math.nan, math.nan, math.nan)
    if won.size < 3 or ((won == won[0]).all() and won[0] != 0.5):
        return unknown
    deviation = float(longer.std())
    columns = [np.ones(won.size)] if deviation <= TIE else [np.ones(won.size), np.tanh(longer / deviation)]
    if deviation <= TIE and abs(longer[0]) > TIE:
        return unknown  # always longer by the same amount: there is nothing to learn the effect of length from
    import statsmodels.api as sm  # only here: it takes a second to import

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it would say about separation is judged below
        try:
            fit = sm.GLM(won, np.column_stack(columns), family=sm.families.Binomial()).fit(cov_type="HC1")
        except (np.linalg.LinAlgError, ValueError):
            return unknown
    if not fit.converged or not np.isfinite(fit.bse).all() or (abs(fit.params) > UNBOUNDED).any():
        return unknown
    theta, half = float(fit.params[0]), float(stats.norm.ppf((1 + confidence) / 2) * fit.bse[0])
    rate, low, high = 1 / (1 + np.exp(-np.array([theta, theta - half, theta + half])))
    return Controlled(float(rate), float(low), float(high), float(fit.params[1]) if len(columns) > 1 else 0.0)


def pareto(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Which checkpoints no other one beats on the primary measure and on KL at once, by their means.

    Args:
        results: Its summary, measures and KL reference.

    Returns:
        The list `pareto` of results.json; empty without a KL reference or a measure to be good at.
    """
    name, reference = primary_measure(results), results["kl_reference"]
    if name is None or reference is None:
        return []
    sign = -1 if direction(results, name) is False else 1
    rows = []
    for plan in (sampling["name"] for sampling in results["sampling"]):
        points: dict[str, tuple[float, float]] = {}
        for checkpoint, by_plan in results["summary"].items():
            score, kl = by_plan[plan][name]["mean"], by_plan[plan][f"kl_{reference}"]["mean"]
            if score is not None and kl is not None:
                points[checkpoint] = (score, kl)
        for checkpoint, (score, kl) in points.items():
            dominating = [
                other
                for other, (theirs, their_kl) in points.items()
                if sign * theirs >= sign * score and their_kl <= kl and (theirs, their_kl) != (score, kl)
            ]
            rows.append(
                {
                    "sampling": plan,
                    "checkpoint": checkpoint,
                    "measure": name,
                    "value": score,
                    "kl": kl,
                    "on_front": not dominating,
                    "dominated_by": dominating,
                }
            )
    return rows
