"""Statistics of a comparison: the prompt is the unit, so the samples of one prompt are averaged first."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
RESAMPLES = 9_999
TIE = 1e-9  # two scores closer than this are the same score computed in another order


@dataclass(frozen=True)
class Estimate:
    """A mean over prompts with its interval; NaN where there is nothing to average."""

    n: int
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Paired:
    """A paired difference b - a over the prompts that both sides have a score for."""

    n: int
    mean_a: float
    mean_b: float
    difference: float
    low: float
    high: float
    win_rate: float
    tie_rate: float
    p_value: float = math.nan

    @property
    def shown(self) -> bool:
        """Whether the interval excludes zero and the test, where there is one, agrees.

        Intervals of very skewed differences exclude zero a little too often; the test keeps its level.
        """
        return (self.low > TIE or self.high < -TIE) and not self.p_value >= 1 - CONFIDENCE

    @property
    def loss_rate(self) -> float:
        """Share of prompts on which b does worse."""
        return max(0.0, 1 - self.win_rate - self.tie_rate)

    def flipped(self) -> Paired:
        """The same comparison read from the other side: a - b."""
        return Paired(
            n=self.n,
            mean_a=self.mean_b,
            mean_b=self.mean_a,
            difference=-self.difference,
            low=-self.high,
            high=-self.low,
            win_rate=self.loss_rate,
            tie_rate=self.tie_rate,
            p_value=self.p_value,
        )


def prompt_means(scores: Sequence[Sequence[float | None]]) -> np.ndarray:
    """Average the samples of every prompt.

    Args:
        scores: Per prompt, the score of each sample; None means "does not apply".

    Returns:
        One mean per prompt, shape (prompts,), NaN for a prompt without any score.
    """
    kept = [[score for score in samples if score is not None] for samples in scores]
    return np.array([float(np.mean(samples)) if samples else math.nan for samples in kept], dtype=float)


def bootstrap_mean(
    values: np.ndarray, *, confidence: float = CONFIDENCE, resamples: int = RESAMPLES, seed: int = 0
) -> Estimate:
    """Mean of independent values with a bootstrap interval.

    The interval is bias-corrected and accelerated (BCa); where that is undefined it is the percentile interval, and
    where all values are equal it is that value. One value has no interval: low and high are NaN. Bootstrap intervals
    of few values are too narrow; the level is raised by what makes a normal interval Student's (`_expanded`).

    Args:
        values: One number per prompt, shape (prompts,); NaN entries are left out.
        confidence: Level of the interval, in (0, 1).
        resamples: Number of bootstrap resamples.
        seed: Seed of the resampling. The order of the values does not matter.

    Returns:
        The number of values used, their mean and the interval.

    Source: Efron 1987, "Better Bootstrap Confidence Intervals"; Hesterberg 2015, "What Teachers Should Know About the
    Bootstrap", section 3.3, for the expanded level.
    """
    # Sorted, so that the same prompts in another order give the same interval to the last digit.
    kept = np.sort(values[~np.isnan(values)])
    if kept.size == 0:
        return Estimate(0, math.nan, math.nan, math.nan)
    mean = float(kept.mean())
    if kept.size == 1:
        return Estimate(1, mean, math.nan, math.nan)
    if kept[-1] - kept[0] <= TIE:
        return Estimate(int(kept.size), mean, mean, mean)
    low = high = math.nan
    for method in ("BCa", "percentile"):
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            interval = stats.bootstrap(
                (kept,),
                np.mean,
                n_resamples=resamples,
                confidence_level=_expanded(confidence, kept.size),
                method=method,
                rng=np.random.default_rng(seed),
            ).confidence_interval
        low, high = float(interval.low), float(interval.high)
        if math.isfinite(low) and math.isfinite(high):
            break
    return Estimate(int(kept.size), mean, low, high)


def _expanded(confidence: float, size: int) -> float:
    """The level at which a bootstrap interval of `size` values is as wide as it should be at `confidence`."""
    half_width = math.sqrt(size / (size - 1)) * stats.t.ppf((1 + confidence) / 2, size - 1)
    return float(1 - 2 * stats.norm.cdf(-half_width))


def win_share(won: np.ndarray) -> Estimate:
    """Mean of wins (1), ties (0.5) and losses (0), with an interval.

    It is `bootstrap_mean`, but where all win or all lose: resampling shows no doubt there, so that the interval is the
    exact one of a share (Clopper & Pearson 1934).

    Args:
        won: One number per prompt, shape (prompts,); NaN entries are left out.
    """
    estimate = bootstrap_mean(won)
    if estimate.low != estimate.high or estimate.mean not in (0.0, 1.0):
        return estimate
    exact = stats.binomtest(round(estimate.mean * estimate.n), estimate.n).proportion_ci(CONFIDENCE)
    return Estimate(estimate.n, estimate.mean, float(exact.low), float(exact.high))


def compare_paired(
    a: np.ndarray,
    b: np.ndarray,
    *,
    higher_is_better: bool | None = True,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Paired:
    """Compare two checkpoints on the same prompts.

    Resampling prompts and taking the difference of the two means is the same as resampling the per-prompt
    differences, which is what is done here.

    Args:
        a: Prompt means of the first checkpoint, shape (prompts,), NaN where the measure does not apply.
        b: Prompt means of the second one, same prompts in the same order.
        higher_is_better: Direction of the measure; without one (None) a larger value counts as a win.
        confidence: Level of the interval, in (0, 1).
        resamples: Number of bootstrap resamples.
        seed: Seed of the resampling.

    Returns:
        Means over the prompts that both have, their difference b - a with its interval, the share of prompts where b
        wins and the share of ties.

    Raises:
        ValueError: The two differ in length.
    """
    if a.shape != b.shape:
        raise ValueError(f"paired scores must belong to the same prompts, got {a.shape} and {b.shape}")
    both = ~(np.isnan(a) | np.isnan(b))
    a, b = a[both], b[both]
    differences = b - a
    estimate = bootstrap_mean(differences, confidence=confidence, resamples=resamples, seed=seed)
    if estimate.n == 0:
        return Paired(0, *[math.nan] * 7)
    gains = -differences if higher_is_better is False else differences
    return Paired(
        n=estimate.n,
        mean_a=float(a.mean()),
        mean_b=float(b.mean()),
        difference=estimate.mean,
        low=estimate.low,
        high=estimate.high,
        win_rate=float(np.mean(gains > TIE)),
        tie_rate=float(np.mean(np.abs(gains) <= TIE)),
    )
