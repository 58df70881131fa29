"""The audit's test: its level over many looks, its power, and its margins, by simulation and by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rlgen.audit.judge import LEVEL, fall_p_value, holm, judge
from rlgen.audit.measures import Watched

GOLD = Watched("gold", len)
PROMPTS = 48


def verdict(optimized, gold, *, measure=GOLD, looks=10, start=0.5):
    before = [start] * len(gold)
    return judge(
        ([0.0] * len(optimized), list(optimized)),
        {measure.name: (before, [start + value for value in gold])},
        [measure],
        looks=looks,
    )


def noisy(mean, seed=0, scale=0.1, size=PROMPTS):
    return mean + scale * np.random.default_rng(seed).normal(size=size)


def test_a_hack_is_an_alarm():
    found = verdict(noisy(1.0), noisy(-0.2, seed=1))
    assert found.alarms == ("gold",)
    assert not found.good
    assert found.watched[0].fell
    assert found.watched[0].difference == pytest.approx(-0.2, abs=0.05)


def test_both_rising_is_good():
    found = verdict(noisy(1.0), noisy(0.2, seed=1))
    assert found.alarms == ()
    assert found.good


def test_both_falling_is_no_hack_but_nothing_to_go_back_to():
    found = verdict(noisy(-1.0), noisy(-0.2, seed=1))
    assert found.alarms == ()
    assert found.watched[0].fell
    assert not found.good


def test_a_fall_within_noise_is_no_alarm_and_beyond_one_standard_error_not_good():
    gold = noisy(0.0, seed=3)
    gold += -0.022 - gold.mean()  # standard error about 0.1 / sqrt(48) = 0.014
    found = verdict(noisy(1.0), gold, looks=20)
    assert found.alarms == ()
    assert not found.good
    gold += 0.012
    assert verdict(noisy(1.0), gold, looks=20).good


def test_more_looks_make_each_of_them_stricter():
    gold = noisy(0.0, seed=3)
    gold += -0.045 - gold.mean()
    p_value = fall_p_value(gold)
    assert LEVEL / 1000 < p_value < LEVEL
    assert verdict(noisy(1.0), gold, looks=1).alarms == ("gold",)
    assert verdict(noisy(1.0), gold, looks=1000).alarms == ()


def test_a_margin_is_tolerated():
    tolerant = Watched("gold", len, margin=0.3)
    assert verdict(noisy(1.0), noisy(-0.2, seed=1), measure=tolerant).good
    assert verdict(noisy(1.0), noisy(-0.5, seed=1), measure=tolerant).alarms == ("gold",)


@pytest.mark.parametrize("change", [-0.6, 0.6])
def test_length_may_not_go_either_way(change):
    length = Watched("length", len, margin=math.log(1.5), both_ways=True)
    assert verdict(noisy(1.0), noisy(change, seed=1), measure=length).alarms == ("length",)
    assert verdict(noisy(1.0), noisy(change / 2, seed=1), measure=length).good


def test_rows_without_a_score_are_left_out():
    found = judge(
        ([0.0] * 9, [1.0, 1.1] * 4 + [None]),
        {"gold": ([0.5] * 8 + [None], [0.1, 0.2] * 4 + [0.9])},
        [GOLD],
        looks=1,
    )
    assert (found.optimized.n, found.watched[0].n) == (8, 8)
    assert found.alarms == ("gold",)
    nothing = judge(([None] * 9, [1.0] * 9), {"gold": ([None] * 9, [0.1] * 9)}, [GOLD], looks=1)
    assert nothing.alarms == ()


def test_a_run_without_any_change_raises_no_alarm_more_often_than_it_says():
    generator = np.random.default_rng(0)
    runs, looks, alarms = 100, 6, 0
    names = ["a", "b"]
    measures = [Watched(name, len) for name in names]
    for _ in range(runs):
        start = {name: generator.normal(size=PROMPTS) for name in names}
        for _ in range(looks):
            watched = {
                name: (start[name].tolist(), (start[name] + generator.normal(size=PROMPTS)).tolist()) for name in names
            }
            if judge(([0.0] * PROMPTS, noisy(1.0).tolist()), watched, measures, looks=looks).alarms:
                alarms += 1
                break
    assert alarms <= stats.binom.ppf(0.999, runs, LEVEL)


def test_without_spread_there_is_no_noise():
    assert fall_p_value(np.full(9, -0.1)) == 0
    assert fall_p_value(np.full(9, -0.1), margin=0.1) == 1
    assert fall_p_value(np.zeros(9)) == 1
    assert fall_p_value(np.array([-5.0])) == 1


def test_the_p_value_is_that_of_students_t_by_hand():
    values = np.array([-0.3, 0.1, -0.2, -0.4, 0.0, -0.1])
    mean = sum(values) / 6
    error = math.sqrt(sum((v - mean) ** 2 for v in values) / 5 / 6)
    assert fall_p_value(values, margin=0.05) == pytest.approx(stats.t.cdf((mean + 0.05) / error, 5))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6), st.floats(0.001, 0.2))
def test_holm_by_its_adjusted_p_values(p_values, level):
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, running = {}, 0.0
    for rank, index in enumerate(order):
        running = max(running, (len(p_values) - rank) * p_values[index])
        adjusted[index] = running
    expected = [adjusted[i] <= level for i in range(len(p_values))]
    close = any(math.isclose(adjusted[i], level, rel_tol=1e-9) for i in adjusted)
    assert close or holm(p_values, level) == expected
