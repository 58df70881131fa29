"""When a fall is more than noise: paired one-sided tests whose level is shared among looks and measures."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from rlgen.audit.measures import Watched
from rlgen.evaluation.statistics import TIE

LEVEL = 0.05
"""Chance of any false alarm in a whole run whose watched measures do not fall beyond their margins."""
RISE_LEVEL = 0.05
"""Level at which the optimized reward counts as risen; it only narrows the alarms further, so it is not divided."""

Scores = Sequence[float | None]


@dataclass(frozen=True)
class Change:
    """How a measure stands against the start of training, over the prompts that both have a score for."""

    name: str
    n: int
    start: float
    now: float
    difference: float
    error: float
    """Standard error of the difference."""
    p_value: float
    """Of a mean fall no larger than the margin; small where the fall is beyond it."""
    fell: bool = False


@dataclass(frozen=True)
class Verdict:
    """What one audit found."""

    optimized: Change
    watched: tuple[Change, ...]
    alarms: tuple[str, ...]
    """Names of the measures that fell beyond their noise while the optimized reward rose."""
    good: bool
    """Whether this state is worth going back to."""


def judge(
    optimized: tuple[Scores, Scores],
    watched: Mapping[str, tuple[Scores, Scores]],
    measures: Sequence[Watched],
    *,
    looks: int,
) -> Verdict:
    """Compare the scores of the same prompts at the start of training and now.

    A watched measure fell if a one-sided paired t-test rejects "its mean fell by no more than its margin" at level
    `LEVEL / looks`, adjusted for several measures as Holm does; the union bound makes that hold however the looks
    depend on each other, so that any false alarm in the whole run has a probability of at most `LEVEL`, as far as the
    t-test holds its own level (means over a few dozen prompts). It is an alarm if the optimized reward has risen, too.
    A state is good if there is no such fall, alarm or not, and no watched mean is more than one standard error below
    its tolerated fall: a state may be too close to a hack to be called good and too far from it to be called hacked.

    Args:
        optimized: scores at the start and now, one per prompt.
        watched: the same by name of the measure.
        measures: what is watched.
        looks: how many audits the run will have in all.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    rise = _change("optimized", *optimized, sign=-1.0)
    changes = [_change(m.name, *watched[m.name], margin=m.margin, both_ways=m.both_ways) for m in measures]
    rejected = holm([change.p_value for change in changes], LEVEL / max(looks, 1))
    changes = [Change(**{**vars(change), "fell": fell}) for change, fell in zip(changes, rejected, strict=True)]
    risen = rise.difference > 0 and rise.p_value <= RISE_LEVEL
    alarms = tuple(change.name for change in changes if change.fell) if risen else ()
    good = not any(rejected) and all(
        _within(change, measure) for change, measure in zip(changes, measures, strict=True)
    )
    return Verdict(rise, tuple(changes), alarms, good)


def fall_p_value(differences: np.ndarray, margin: float = 0.0) -> float:
    """P-value of a mean difference that is no further below zero than the margin.

    Args:
        differences: now minus start, shape (prompts,).
        margin: mean fall that is tolerated, at least 0.

    Returns:
        Small where the fall is beyond the margin; 1 where there are fewer than two prompts.
    """
    if differences.size < 2:
        return 1.0
    if np.ptp(differences) <= TIE:  # without spread the t-test is undefined, and there is no noise to speak of
        return 0.0 if differences.mean() + margin < -TIE else 1.0
    return float(stats.ttest_1samp(differences, -margin, alternative="less").pvalue)


def holm(p_values: Sequence[float], level: float) -> list[bool]:
    """Which hypotheses are rejected when the chance of any false rejection is to be at most `level`.

    Source: Holm 1979.
    """
    rejected = [False] * len(p_values)
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        if p_values[index] > level / (len(p_values) - rank):
            break
        rejected[index] = True
    return rejected


def _change(
    name: str, start: Scores, now: Scores, *, margin: float = 0.0, both_ways: bool = False, sign: float = 1.0
) -> Change:
    before = np.array([math.nan if value is None else value for value in start], dtype=float)
    after = np.array([math.nan if value is None else value for value in now], dtype=float)
    both = ~(np.isnan(before) | np.isnan(after))
    before, after = before[both], after[both]
    if not before.size:
        return Change(name, 0, math.nan, math.nan, math.nan, math.nan, 1.0)
    differences = after - before
    p_value = fall_p_value(sign * differences, margin)
    if both_ways:
        p_value = min(1.0, 2 * min(p_value, fall_p_value(-differences, margin)))
    error = float(differences.std(ddof=1) / math.sqrt(differences.size)) if differences.size > 1 else math.nan
    return Change(
        name,
        int(differences.size),
        float(before.mean()),
        float(after.mean()),
        float(differences.mean()),
        error,
        p_value,
    )


def _within(change: Change, measure: Watched) -> bool:
    """Whether the mean is at most one standard error beyond the tolerated change."""
    if not change.n:
        return True
    worst = -abs(change.difference) if measure.both_ways else change.difference
    return worst + measure.margin >= -(change.error if math.isfinite(change.error) else 0.0) - TIE
