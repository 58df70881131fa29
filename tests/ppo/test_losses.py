"""Policy and value losses against values computed by hand."""

import math

import pytest
import torch

from rlgen.ppo.losses import policy_loss, value_loss


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "clipped", "slope"),
    [
        (1.0, 2.0, -2.0, False, -2.0),
        (1.1, 2.0, -2.2, False, -2.2),
        (1.5, 2.0, -2.4, True, 0.0),  # too far up a good token: 1.2 * 2, no gradient
        (0.5, 2.0, -1.0, False, -1.0),  # a good token that lost probability may always come back
        (0.5, -2.0, 1.6, True, 0.0),  # too far down a bad token: 0.8 * 2, no gradient
        (1.5, -2.0, 3.0, False, 3.0),  # a bad token that gained may always be pushed back
    ],
)
def test_policy_loss_by_hand(ratio, advantage, loss, clipped, slope):
    logprobs = torch.tensor([math.log(ratio)], requires_grad=True)
    result, measured, was_clipped = policy_loss(logprobs, torch.zeros(1), torch.tensor([advantage]), 0.2)
    result.sum().backward()
    assert result.item() == pytest.approx(loss)
    assert measured.item() == pytest.approx(ratio)
    assert bool(was_clipped) is clipped
    assert float(logprobs.grad) == pytest.approx(slope)  # d ratio / d log p is the ratio itself


@pytest.mark.parametrize(
    ("value", "old", "target", "loss", "clipped"),
    [
        (1.0, 1.0, 2.0, 0.5, False),
        (1.1, 1.0, 2.0, 0.405, False),
        (1.9, 1.0, 2.0, 0.32, True),  # held at 1.2, error 0.8
        (0.0, 1.0, 2.0, 2.0, False),  # away from the target: the larger, unclipped error counts
    ],
)
def test_value_loss_by_hand(value, old, target, loss, clipped):
    result, was_clipped = value_loss(torch.tensor([value]), torch.tensor([old]), torch.tensor([target]), 0.2)
    assert float(result) == pytest.approx(loss)
    assert bool(was_clipped) is clipped


def test_value_loss_without_clipping_is_half_the_squared_error():
    values, returns = torch.tensor([0.0, 3.0]), torch.tensor([2.0, 2.0])
    result, was_clipped = value_loss(values, torch.zeros(2), returns, None)
    assert result.tolist() == [2.0, 0.5]
    assert not was_clipped.any()
