"""Over-optimization: how a gold reward goes with KL while a proxy is optimized, the fitted law, and where to stop.

Letters for shapes: P prompts, N samples a prompt, C points of a curve. KL is that of the optimized policy to the one
that it started from, in nats a completion, and d its square root. Source for all of it: Gao, Schulman and Hilton 2022,
"Scaling Laws for Reward Model Overoptimization", arXiv 2210.10760.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from scipy.special import gammaln

from rlgen.errors import DataError
from rlgen.evaluation.statistics import CONFIDENCE, TIE, bootstrap_mean

Kind = Literal["rl", "best_of_n"]

RESAMPLES = 2_000
SURE = 0.975
"""Share of the resamples that must have the peak within the range seen, for a peak to be called one."""
FEWEST_POINTS = 3
"""Two coefficients are fitted; two points would be met exactly, whatever they are."""


@dataclass(frozen=True)
class Curve:
    """Gains over the starting policy along one way of optimizing.

    Args:
        kind: "rl" for checkpoints of a run, "best_of_n" for the best of n samples by the proxy.
        labels: what each point is, C of them.
        kl: shape (C, P); for best of n the same number for all prompts.
        proxy: gain of the optimized reward, shape (C, P).
        gold: gain of the gold reward, shape (C, P).
    """

    kind: Kind
    labels: tuple[str, ...]
    kl: np.ndarray
    proxy: np.ndarray
    gold: np.ndarray


@dataclass(frozen=True)
class Fit:
    """gain = d (a - b log d) for RL, d (a - b d) for best of n, with the KL at which it is highest.

    `peak_kl` is infinite where the law rises for ever, 0 where it falls from the start. Intervals are percentiles over
    resampled prompts.
    """

    kind: Kind
    a: float
    b: float
    peak_kl: float
    a_interval: tuple[float, float] = (math.nan, math.nan)
    b_interval: tuple[float, float] = (math.nan, math.nan)
    peak_interval: tuple[float, float] = (math.nan, math.nan)
    inside: float = math.nan
    """Share of the resamples whose peak lies within the range of KL seen."""
    r_squared: float = math.nan
    peaks: np.ndarray = field(default_factory=lambda: np.empty(0), repr=False, compare=False)

    def gain(self, kl: np.ndarray) -> np.ndarray:
        """What the law says for KLs of at least 0."""
        return design(self.kind, np.sqrt(kl)) @ np.array([self.a, self.b])


def best_of_n_kl(n: int) -> float:
    """KL of the best of n samples to the policy that they are drawn from: log n - (n - 1) / n, in nats.

    Exact where no two samples tie; an upper bound where they do, as with a discrete reward.

    Source: Stiennon et al. 2020, appendix G.3; Beirami et al. 2024, arXiv 2401.01879, for the bound.
    """
    return math.log(n) - (n - 1) / n


def best_of_n(proxy: np.ndarray, values: np.ndarray, n: int) -> np.ndarray:
    """Expected value of the sample that the proxy likes best among n, estimated without bias from all N.

    With the samples in ascending order of the proxy, the i-th of N (from 1) is the best of a random subset of n with
    probability C(i - 1, n - 1) / C(N, n). Samples that tie share their probability, as a random choice among them
    would.

    Args:
        proxy: what is chosen by, shape (P, N).
        values: what is averaged, the same shape.
        n: 1 to N.

    Returns:
        One number a prompt, shape (P,).

    Source: Nakano et al. 2021, WebGPT, arXiv 2112.09332, appendix I; Gao et al. 2022, equation 3.
    """
    total = proxy.shape[1]
    if not 1 <= n <= total:
        raise ValueError(f"n must be 1 to {total}, not {n}")
    ranks = np.arange(1, total + 1)
    with np.errstate(divide="ignore"):
        logs = np.where(
            ranks >= n, _log_binomial(np.maximum(ranks - 1, n - 1), n - 1) - _log_binomial(total, n), -np.inf
        )
    chances = np.exp(logs)
    result = np.empty(len(proxy))
    for row, (likes, worth) in enumerate(zip(proxy, values, strict=True)):
        order = np.argsort(likes, kind="stable")
        likes, worth = likes[order], worth[order]
        group = np.concatenate([[0], np.cumsum(np.diff(likes) > TIE)])
        share = np.bincount(group, chances) / np.bincount(group)
        result[row] = float(share[group] @ worth)
    return result


def best_of_n_curve(proxy: np.ndarray, gold: np.ndarray) -> Curve:
    """The curve of n = 2 to N, from samples of the starting policy, shapes (P, N)."""
    counts = range(2, proxy.shape[1] + 1)
    prompts = np.ones(len(proxy))
    return Curve(
        "best_of_n",
        tuple(f"best of {n}" for n in counts),
        np.array([best_of_n_kl(n) * prompts for n in counts]),
        np.array([best_of_n(proxy, proxy, n) - proxy.mean(1) for n in counts]),
        np.array([best_of_n(proxy, gold, n) - gold.mean(1) for n in counts]),
    )


def gain_curves(
    start: Mapping[str, np.ndarray], points: Mapping[str, Mapping[str, np.ndarray]]
) -> tuple[dict[str, Curve], dict[str, float]]:
    """Curves in units of the start's own spread: the standard deviation of a reward over all its samples.

    Args:
        start: `proxy` and `gold` of the starting policy's samples, shape (P, N).
        points: by checkpoint, `proxy`, `gold` and `kl` of its samples, shape (P, M); none for best-of-n only.

    Returns:
        The curves, "rl" (if there are checkpoints) and "best_of_n", and the units.

    Raises:
        DataError: a reward is the same for all samples of the start, so that nothing can be chosen by it.
    """
    unit = {which: float(start[which].std()) for which in ("proxy", "gold")}
    for which, spread in unit.items():
        if spread <= TIE:
            raise DataError(f"the {which} reward is the same for all samples of the start: there is nothing to fit")
    curves = {}
    if points:
        gains = {
            which: np.array([(each[which].mean(1) - start[which].mean(1)) / unit[which] for each in points.values()])
            for which in unit
        }
        kl = np.array([each["kl"].mean(1) for each in points.values()])
        curves["rl"] = Curve("rl", tuple(points), kl, gains["proxy"], gains["gold"])
    curves["best_of_n"] = best_of_n_curve(start["proxy"] / unit["proxy"], start["gold"] / unit["gold"])
    return curves, unit


def design(kind: Kind, d: np.ndarray) -> np.ndarray:
    """Columns that a and b multiply, shape (C, 2); both are 0 at d = 0."""
    if kind == "best_of_n":
        return np.stack([d, -(d**2)], axis=-1)
    return np.stack([d, -d * np.log(np.where(d > 0, d, 1.0))], axis=-1)


def peak_kl(kind: Kind, a: float, b: float) -> float:
    """KL at which the law is highest: (exp(a / b - 1))^2 for RL, (a / 2b)^2 for best of n.

    Returns:
        Infinity where it rises for ever in the end (b not above 0), 0 where it falls from the start.
    """
    if b <= 0:
        return 0.0 if kind == "best_of_n" and b == 0 and a <= 0 else math.inf
    if kind == "rl":
        return math.exp(min(2 * (a / b - 1), 700.0))
    return (max(a, 0.0) / (2 * b)) ** 2


def fit_curve(kind: Kind, kl: np.ndarray, gains: np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0) -> Fit:
    """Fit the law by least squares to the means over prompts, with intervals by resampling prompts.

    Args:
        kind: which law.
        kl: shape (C, P).
        gains: over the starting policy, shape (C, P).
        resamples: how many times the prompts are drawn anew; each time KL and gains are averaged and fitted again.
        seed: of the resampling.

    Raises:
        DataError: fewer than three points above KL 0, or all at one KL.
    """
    mean_kl, mean_gain = kl.mean(1), gains.mean(1)
    if len(np.unique(np.round(mean_kl[mean_kl > 0], 9))) < FEWEST_POINTS:
        raise DataError(f"{kind}: the law needs at least {FEWEST_POINTS} points at different KLs above 0")
    a, b = _least_squares(kind, mean_kl, mean_gain)
    generator = np.random.default_rng(seed)
    prompts = kl.shape[1]
    draws = []
    for _ in range(resamples):
        weights = generator.multinomial(prompts, np.full(prompts, 1 / prompts)) / prompts
        draws.append(_least_squares(kind, kl @ weights, gains @ weights))
    peaks = np.array([peak_kl(kind, *draw) for draw in draws])
    residual = mean_gain - design(kind, np.sqrt(mean_kl)) @ np.array([a, b])
    spread = float(((mean_gain - mean_gain.mean()) ** 2).sum())
    return Fit(
        kind,
        a,
        b,
        peak_kl(kind, a, b),
        _interval(np.array([draw[0] for draw in draws])),
        _interval(np.array([draw[1] for draw in draws])),
        _interval(peaks),
        float(np.mean(peaks < mean_kl.max())),
        1 - float((residual**2).sum()) / spread if spread > 0 else math.nan,
        peaks,
    )


def advice(fit: Fit, largest_kl: float) -> tuple[str, str]:
    """Where to stop, from the fit of the gold reward.

    Args:
        fit: of the gold reward.
        largest_kl: up to where the curve was seen.

    Returns:
        "peak", "unsure", "none" or "falls", and a sentence.
    """
    if fit.gain(np.linspace(0, largest_kl, 200)).max() <= 0:
        return "falls", "the gold reward falls from the start: do not optimize this proxy"
    low, high = fit.peak_interval
    percent = f"{CONFIDENCE:.0%}"
    if fit.peak_kl < largest_kl and fit.inside >= SURE:
        return "peak", f"stop at KL {fit.peak_kl:.3g} ({percent} interval {low:.3g} to {high:.3g})"
    if fit.inside > 1 - SURE:
        where = f"at KL {fit.peak_kl:.3g}" if fit.peak_kl < largest_kl else f"beyond KL {largest_kl:.3g}"
        return "unsure", (
            f"the fit peaks {where}, but {fit.inside:.0%} of the resamples have their peak within the range seen (KL "
            f"up to {largest_kl:.3g}), so there is no telling yet: optimize further, or take more prompts"
        )
    return "none", f"no peak within the range seen, KL up to {largest_kl:.3g}: the gold reward does not fall there"


def summarize(curve: Curve, *, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Any]:
    """Points with intervals, both fits, and the advice, as plain types."""
    gold = fit_curve(curve.kind, curve.kl, curve.gold, resamples=resamples, seed=seed)
    proxy = fit_curve(curve.kind, curve.kl, curve.proxy, resamples=resamples, seed=seed)
    kl = curve.kl.mean(1)
    state, sentence = advice(gold, float(kl.max()))
    best = int(curve.gold.mean(1).argmax())
    return {
        "kind": curve.kind,
        "points": [
            {
                "label": label,
                "kl": float(kl[i]),
                "proxy": _estimate(curve.proxy[i], seed),
                "gold": _estimate(curve.gold[i], seed),
            }
            for i, label in enumerate(curve.labels)
        ],
        "gold_fit": _plain(gold),
        "proxy_fit": _plain(proxy),
        "stop": {"state": state, "kl": gold.peak_kl if state == "peak" else None, "sentence": sentence},
        "best_seen": {"label": curve.labels[best], "kl": float(kl[best]), "gold": float(curve.gold[best].mean())},
    }


def _plain(fit: Fit) -> dict[str, Any]:
    names = ("a", "b", "peak_kl", "a_interval", "b_interval", "peak_interval", "inside", "r_squared")
    values = {name: getattr(fit, name) for name in names}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _estimate(values: np.ndarray, seed: int) -> dict[str, float]:
    estimate = bootstrap_mean(values, resamples=RESAMPLES, seed=seed)
    return {"gain": estimate.mean, "low": estimate.low, "high": estimate.high}


def _least_squares(kind: Kind, kl: np.ndarray, gains: np.ndarray) -> tuple[float, float]:
    solution = np.linalg.lstsq(design(kind, np.sqrt(np.maximum(kl, 0.0))), gains, rcond=None)[0]
    return float(solution[0]), float(solution[1])


def _interval(values: np.ndarray) -> tuple[float, float]:
    tail = (1 - CONFIDENCE) / 2
    # Without interpolation: between a number and infinity there is none.
    low, high = np.quantile(values, [tail, 1 - tail], method="nearest")
    return float(low), float(high)


def _log_binomial(n: Any, k: int) -> Any:
    return gammaln(np.asarray(n) + 1.0) - gammaln(k + 1.0) - gammaln(np.asarray(n) - k + 1.0)
