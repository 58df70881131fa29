"""The mean, the worst and the uncertainty-weighted score of an ensemble, against numbers worked out by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlgen.errors import ConfigError
from rlgen.rewards.aggregate import aggregate, disagreement

# Three members, three rows. Row 0: mean (1 + 2 + 6) / 3 = 3, variance (4 + 1 + 9) / 3 = 14 / 3.
MEMBERS = [[1.0, -2.0, None], [2.0, -2.0, None], [6.0, None, None]]


@pytest.mark.parametrize(
    ("how", "coef", "expected"),
    [
        ("mean", 0.5, [3.0, -2.0, None]),
        ("worst", 0.5, [1.0, -2.0, None]),
        ("uncertainty", 0.0, [3.0, -2.0, None]),
        ("uncertainty", 0.5, [3.0 - 7 / 3, -2.0, None]),
        ("uncertainty", 1.5, [-4.0, -2.0, None]),
    ],
)
def test_against_a_hand_computation(how, coef, expected):
    assert aggregate(MEMBERS, how, coef) == [None if x is None else pytest.approx(x, abs=1e-12) for x in expected]


def test_disagreement_is_the_members_deviation():
    assert disagreement(MEMBERS) == [pytest.approx(math.sqrt(14 / 3)), 0.0, None]


@given(st.lists(st.lists(st.floats(-10, 10), min_size=2, max_size=2), min_size=1, max_size=5), st.floats(0, 3))
def test_worst_and_uncertainty_never_exceed_the_mean_and_the_order_of_members_is_free(scores, coef):
    mean = aggregate(scores, "mean")
    for how in ("worst", "uncertainty"):
        value = aggregate(scores, how, coef)
        assert all(a <= b + 1e-9 for a, b in zip(value, mean, strict=True))
        assert aggregate(scores[::-1], how, coef) == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize(
    ("scores", "how", "coef", "message"),
    [
        (MEMBERS, "median", 0.5, "mean, worst or uncertainty, not 'median'"),
        (MEMBERS, "uncertainty", -1.0, "at least 0"),
        (MEMBERS, "uncertainty", float("nan"), "at least 0"),
        ([[1.0], [1.0, 2.0]], "mean", 0.5, r"\[1, 2\] rows"),
    ],
)
def test_what_makes_no_sense_is_refused(scores, how, coef, message):
    with pytest.raises(ConfigError, match=message):
        aggregate(scores, how, coef)
