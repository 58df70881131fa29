"""Running moments against all values at once; the order of normalising, clipping and penalising; token rewards."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlgen.errors import ConfigError, RewardError
from rlgen.ppo import PPOConfig
from rlgen.ppo.scores import ScoreShaping, TokenScores, pad_token_rewards
from rlgen.rewards.moments import RunningMoments

NAN = float("nan")
ONE = torch.ones(1)


def shaping(**options) -> ScoreShaping:
    return ScoreShaping(PPOConfig(use_cpu=True, bf16=False, **options))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.floats(-1e3, 1e3, width=32), max_size=7), min_size=1, max_size=6), st.floats(0, 1e6))
def test_moments_of_batches_are_those_of_everything_at_once(batches, offset):
    moments = RunningMoments()
    for batch in batches:
        moments.update(torch.tensor(batch, dtype=torch.float64) + offset)
        moments = RunningMoments(**json.loads(json.dumps(dataclasses.asdict(moments))))  # as a checkpoint keeps them
    everything = np.array([value for batch in batches for value in batch]) + offset
    assert moments.count == len(everything)
    if len(everything):
        assert moments.mean == pytest.approx(everything.mean(), rel=1e-12, abs=1e-9)
        assert moments.deviation == pytest.approx(everything.std(), rel=1e-6, abs=1e-6)


def test_a_checkpoint_keeps_moments_to_the_bit():
    moments = RunningMoments()
    moments.update(torch.rand(100, generator=torch.Generator().manual_seed(0)))
    assert RunningMoments(**json.loads(json.dumps(dataclasses.asdict(moments)))) == moments


def test_by_default_scores_are_the_weighted_sum_as_it_is():
    rewards = torch.tensor([[1.0, 100.0], [NAN, -7.0], [NAN, NAN]])
    scores, scored = shaping()(rewards, torch.tensor([2.0, 0.5]), learn=True)
    assert scores.tolist() == [52.0, -3.5, 0.0]
    assert scored.tolist() == [True, True, False]


def test_scores_are_normalised_by_all_so_far_with_the_new_ones():
    shape = shaping(normalize_rewards=True)
    first, _ = shape(torch.tensor([[1.0], [3.0]]), ONE, learn=True)
    assert first.tolist() == pytest.approx([-1.0, 1.0])
    second, _ = shape(torch.tensor([[2.0], [6.0]]), ONE, learn=True)  # 1, 3, 2, 6: mean 3, variance 3.5
    assert second.tolist() == pytest.approx([-1 / 3.5**0.5, 3 / 3.5**0.5])
    assert shape.metrics() == pytest.approx({"objective/score_mean": 3.0, "objective/score_deviation": 3.5**0.5})


def test_evaluation_reads_the_moments_and_does_not_change_them():
    shape = shaping(normalize_rewards=True)
    assert shape(torch.tensor([[5.0]]), ONE, learn=False)[0].tolist() == [5.0]  # nothing is known yet
    shape(torch.tensor([[1.0], [3.0]]), ONE, learn=True)
    before = dataclasses.replace(shape.moments)
    assert shape(torch.tensor([[4.0]]), ONE, learn=False)[0].tolist() == pytest.approx([2.0])
    assert shape.moments == before


def test_what_no_reward_applies_to_neither_counts_nor_gets_a_score():
    shape = shaping(normalize_rewards=True)
    scores, scored = shape(torch.tensor([[1.0], [NAN], [3.0]]), ONE, learn=True)
    assert scores.tolist() == pytest.approx([-1.0, 0.0, 1.0])
    assert scored.tolist() == [True, False, True]
    assert shape.moments.count == 2


def test_equal_scores_become_zero():
    assert shaping(normalize_rewards=True)(torch.full((4, 1), 7.0), ONE, learn=True)[0].tolist() == [0.0] * 4


def test_clipping_holds_scores_in_the_band_and_counts_what_it_held():
    shape = shaping(reward_clip=2.0)
    scores, _ = shape(torch.tensor([[-5.0], [-2.0], [1.0], [9.0]]), ONE, learn=True)
    assert scores.tolist() == [-2.0, -2.0, 1.0, 2.0]
    assert shape.metrics() == {"objective/clipped_scores": 0.5}


def test_normalising_comes_first_then_clipping_then_the_penalty():
    shape = shaping(normalize_rewards=True, reward_clip=1.0, missing_eos_penalty=0.5)
    rewards = torch.tensor([[0.0], [0.0], [0.0], [100.0]])  # normalised: -0.58 three times, 1.73
    scores, scored = shape(rewards, ONE, learn=True)
    scores, _ = shape.local(scores, scored, [True, False, True, False], None)
    low = -(3**-0.5)
    assert scores.tolist() == pytest.approx([low, low - 0.5, low, 0.5], abs=1e-6)


def test_truncated_completions_can_stay_out():
    shape = shaping(mask_truncated_completions=True)
    scores, taking_part = shape.local(torch.ones(3), torch.tensor([True, True, False]), [True, False, True], None)
    assert taking_part.tolist() == [True, False, False]
    assert scores.tolist() == [1.0, 1.0, 1.0]


def test_a_completion_that_only_a_token_reward_applies_to_takes_part():
    _, taking_part = shaping().local(
        torch.zeros(3), torch.tensor([False, False, True]), [True] * 3, [[1.0], None, None]
    )
    assert taking_part.tolist() == [True, False, True]


def first_token(prompts, completions, completion_ids, **_):
    return [[1.0] + [0.0] * (len(ids) - 1) for ids in completion_ids]


def column(prompts, completions, completion_ids, bonus, **_):
    return [None if value is None else [value] * len(ids) for value, ids in zip(bonus, completion_ids, strict=True)]


def test_token_rewards_are_weighted_and_added_where_they_apply():
    rows = [{"prompt": "a", "bonus": 2.0}, {"prompt": "b", "bonus": None}]
    scores = TokenScores([first_token, column], [1.0, 0.5])
    totals, sums = scores(rows, ["a", "b"], ["x", "y"], [[5, 6], [7]], {"trainer_state": None})
    assert totals == [[2.0, 1.0], [1.0]]
    assert {name: value.tolist() for name, value in sums.items()} == {"first_token": [1.0, 1.0], "column": [4.0]}
    totals, sums = TokenScores([column], None)(rows[1:], ["b"], ["y"], [[7]], {})
    assert totals == [None]
    assert sums["column"].tolist() == []
    padded = pad_token_rewards([[2.0, 1.0], None, []], torch.zeros(3, 4))
    assert padded.tolist() == [[2.0, 1.0, 0.0, 0.0], [0.0] * 4, [0.0] * 4]


def test_a_token_reward_of_the_wrong_length_is_named_with_its_row():
    def short(prompts, completions, completion_ids, **_):
        return [[0.0] * len(ids) for ids in completion_ids[:1]] + [[0.0]]

    with pytest.raises(RewardError, match="token reward 'short' returned 1 values for row 1, whose completion has 3"):
        TokenScores([short], None)([{}, {}], ["a", "b"], ["x", "y"], [[5], [5, 6, 7]], {})


def test_weights_must_fit_the_token_rewards():
    with pytest.raises(ConfigError, match="2 token_reward_weights for 1 token rewards"):
        TokenScores([first_token], [1.0, 2.0])
