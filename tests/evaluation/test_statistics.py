import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlgen.evaluation.statistics import bootstrap_mean, compare_paired, prompt_means, win_share

scores = st.lists(st.floats(-10, 10), min_size=2, max_size=40)


def test_samples_of_a_prompt_are_averaged_first():
    means = prompt_means([[1.0, 3.0], [None, 5.0], [None], []])
    assert means[:2].tolist() == [2.0, 5.0]
    assert np.isnan(means[2:]).all()


def test_more_samples_of_the_same_prompts_do_not_narrow_the_interval():
    rng = np.random.default_rng(0)
    one = [[float(x)] for x in rng.normal(size=50)]
    ten = [samples * 10 for samples in one]
    narrow, wide = bootstrap_mean(prompt_means(one)), bootstrap_mean(prompt_means(ten))
    assert (narrow.low, narrow.high) == pytest.approx((wide.low, wide.high))


def test_interval_of_normal_data_is_that_of_the_textbook():
    values = np.random.default_rng(3).normal(2.0, 1.5, size=400)
    estimate = bootstrap_mean(values)
    half = 1.96 * values.std(ddof=1) / math.sqrt(len(values))
    assert estimate.mean == pytest.approx(values.mean())
    assert estimate.low == pytest.approx(values.mean() - half, abs=0.02)
    assert estimate.high == pytest.approx(values.mean() + half, abs=0.02)


def test_interval_leans_the_way_skewed_data_do():
    values = np.random.default_rng(0).exponential(size=60)
    estimate = bootstrap_mean(values)
    assert estimate.high - estimate.mean > estimate.mean - estimate.low


def test_intervals_cover_about_as_often_as_they_say():
    rng = np.random.default_rng(7)
    hits = 0
    for _ in range(200):
        estimate = bootstrap_mean(rng.normal(size=40), resamples=499)
        hits += estimate.low <= 0 <= estimate.high
    assert 0.89 <= hits / 200 <= 0.99


@settings(deadline=None, max_examples=25)
@given(scores, st.randoms(use_true_random=False))
def test_the_order_of_prompts_does_not_matter(values, random):
    shuffled = random.sample(values, len(values))
    left = bootstrap_mean(np.array(values), resamples=199)
    right = bootstrap_mean(np.array(shuffled), resamples=199)
    assert (left.n, left.low, left.high) == (right.n, right.low, right.high)
    assert left.mean == pytest.approx(right.mean)


@settings(deadline=None, max_examples=25)
@given(scores)
def test_the_interval_holds_its_values_range(values):
    estimate = bootstrap_mean(np.array(values), resamples=199)
    assert min(values) - 1e-9 <= estimate.low <= estimate.high <= max(values) + 1e-9


def test_equal_values_give_themselves_as_interval():
    estimate = bootstrap_mean(np.full(10, 0.25))
    assert (estimate.mean, estimate.low, estimate.high) == (0.25, 0.25, 0.25)


@pytest.mark.parametrize("values", [[0.0] * 30 + [1.0], [0.0, 1.0], [1e6, 1e6 + 1, -1e6]])
def test_nearly_degenerate_values_still_get_a_finite_interval(values):
    estimate = bootstrap_mean(np.array(values))
    assert math.isfinite(estimate.low)
    assert math.isfinite(estimate.high)
    assert estimate.low <= estimate.mean <= estimate.high


def test_nothing_and_one_value_have_no_interval():
    assert bootstrap_mean(np.array([np.nan])).n == 0
    one = bootstrap_mean(np.array([2.0, np.nan]))
    assert (one.n, one.mean) == (1, 2.0)
    assert math.isnan(one.low)


def test_nothing_but_wins_leaves_doubt():
    found = win_share(np.array([1.0] * 20 + [math.nan]))
    assert (found.n, found.mean, found.high) == (20, 1.0, 1.0)
    assert found.low == pytest.approx(0.025 ** (1 / 20))
    assert win_share(np.zeros(20)).high == pytest.approx(1 - 0.025 ** (1 / 20))
    ties = win_share(np.full(20, 0.5))
    assert (ties.low, ties.high) == (0.5, 0.5)
    mixed = np.array([1.0, 0.0, 0.5] * 10)
    assert win_share(mixed) == bootstrap_mean(mixed)
    assert math.isnan(win_share(np.ones(1)).low)


def test_pairs_are_b_minus_a_over_prompts_that_both_have():
    a = np.array([0.0, 1.0, np.nan, 0.5, 0.5])
    b = np.array([1.0, 1.0, 9.0, 0.0, np.nan])
    paired = compare_paired(a, b)
    assert paired.n == 3
    assert paired.difference == pytest.approx(paired.mean_b - paired.mean_a) == pytest.approx(1 / 6)
    assert (paired.win_rate, paired.tie_rate) == (pytest.approx(1 / 3), pytest.approx(1 / 3))
    assert paired.loss_rate == pytest.approx(1 / 3)


def test_a_win_follows_the_direction_of_the_measure():
    a, b = np.array([0.2, 0.4, 0.6]), np.array([0.1, 0.3, 0.7])
    assert compare_paired(a, b, higher_is_better=True).win_rate == pytest.approx(1 / 3)
    assert compare_paired(a, b, higher_is_better=False).win_rate == pytest.approx(2 / 3)
    assert compare_paired(a, b, higher_is_better=None).win_rate == pytest.approx(1 / 3)


def test_pairing_finds_what_unpaired_noise_would_hide():
    rng = np.random.default_rng(0)
    difficulty = rng.normal(size=60) * 10
    paired = compare_paired(difficulty, difficulty + 0.1 + 0.05 * rng.normal(size=60))
    assert paired.low > 0


def test_a_checkpoint_against_itself_ties_everywhere():
    a = np.random.default_rng(0).normal(size=30)
    paired = compare_paired(a, a + 1e-12)
    assert (paired.tie_rate, paired.win_rate) == (1.0, 0.0)
    assert not paired.shown


def test_flipping_reads_the_comparison_from_the_other_side():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=30), rng.normal(size=30) + 0.5
    forth, back = compare_paired(a, b), compare_paired(b, a).flipped()
    assert (forth.mean_a, forth.mean_b) == (back.mean_a, back.mean_b)
    assert (forth.difference, forth.win_rate) == (pytest.approx(back.difference), pytest.approx(back.win_rate))
    assert forth.low == pytest.approx(back.low, abs=0.05)


def test_scores_of_different_prompts_are_refused():
    with pytest.raises(ValueError, match="same prompts"):
        compare_paired(np.zeros(3), np.zeros(4))
    assert compare_paired(np.array([np.nan]), np.array([1.0])).n == 0
