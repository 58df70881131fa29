"""P-values, effect sizes and power against independent computations."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from rlgen.evaluation.significance import (
    across_seeds,
    detectable_effect,
    holm,
    mcnemar,
    prompts_needed,
    sign_flips,
    significance,
)

RNG = np.random.default_rng(5)


def test_few_prompts_are_permuted_exactly():
    differences = RNG.normal(0.4, 1, size=9)
    means = [np.mean(signs * differences) for signs in map(np.array, itertools.product((-1, 1), repeat=9))]
    expected = np.mean([abs(mean) >= abs(differences.mean()) - 1e-12 for mean in means])
    assert sign_flips(differences) == pytest.approx(expected)


def test_many_prompts_agree_with_scipy():
    differences = RNG.normal(0.15, 1, size=120)
    expected = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=19_999, rng=np.random.default_rng(1)
    ).pvalue
    assert sign_flips(differences) == pytest.approx(expected, abs=0.015)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.floats(-5, 5), min_size=2, max_size=30), st.randoms(use_true_random=False))
def test_the_order_and_the_side_do_not_matter(values, random):
    differences = np.array(values)
    p_value = sign_flips(differences, flips=299)
    assert 0 < p_value <= 1
    assert sign_flips(np.array(random.sample(values, len(values))), flips=299) == p_value
    if 2 ** len(values) <= 299:
        assert sign_flips(-differences, flips=299) == pytest.approx(p_value)


def test_no_difference_at_all_has_p_value_one():
    assert sign_flips(np.zeros(40)) == 1.0
    assert mcnemar(np.ones(5), np.ones(5)) == 1.0


def test_mcnemar_is_a_binomial_test_of_the_prompts_that_changed():
    a = np.array([0.0] * 9 + [1.0] * 11)
    b = np.array([1.0] * 8 + [0.0] * 3 + [1.0] * 9)
    won, lost = 8, 2
    assert mcnemar(a, b) == pytest.approx(min(1, 2 * stats.binom.cdf(min(won, lost), won + lost, 0.5)))
    assert significance(a, b).test == "mcnemar"
    assert significance(a, b + 0.5).test == "permutation"


def test_holm_steps_down():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    corrected = holm([0.01, math.nan, 0.04])
    assert corrected[::2] == pytest.approx([0.02, 0.04])
    assert math.isnan(corrected[1])
    assert math.isnan(holm([math.nan])[0])


@settings(deadline=None, max_examples=8)  # statsmodels collects garbage in each
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_agrees_with_statsmodels(p_values):
    assert holm(p_values) == pytest.approx(list(multipletests(p_values, method="holm")[1]))


def test_effect_size_and_power_are_the_textbooks():
    a, b = np.zeros(50), RNG.normal(0.3, 0.8, size=50)
    judged = significance(a, b)
    assert judged.effect_size == pytest.approx(b.mean() / b.std(ddof=1))
    approximate = (stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) * b.std(ddof=1) / math.sqrt(50)
    assert judged.detectable == pytest.approx(approximate, rel=0.04)
    assert prompts_needed(detectable_effect(64)) == 64
    assert math.isnan(prompts_needed(0.0))
    assert prompts_needed(50.0) <= 4


def test_the_stated_power_is_reached():
    effect = detectable_effect(30)
    shown = [stats.ttest_1samp(RNG.normal(effect, 1, size=30), 0).pvalue < 0.05 for _ in range(600)]
    assert np.mean(shown) == pytest.approx(0.8, abs=0.06)


def test_too_little_to_judge_is_nan_and_equal_differences_need_no_power():
    alone = significance(np.array([0.1, math.nan]), np.array([0.2, 0.3]))
    assert math.isnan(alone.p_value)
    assert math.isnan(alone.detectable)
    constant = significance(np.array([0.1] * 20), np.array([0.3] * 20))
    assert constant.detectable == 0
    assert math.isnan(constant.effect_size)
    assert constant.p_value < 0.001


def test_intervals_over_seeds_cover_whichever_noise_is_larger():
    for between in (0.0, 0.1, 0.4):
        hits = 0
        for _ in range(300):
            noise = RNG.normal(size=(1, 60)) + RNG.normal(size=(3, 60)) / 2 + RNG.normal(size=(3, 1)) * between
            estimate = across_seeds(noise)
            hits += estimate.low <= 0 <= estimate.high
        assert 0.89 <= hits / 300 <= 0.99, between


def test_an_interval_over_seeds_is_wider_than_one_over_prompts():
    prompts = RNG.normal(0.2, 0.1, size=(1, 200))
    alike, apart = (across_seeds(prompts + np.array([[-s], [0.0], [s]])) for s in (0.0, 0.1))
    assert alike.high - alike.low < 0.04 < apart.high - apart.low
    assert alike.difference == pytest.approx(apart.difference)
    with pytest.raises(ValueError, match="two seeds"):
        across_seeds(prompts)
