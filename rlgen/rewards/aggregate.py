"""Several opinions about one completion as one number: the mean, the worst, or the mean less the disagreement."""

import math
import statistics
from collections.abc import Sequence

from rlgen.errors import ConfigError

AGGREGATES = ("mean", "worst", "uncertainty")


def aggregate(
    scores: Sequence[Sequence[float | None]], how: str = "mean", uncertainty_coef: float = 0.5
) -> list[float | None]:
    """Combine the scores of an ensemble's members, row by row.

    Args:
        scores: members x rows; None where a member does not apply, which the others then decide without it.
        how: "mean"; "worst", the lowest; "uncertainty", the mean less `uncertainty_coef` times the population
            variance of the members.
        uncertainty_coef: at least 0; read by "uncertainty" only.

    Returns:
        One value per row, None where no member applies.

    Raises:
        ConfigError: another word, a negative coefficient, or members that scored different numbers of rows.

    Source: Coste et al. 2023, "Reward model ensembles help mitigate overoptimization", arXiv 2310.02743, section 3.3
        (mean, worst-case and uncertainty-weighted optimization).
    """
    check_aggregate(how, uncertainty_coef)
    if len({len(rows) for rows in scores}) > 1:
        raise ConfigError(f"an ensemble's members scored {[len(rows) for rows in scores]} rows; they must score alike")
    return [
        _one([value for value in row if value is not None], how, uncertainty_coef) for row in zip(*scores, strict=True)
    ]


def disagreement(scores: Sequence[Sequence[float | None]]) -> list[float | None]:
    """Population standard deviation of the members, row by row; None where fewer than two apply.

    Args:
        scores: members x rows.
    """
    known = [[value for value in row if value is not None] for row in zip(*scores, strict=True)]
    return [statistics.pstdev(values) if len(values) > 1 else None for values in known]


def check_aggregate(how: str, uncertainty_coef: float) -> None:
    """Refuse what `aggregate` cannot do.

    Raises:
        ConfigError: an unknown word, or a coefficient that is negative or no finite number.
    """
    if how not in AGGREGATES:
        raise ConfigError(f"aggregate must be {', '.join(AGGREGATES[:-1])} or {AGGREGATES[-1]}, not {how!r}")
    if not (math.isfinite(uncertainty_coef) and uncertainty_coef >= 0):
        raise ConfigError(f"uncertainty_coef must be a finite number of at least 0, not {uncertainty_coef}")


def _one(values: Sequence[float], how: str, uncertainty_coef: float) -> float | None:
    if not values:
        return None
    if how == "worst":
        return min(values)
    mean = statistics.fmean(values)
    if how == "mean":
        return mean
    return mean - uncertainty_coef * statistics.fmean((value - mean) ** 2 for value in values)
