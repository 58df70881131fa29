"""Calibration against other libraries' regressions."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from rlgen.ppo.calibration import calibration


@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_regression_of_numpy_and_scipy(seed):
    rng = np.random.default_rng(seed)
    values = rng.normal(3, 0.2, 200)
    returns = rng.normal(size=200) + rng.normal() * values
    slope, intercept = calibration(torch.tensor(values), torch.tensor(returns))
    reference = stats.linregress(values, returns)
    assert (slope, intercept) == pytest.approx((reference.slope, reference.intercept))
    assert (slope, intercept) == pytest.approx(tuple(np.polyfit(values, returns, 1)))


def test_perfect_timid_and_extreme_values():
    returns = torch.linspace(-2, 5, 50)
    assert calibration(returns, returns) == pytest.approx((1, 0))
    assert calibration(returns / 2, returns) == pytest.approx((2, 0))
    assert calibration(2 * returns + 1, returns) == pytest.approx((0.5, -0.5))
    assert calibration(returns - 3, returns) == pytest.approx((1, 3))


@pytest.mark.parametrize("values", [torch.full((64,), 0.1), torch.zeros(64), torch.zeros(0)])
def test_values_that_do_not_vary_have_no_line(values):
    assert all(math.isnan(number) for number in calibration(values, torch.arange(len(values)) * 1.0))
