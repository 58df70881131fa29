"""Whether a paired difference is more than chance, how large it is, and how many prompts would show a smaller one.

The unit is the prompt, as in `rlgen.evaluation.statistics`: all functions take one number per prompt.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from rlgen.evaluation.statistics import CONFIDENCE, TIE

ALPHA = 1 - CONFIDENCE
POWER = 0.8
FLIPS = 9_999


@dataclass(frozen=True)
class Significance:
    """What the differences of one pair of checkpoints on one measure say beside their interval.

    Attributes:
        p_value: of no difference, two-sided; exact McNemar where all scores are pass or fail, else sign flips.
        test: `mcnemar` or `permutation`.
        effect_size: mean difference over the standard deviation of the differences (Cohen's d_z); NaN if they are
            all equal.
        detectable: smallest true difference that this many prompts show with a power of 80% at the 5% level.
        prompts_needed: how many prompts would show a true difference as large as the one seen, likewise; NaN where
            there is none.
    """

    p_value: float
    test: str
    effect_size: float
    detectable: float
    prompts_needed: float


def significance(a: np.ndarray, b: np.ndarray) -> Significance:
    """Judge b - a over the prompts that both sides have a score for.

    Args:
        a: Prompt means of the first checkpoint, shape (prompts,), NaN where the measure does not apply.
        b: Prompt means of the second one, same prompts in the same order.

    Returns:
        NaN in all fields where fewer than two prompts are left.

    Source: Cohen 1988, "Statistical Power Analysis for the Behavioral Sciences", for effect size and power.
    """
    both = ~(np.isnan(a) | np.isnan(b))
    a, b = a[both], b[both]
    if a.size < 2:
        return Significance(math.nan, "permutation", math.nan, math.nan, math.nan)
    differences = b - a
    if np.isin(np.concatenate([a, b]), (0.0, 1.0)).all():
        p_value, test = mcnemar(a, b), "mcnemar"
    else:
        p_value, test = sign_flips(differences), "permutation"
    deviation = float(differences.std(ddof=1))
    if deviation <= TIE:
        return Significance(p_value, test, math.nan, 0.0, math.nan)
    effect = float(differences.mean()) / deviation
    return Significance(
        p_value, test, effect, detectable_effect(differences.size) * deviation, prompts_needed(abs(effect))
    )


def sign_flips(differences: np.ndarray, *, flips: int = FLIPS, seed: int = 0) -> float:
    """Two-sided permutation test of paired differences: under no difference each could as well have the other sign.

    All 2^n sign patterns where they are at most `flips`, else so many at random, the observed one counted in
    (Phipson & Smyth 2010). One matrix product does in a tenth of the time what `scipy.stats.permutation_test` does.

    Args:
        differences: One per prompt, shape (prompts,), no NaN.
        flips: Number of random sign patterns.
        seed: Seed of the patterns. The order of the differences does not matter.

    Returns:
        The p-value, in (0, 1].
    """
    kept = np.sort(differences)
    if 2**kept.size <= flips:
        signs = np.array(list(itertools.product((-1.0, 1.0), repeat=kept.size)))
        observed_too = 0
    else:
        signs = np.random.default_rng(seed).integers(0, 2, (flips, kept.size)) * 2.0 - 1.0
        observed_too = 1
    extreme = np.abs(signs @ kept) >= abs(kept.sum()) - TIE * kept.size
    return float((extreme.sum() + observed_too) / (len(signs) + observed_too))


def mcnemar(a: np.ndarray, b: np.ndarray) -> float:
    """Exact two-sided McNemar test for scores that are 0 or 1: a binomial test of the prompts that changed.

    Source: McNemar 1947, "Note on the sampling error of the difference between correlated proportions".
    """
    won, lost = int((b > a).sum()), int((b < a).sum())
    return float(stats.binomtest(won, won + lost).pvalue) if won + lost else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction for several tests (Holm 1979); NaN stays NaN and does not count.

    As `statsmodels.stats.multitest.multipletests`, which collects garbage in every call: a comparison has hundreds.
    """
    corrected = np.array(p_values, dtype=float)
    known = np.flatnonzero(~np.isnan(corrected))
    order = known[np.argsort(corrected[known])]
    steps = corrected[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return [float(value) for value in corrected]


def detectable_effect(prompts: int, *, alpha: float = ALPHA, power: float = POWER) -> float:
    """Smallest true effect size d_z that a paired t-test on so many prompts shows with the given power."""
    from statsmodels.stats.power import TTestPower

    return float(TTestPower().solve_power(nobs=prompts, alpha=alpha, power=power))


def prompts_needed(effect_size: float, *, alpha: float = ALPHA, power: float = POWER) -> float:
    """How many prompts a paired t-test needs to show a true effect size d_z > 0 with the given power; NaN for 0."""
    from statsmodels.stats.power import TTestPower

    if effect_size < 1e-3:  # a million prompts and more: no answer worth giving, and none that the solver finds
        return math.nan
    # Above this effect the smallest sample that a t-test can be made of is enough.
    return math.ceil(TTestPower().solve_power(effect_size=min(effect_size, 3.0), alpha=alpha, power=power))


@dataclass(frozen=True)
class AcrossSeeds:
    """A claim about a way of training, from checkpoints of several seeds.

    Attributes:
        seeds: How many.
        difference: Mean of b - a over seeds and prompts.
        low: Lower end of the interval.
        high: Upper end.
        between_seeds: Standard deviation of the seeds' mean differences.
        by_seed: Those means.
    """

    seeds: int
    difference: float
    low: float
    high: float
    between_seeds: float
    by_seed: tuple[float, ...]


def across_seeds(differences: np.ndarray, *, confidence: float = CONFIDENCE) -> AcrossSeeds:
    """Interval for the mean difference of a method, over the seeds and the prompts that might have been.

    The variance of the mean has two parts, that between seeds over their number and that between prompts (of the
    differences averaged over seeds) over theirs; the interval is Student's with Welch-Satterthwaite's degrees of
    freedom. What is left of the seeds' noise in the second part makes it a little wide.

    Args:
        differences: b - a, shape (seeds, prompts), NaN where the measure does not apply.
        confidence: Level of the interval, in (0, 1).

    Raises:
        ValueError: There are fewer than two seeds.

    Source: Satterthwaite 1946, "An approximate distribution of estimates of variance components".
    """
    seeds = len(differences)
    if seeds < 2:
        raise ValueError(f"a claim about a method needs two seeds at least, not {seeds}")
    kept = differences[:, ~np.isnan(differences).any(axis=0)]
    if kept.shape[1] < 2:
        return AcrossSeeds(seeds, math.nan, math.nan, math.nan, math.nan, (math.nan,) * seeds)
    by_seed, by_prompt = kept.mean(axis=1), kept.mean(axis=0)
    parts = np.array([by_seed.var(ddof=1) / seeds, by_prompt.var(ddof=1) / by_prompt.size])
    mean, error = float(kept.mean()), float(np.sqrt(parts.sum()))
    half = 0.0
    if error > TIE:
        freedom = parts.sum() ** 2 / (parts**2 / np.array([seeds - 1, by_prompt.size - 1])).sum()
        half = float(stats.t.ppf((1 + confidence) / 2, freedom)) * error
    return AcrossSeeds(
        seeds, mean, mean - half, mean + half, float(by_seed.std(ddof=1)), tuple(float(x) for x in by_seed)
    )
