"""Best-of-n by enumeration, the laws by inventing them, and the advice on curves whose peak is known."""

import itertools
import json
import math
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlgen.errors import ConfigError, DataError
from rlgen.evaluation.overoptimization import (
    Curve,
    Fit,
    advice,
    best_of_n,
    best_of_n_curve,
    best_of_n_kl,
    fit_curve,
    gain_curves,
    peak_kl,
    summarize,
)
from rlgen.evaluation.overoptimization_chart import overoptimization_chart
from rlgen.evaluation.policy_samples import kl_per_sample, run_checkpoints
from rlgen.evaluation.tables import overoptimization_table

KLS = np.array([0.1, 0.5, 1.0, 2.0, 4.0, 8.0, 12.0])
PROMPTS = 40


def rl_gains(a, b, noise=0.0, kls=KLS, seed=0):
    d = np.sqrt(kls)
    gains = np.repeat((d * (a - b * np.log(d)))[:, None], PROMPTS, 1)
    # A prompt's own level moves all points of a curve together, as in samples.
    generator = np.random.default_rng(seed)
    return gains + noise * (generator.normal(size=PROMPTS) * d[:, None] + generator.normal(size=gains.shape))


def kl_table(kls=KLS):
    return np.repeat(kls[:, None], PROMPTS, 1)


# Best of n


def enumerated(likes, worth, n):
    """Mean over all subsets of n and all ways to break ties."""
    total = []
    for subset in itertools.combinations(range(len(likes)), n):
        best = max(likes[i] for i in subset)
        total.append(np.mean([worth[i] for i in subset if likes[i] == best]))
    return float(np.mean(total))


@given(st.data())
def test_best_of_n_is_the_mean_over_all_subsets(data):
    size = data.draw(st.integers(1, 6))
    likes = data.draw(st.lists(st.integers(0, 3), min_size=size, max_size=size))  # ties on purpose
    worth = data.draw(st.lists(st.floats(-5, 5), min_size=size, max_size=size))
    n = data.draw(st.integers(1, size))
    found = best_of_n(np.array([likes], float), np.array([worth]), n)
    assert found[0] == pytest.approx(enumerated(likes, worth, n), abs=1e-9)


def test_best_of_one_is_the_mean_and_best_of_all_the_best():
    values = np.random.default_rng(0).normal(size=(5, 16))
    assert best_of_n(values, values, 1) == pytest.approx(values.mean(1))
    assert best_of_n(values, values, 16) == pytest.approx(values.max(1))
    with pytest.raises(ValueError, match="1 to 16"):
        best_of_n(values, values, 17)


def test_best_of_n_by_an_opposite_proxy_is_the_worst():
    values = np.random.default_rng(0).normal(size=(5, 8))
    assert best_of_n(-values, values, 8) == pytest.approx(values.min(1))


def test_the_kl_of_best_of_n_is_that_of_the_best_of_many_outcomes():
    """Enumerated for a uniform distribution over so many outcomes that ties hardly matter."""
    outcomes, n = 20_000, 4
    rank = np.arange(1, outcomes + 1)
    chance = (rank / outcomes) ** n - ((rank - 1) / outcomes) ** n
    assert best_of_n_kl(n) == pytest.approx(float((chance * np.log(chance * outcomes)).sum()), abs=1e-3)
    assert best_of_n_kl(1) == 0


# The laws


@given(st.floats(0.3, 3), st.floats(0.1, 2))
def test_a_law_is_found_again(a, b):
    fit = fit_curve("rl", kl_table(), rl_gains(a, b), resamples=20)
    assert (fit.a, fit.b) == pytest.approx((a, b), rel=1e-6)
    assert fit.r_squared == pytest.approx(1)
    d = np.sqrt(KLS)
    fit = fit_curve("best_of_n", kl_table(), np.repeat((d * (a - b * d))[:, None], PROMPTS, 1), resamples=20)
    assert (fit.a, fit.b) == pytest.approx((a, b), rel=1e-6)


@pytest.mark.parametrize(("kind", "a", "b"), [("rl", 1.0, 0.7), ("rl", -0.2, 0.5), ("best_of_n", 1.0, 0.4)])
def test_the_peak_is_where_a_search_finds_it(kind, a, b):
    d = np.linspace(1e-4, 6, 200_001)
    gains = d * (a - b * np.log(d)) if kind == "rl" else d * (a - b * d)
    assert peak_kl(kind, a, b) == pytest.approx(d[gains.argmax()] ** 2, rel=1e-2, abs=1e-3)


def test_laws_without_a_peak():
    assert peak_kl("rl", 1.0, -0.1) == math.inf
    assert peak_kl("rl", 1.0, 0.0) == math.inf
    assert peak_kl("best_of_n", 1.0, 0.0) == math.inf
    assert peak_kl("best_of_n", -1.0, 0.5) == 0.0
    assert peak_kl("best_of_n", -1.0, 0.0) == 0.0
    assert math.isfinite(peak_kl("rl", 1.0, 1e-9))  # far away, but no overflow


def test_intervals_hold_the_truth_as_often_as_they_say():
    a, b = 1.0, 0.7
    hits = 0
    for seed in range(40):
        low, high = fit_curve("rl", kl_table(), rl_gains(a, b, 0.5, seed=seed), resamples=100).peak_interval
        hits += low <= peak_kl("rl", a, b) <= high
    assert 33 <= hits <= 40


def test_too_few_points_are_refused():
    with pytest.raises(DataError, match="at least 3 points"):
        fit_curve("rl", kl_table(KLS[:2]), rl_gains(1, 1, kls=KLS[:2]))
    with pytest.raises(DataError, match="at least 3 points"):
        fit_curve("rl", kl_table(np.ones(5)), rl_gains(1, 1, kls=np.ones(5)))


# What is said about it


def curve(a, b, noise=0.05, kind="rl"):
    gains = rl_gains(a, b, noise)
    labels = tuple(f"step-{i}" for i in range(len(KLS)))
    return Curve(kind, labels, kl_table(), rl_gains(2.0, 0.1, noise), gains)


def test_a_peak_within_the_range_is_where_to_stop():
    result = summarize(curve(1.0, 0.8), resamples=300)
    assert result["stop"]["state"] == "peak"
    assert result["stop"]["kl"] == pytest.approx(peak_kl("rl", 1.0, 0.8), rel=0.1)
    assert "stop at KL 1.6" in result["stop"]["sentence"]
    low, high = result["gold_fit"]["peak_interval"]
    assert low < result["stop"]["kl"] < high


def test_a_gold_reward_that_still_rises_has_no_peak():
    result = summarize(curve(2.0, 0.1), resamples=300)
    assert result["stop"] == {
        "state": "none",
        "kl": None,
        "sentence": "no peak within the range seen, KL up to 12: the gold reward does not fall there",
    }


@pytest.mark.parametrize(
    ("kind", "a", "b"), [("rl", -0.3, -0.1), ("best_of_n", -0.3, -0.02), ("best_of_n", -0.3, 0.1)]
)
def test_a_gold_reward_that_falls_from_the_start_says_so(kind, a, b):
    state, sentence = advice(Fit(kind, a, b, peak_kl(kind, a, b)), 12.0)
    assert state == "falls"
    assert "do not optimize this proxy" in sentence


def test_a_peak_that_noise_hides_is_not_claimed():
    fit = fit_curve("rl", kl_table(), rl_gains(0.05, 0.02, 1.0), resamples=300)
    state, sentence = advice(fit, 12.0)
    assert state == "unsure"
    assert "no telling yet" in sentence


def test_samples_become_curves_in_units_of_the_starts_spread():
    generator = np.random.default_rng(0)
    start = {"proxy": generator.normal(size=(PROMPTS, 8)), "gold": 3 * generator.normal(size=(PROMPTS, 8))}
    moved = {
        f"step-{i}": {"proxy": start["proxy"] + i, "gold": start["gold"] - i, "kl": np.full((PROMPTS, 2), float(i))}
        for i in (1, 2, 3)
    }
    curves, unit = gain_curves(start, moved)
    assert list(curves) == ["rl", "best_of_n"]
    assert unit["gold"] == pytest.approx(start["gold"].std())
    assert curves["rl"].gold.mean(1) == pytest.approx(np.array([-1, -2, -3]) / unit["gold"])
    assert curves["rl"].kl.mean(1) == pytest.approx([1, 2, 3])
    assert curves["best_of_n"].labels[0] == "best of 2"
    assert (np.diff(curves["best_of_n"].proxy.mean(1)) > 0).all()
    assert list(gain_curves(start, {})[0]) == ["best_of_n"]
    with pytest.raises(DataError, match="the gold reward is the same for all samples"):
        gain_curves({**start, "gold": np.ones((PROMPTS, 8))}, moved)


def test_the_picture_is_wellformed_and_says_what_it_shows():
    generator = np.random.default_rng(0)
    proxy = generator.normal(size=(PROMPTS, 8))
    results = {
        "rl": summarize(curve(1.0, 0.8), resamples=100),
        "best_of_n": summarize(
            best_of_n_curve(proxy, 0.5 * proxy + generator.normal(size=proxy.shape)), resamples=100
        ),
    }
    json.dumps(results)
    picture = overoptimization_chart(results, unit="a < b")
    root = ET.fromstring(picture)
    assert "stop at KL 1.6" in root.attrib["aria-label"]
    circles = root.findall(".//{http://www.w3.org/2000/svg}circle")
    assert len(circles) == 2 * (len(KLS) + 7)
    inside = [0 <= float(circle.attrib["cy"]) <= 300 for circle in circles]
    assert all(inside)
    assert picture.count("stop: KL") == 1
    assert overoptimization_table("rl", results["rl"]).row_count == len(KLS)


# Samples


def test_the_kl_of_samples_is_that_of_the_distributions():
    generator = np.random.default_rng(0)
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.3, 0.5])
    drawn = generator.choice(3, size=(200, 20, 4), p=p)
    estimate = kl_per_sample(np.log(p)[drawn].tolist(), np.log(q)[drawn].tolist())
    assert estimate.shape == (200, 20)
    assert (estimate >= 0).all()
    assert estimate.mean() == pytest.approx(4 * float((p * np.log(p / q)).sum()), rel=0.03)


def test_checkpoints_are_complete_evenly_spaced_and_in_order(tmp_path, tiny_llama):
    for step in (8, 16, 24, 32, 40):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "trainer_state.json").write_text("{}")
        (folder / "model.safetensors").symlink_to(f"{tiny_llama}/model.safetensors")
    (tmp_path / "checkpoint-48").mkdir()  # cut short
    assert list(run_checkpoints(tmp_path, 9)) == ["step-8", "step-16", "step-24", "step-32", "step-40"]
    assert list(run_checkpoints(tmp_path, 3)) == ["step-8", "step-24", "step-40"]
    with pytest.raises(ConfigError, match="save_steps"):
        run_checkpoints(tmp_path / "checkpoint-8", 3)
