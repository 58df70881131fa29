"""Running statistics of scores, in float64; JSON keeps their fields exactly."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass
class RunningMoments:
    """Mean and deviation of all values seen so far."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    """Sum of squared distances from the mean."""

    def update(self, values: Any) -> None:
        """Merge further values (M,): a list, an array or a tensor on the CPU, whatever M.

        Source: Chan, Golub and LeVeque 1979, "Updating formulae and a pairwise algorithm for computing sample
            variances", equations 2.1.
        """
        added = len(values)
        if added == 0:
            return
        values = np.asarray(values, dtype=np.float64)
        mean = float(values.mean())
        total, distance = self.count + added, mean - self.mean
        self.squares += float(np.square(values - mean).sum()) + distance**2 * self.count * added / total
        self.mean += distance * added / total
        self.count = total

    @property
    def deviation(self) -> float:
        """Population standard deviation; 0 of nothing."""
        return math.sqrt(self.squares / self.count) if self.count else 0.0

    def standardized(self, value: float) -> float:
        """Distance of a value from the mean in deviations; the value itself while none is known."""
        return (value - self.mean) / (self.deviation + 1e-8) if self.count else value


@dataclass
class RunningLine:
    """Least-squares line of y over x through all points seen so far."""

    count: int = 0
    mean_x: float = 0.0
    mean_y: float = 0.0
    squares_x: float = 0.0
    """Sum of squared distances of x from its mean."""
    products: float = 0.0
    """Sum over points of the distances of x and of y from their means, multiplied."""

    def update(self, x: Sequence[float], y: Sequence[float]) -> None:
        """Merge further points (M,).

        Source: as for `RunningMoments`, with a product in the place of the square.
        """
        added = len(x)
        if added == 0:
            return
        xs, ys = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
        mean_x, mean_y = float(xs.mean()), float(ys.mean())
        total = self.count + added
        distance_x, distance_y, share = mean_x - self.mean_x, mean_y - self.mean_y, self.count * added / total
        self.squares_x += float(np.square(xs - mean_x).sum()) + distance_x**2 * share
        self.products += float(((xs - mean_x) * (ys - mean_y)).sum()) + distance_x * distance_y * share
        self.mean_x += distance_x * added / total
        self.mean_y += distance_y * added / total
        self.count = total

    def slope(self, at_least: int = 2) -> float:
        """How much y grows with x; 0 while there are fewer points than `at_least`, or x is always the same."""
        return self.products / self.squares_x if self.count >= at_least and self.squares_x > 0 else 0.0
