"""The KL estimators by sampling, and the controller of the KL weight by hand and in a loop."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlgen.ppo.advantages import kl_estimate
from rlgen.ppo.kl_control import KLControl, adapted_kl_coef


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
@pytest.mark.parametrize("spread", [0.1, 0.7])
def test_sampled_estimates_average_to_the_exact_divergence(estimator, spread):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 6, generator=generator, dtype=torch.float64) * spread
    policy, reference = logits.log_softmax(-1).unbind()
    exact = float((policy.exp() * (policy - reference)).sum())
    tokens = torch.multinomial(policy.exp(), 200_000, replacement=True, generator=generator)
    estimates = kl_estimate(policy[tokens], reference[tokens], estimator)
    error = 5 * float(estimates.std()) / len(tokens) ** 0.5
    # k2 is biased, by less than the square of the spread times the divergence for distributions this close.
    bias = spread**2 * exact if estimator == "k2" else 0.0
    assert float(estimates.mean()) == pytest.approx(exact, abs=error + bias)


def test_k3_varies_less_than_k1_where_the_distributions_are_close():
    generator = torch.Generator().manual_seed(1)
    policy, reference = (torch.randn(2, 6, generator=generator) * 0.1).log_softmax(-1).unbind()
    tokens = torch.multinomial(policy.exp(), 10_000, replacement=True, generator=generator)
    spread = {name: kl_estimate(policy[tokens], reference[tokens], name).std() for name in ("k1", "k3")}
    assert spread["k3"] < spread["k1"] / 5


@pytest.mark.parametrize(
    ("kl", "expected"),
    [
        (6.0, 0.2),  # on target
        (6.6, 0.2 * (1 + 0.1 * 0.1)),  # a tenth too far: K_beta = 0.1 of it
        (5.4, 0.2 * (1 - 0.1 * 0.1)),
        (60.0, 0.2 * (1 + 0.1 * 0.2)),  # far off: the error counts as 0.2
        (0.0, 0.2 * (1 - 0.1 * 0.2)),
    ],
)
def test_the_next_weight_by_hand(kl, expected):
    assert adapted_kl_coef(0.2, kl, target=6.0, episodes=64, horizon=640) == pytest.approx(expected, rel=1e-12)


@given(kl=st.floats(0, 100), target=st.floats(0.01, 100), start=st.floats(1e-4, 10))
def test_the_weight_stays_positive_and_moves_toward_the_target(kl, target, start):
    after = adapted_kl_coef(start, kl, target=target, episodes=64, horizon=64)
    assert after > 0
    assert (after - start) * (kl - target) >= 0


def test_in_a_loop_the_divergence_reaches_its_target():
    control = KLControl(0.05, target=3.0, horizon=1000)
    for _ in range(400):
        control.observe(0.3 / control.kl_coef, 64)  # a policy that moves less the dearer it is
        control.adapt(64)
    assert 0.3 / control.kl_coef == pytest.approx(3.0, rel=0.02)


def test_without_a_target_or_without_completions_the_weight_stays():
    fixed, adaptive = KLControl(0.05, None, 100), KLControl(0.05, 1.0, 100)
    fixed.observe(9.0, 64)
    adaptive.observe(0.0, 0)
    for control in (fixed, adaptive):
        control.adapt(64)
        assert control.kl_coef == 0.05
