import math

import numpy as np
import pytest

from rlgen.evaluation.winrates import length_controlled, pareto, win_rates, wins


def test_wins_count_ties_half():
    a, b = np.array([0.0, 1.0, 0.5, np.nan]), np.array([1.0, 0.0, 0.5 + 1e-12, 1.0])
    assert wins(a, b)[:3].tolist() == [1.0, 0.0, 0.5]
    assert math.isnan(wins(a, b)[3])


def draw(count: int, theta: float, beta: float, shift: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    longer = rng.normal(shift, 20, count)
    chance = 1 / (1 + np.exp(-theta - beta * np.tanh(longer / longer.std())))
    return (rng.random(count) < chance).astype(float), longer


def test_a_win_by_length_alone_is_none_at_equal_length():
    won, longer = draw(4000, theta=0.0, beta=2.0, shift=20, seed=0)
    found = length_controlled(won, longer)
    assert won.mean() > 0.7
    assert found.low < 0.5 < found.high
    assert found.length_effect == pytest.approx(2.0, abs=0.3)


def test_a_real_win_stays_one():
    won, longer = draw(4000, theta=1.0, beta=0.0, shift=20, seed=1)
    found = length_controlled(won, longer)
    assert found.low < 1 / (1 + math.exp(-1)) < found.high
    assert found.low > 0.6


def test_both_sides_mirror_each_other():
    won, longer = draw(200, theta=0.5, beta=1.0, shift=5, seed=2)
    won[::5] = 0.5
    one, other = length_controlled(won, longer), length_controlled(1 - won, -longer)
    assert one.rate == pytest.approx(1 - other.rate)
    assert one.low == pytest.approx(1 - other.high)


def test_intervals_cover_at_about_their_level():
    covered = [
        found.low <= 1 / (1 + math.exp(-0.4)) <= found.high
        for seed in range(100)
        if (found := length_controlled(*draw(150, theta=0.4, beta=1.0, shift=10, seed=seed))).rate > 0
    ]
    assert len(covered) == 100
    assert 88 <= sum(covered) <= 100


@pytest.mark.parametrize(
    ("won", "longer"),
    [
        ([1, 1], [1, 2]),
        ([1, 1, 1, 1], [1, 2, 3, 4]),
        ([0, 0, 0], [1, -2, 3]),
        ([0, 0, 1, 1], [-2, -1, 1, 2]),
        ([0, 1, 1, 1], [3, 3, 3, 3]),
    ],
)
def test_nothing_is_claimed_where_length_and_winning_cannot_be_told_apart(won, longer):
    found = length_controlled(np.array(won, dtype=float), np.array(longer, dtype=float))
    assert math.isnan(found.rate)
    assert math.isnan(found.low)


def test_equal_lengths_leave_the_plain_rate():
    won = np.array([1.0, 0, 1, 0.5, 1, 0, 1, 1])
    found = length_controlled(won, np.zeros(8))
    assert found.rate == pytest.approx(won.mean())
    assert found.low < won.mean() < found.high


def test_win_rates_of_a_comparison(fake_results):
    results = fake_results(temperatures=(0.0, 0.9))
    assert len(results["win_rates"]) == 6 * 2
    row = next(r for r in results["win_rates"] if (r["a"], r["b"], r["sampling"]) == ("sft", "ppo", "greedy"))
    paired = next(
        r
        for r in results["comparisons"]
        if (r["a"], r["b"], r["sampling"], r["measure"]) == ("sft", "ppo", "greedy", "reward")
    )
    assert row["win_rate"] == pytest.approx(paired["win_rate"] + paired["tie_rate"] / 2, abs=1e-5)
    assert row["measure"] == "reward"
    assert row["ci_low"] < row["win_rate"] < row["ci_high"]


def test_a_lower_score_wins_where_lower_is_better():
    results = {"measures": [{"name": "nll", "kind": "metric", "higher_is_better": False}]}
    scores = {"greedy": {"a": {"nll": [[2.0], [2.0], [1.0]]}, "b": {"nll": [[1.0], [1.0], [3.0]]}}}
    texts = {"greedy": {"a": [["x"], ["x"], ["x"]], "b": [["xx"], ["x"], ["x"]]}}
    (row,) = win_rates(results, scores, texts)
    assert row["win_rate"] == pytest.approx(2 / 3, abs=1e-5)
    assert row["length_difference"] == pytest.approx(1 / 3, abs=1e-5)


def test_the_front_holds_whom_nobody_beats_on_both():
    points = {"sft": (0.5, 0.0), "ppo": (0.9, 5.0), "dpo": (0.8, 2.0), "bad": (0.7, 3.0)}
    results = {
        "measures": [{"name": "reward", "kind": "reward", "higher_is_better": True}],
        "kl_reference": "sft",
        "sampling": [{"name": "greedy"}],
        "summary": {
            name: {"greedy": {"reward": {"mean": value}, "kl_sft": {"mean": kl}}}
            for name, (value, kl) in points.items()
        },
    }
    results["summary"]["other"] = {"greedy": {"reward": {"mean": 1.0}, "kl_sft": {"mean": None}}}
    found = {row["checkpoint"]: row for row in pareto(results)}
    assert {name for name, row in found.items() if row["on_front"]} == {"sft", "ppo", "dpo"}
    assert found["bad"]["dominated_by"] == ["dpo"]
    assert "other" not in found
    assert pareto(results | {"kl_reference": None}) == []
