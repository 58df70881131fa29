"""GAE and its company against an independent float64 reference, and their properties."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlgen.ppo.advantages import explained_variance, gae, kl_estimate, masked_mean, token_rewards, whiten


def mask_of(lengths: list[int], tokens: int) -> torch.Tensor:
    return torch.arange(tokens)[None] < torch.tensor(lengths)[:, None]


def reference_gae(rewards: list[float], values: list[float], gamma: float, lam: float) -> list[float]:
    """Sum of discounted TD errors, term by term (Schulman et al. 2016, equation 16), in Python floats."""
    n = len(rewards)
    delta = [rewards[t] + gamma * (values[t + 1] if t + 1 < n else 0.0) - values[t] for t in range(n)]
    return [math.fsum((gamma * lam) ** k * delta[t + k] for k in range(n - t)) for t in range(n)]


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    gamma=st.floats(0, 1),
    lam=st.floats(0, 1),
    lengths=st.lists(st.integers(0, 7), min_size=1, max_size=5),
)
def test_gae_equals_the_float64_reference_on_padded_rows(seed, gamma, lam, lengths):
    generator = torch.Generator().manual_seed(seed)
    rewards, values = torch.randn(2, len(lengths), 7, generator=generator).unbind()
    mask = mask_of(lengths, 7)
    advantages, returns = gae(rewards, values, mask, gamma, lam)
    for i, n in enumerate(lengths):
        expected = reference_gae(rewards[i, :n].double().tolist(), values[i, :n].double().tolist(), gamma, lam)
        assert advantages[i, :n].tolist() == pytest.approx(expected, abs=1e-5)
        assert returns[i, :n].tolist() == pytest.approx(
            [a + v for a, v in zip(expected, values[i, :n].tolist(), strict=True)], abs=1e-5
        )
        assert not advantages[i, n:].any()
        assert not returns[i, n:].any()


def test_gae_with_lambda_1_is_return_minus_value_and_with_lambda_0_the_td_error():
    rewards = torch.tensor([[1.0, 2.0, 4.0]])
    values = torch.tensor([[0.5, 0.25, 0.125]])
    mask = mask_of([3], 3)
    advantages, returns = gae(rewards, values, mask, 1.0, 1.0)
    assert advantages.tolist() == [[6.5, 5.75, 3.875]]
    assert returns.tolist() == [[7.0, 6.0, 4.0]]
    advantages, _ = gae(rewards, values, mask, 1.0, 0.0)
    assert advantages.tolist() == [[1 + 0.25 - 0.5, 2 + 0.125 - 0.25, 4 - 0.125]]


def test_padding_and_batch_order_change_nothing():
    generator = torch.Generator().manual_seed(0)
    rewards, values = torch.randn(2, 4, 6, generator=generator).unbind()
    mask = mask_of([6, 2, 4, 1], 6)
    advantages, _ = gae(rewards, values, mask, 0.9, 0.8)
    noisy, _ = gae(rewards + 99 * ~mask, values - 99 * ~mask, mask, 0.9, 0.8)
    assert torch.equal(advantages, noisy)
    order = torch.tensor([2, 0, 3, 1])
    permuted, _ = gae(rewards[order], values[order], mask[order], 0.9, 0.8)
    assert torch.equal(advantages[order], permuted)


def test_token_rewards_put_the_score_on_the_last_token_and_the_penalty_on_all():
    kl = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]])
    rewards = token_rewards(torch.tensor([10.0, 20.0, 30.0]), kl, mask_of([3, 1, 0], 3), 0.1)
    expected = torch.tensor([[-0.1, -0.2, 9.7], [19.6, 0.0, 0.0], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(rewards, expected)


def test_kl_estimators_agree_with_the_exact_divergence_on_average():
    generator = torch.Generator().manual_seed(0)
    policy, reference = torch.randn(2, 8, generator=generator).mul(0.5).log_softmax(-1).unbind()
    exact = (policy.exp() * (policy - reference)).sum()
    for estimator in ("k1", "k3"):
        mean = (policy.exp() * kl_estimate(policy, reference, estimator)).sum()
        torch.testing.assert_close(mean, exact)
    assert (kl_estimate(policy, reference, "k2") >= 0).all()
    assert (kl_estimate(policy, reference, "k3") >= 0).all()
    assert not kl_estimate(policy, policy).any()


@given(seed=st.integers(0, 1000), length=st.integers(2, 6))
@settings(max_examples=25, deadline=None)
def test_whitened_values_have_mean_0_and_deviation_1(seed, length):
    values = torch.randn(3, 6, generator=torch.Generator().manual_seed(seed)) * 5 + 2
    mask = mask_of([6, length, 1], 6)
    whitened = whiten(values, mask)
    assert float(whitened[mask].mean()) == pytest.approx(0, abs=1e-5)
    assert float(whitened[mask].std(correction=0)) == pytest.approx(1, abs=1e-4)
    assert not whitened[~mask].any()
    kept = whiten(values, mask, shift_mean=False)
    assert float(kept[mask].mean()) == pytest.approx(float(values[mask].mean()), abs=1e-4)
    assert float(kept[mask].std(correction=0)) == pytest.approx(1, abs=1e-4)


def test_masked_mean_of_nothing_is_0():
    assert float(masked_mean(torch.ones(2, 2), torch.zeros(2, 2, dtype=torch.bool))) == 0


def test_explained_variance_of_a_perfect_a_constant_and_a_harmful_prediction():
    targets = torch.tensor([0.0, 1.0, 2.0, 3.0])
    assert explained_variance(targets, targets) == 1
    assert explained_variance(torch.full((4,), 7.0), targets) == pytest.approx(0)
    assert explained_variance(-targets, targets) < 0
    assert math.isnan(explained_variance(targets, torch.ones(4)))
