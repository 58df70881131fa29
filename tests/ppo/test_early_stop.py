"""When a rollout's updates end, by hand."""

import pytest
import torch

from rlgen.ppo.early_stop import KLStop

CPU = torch.device("cpu")
MASK = torch.tensor([[True, True, False], [True, True, True]])


def kl(value: float) -> torch.Tensor:
    return torch.full((2, 3), value)


@pytest.mark.parametrize(("value", "stops"), [(0.0, False), (0.029, False), (0.031, True)])
def test_it_stops_beyond_one_and_a_half_times_the_target(value, stops):
    stop = KLStop(0.02)
    stop.observe(kl(value), MASK)
    assert stop.ends_update(CPU) is stops
    assert stop.stopped is stops


def test_once_stopped_it_stays_so_until_the_next_rollout():
    stop = KLStop(0.02)
    stop.observe(kl(1.0), MASK)
    assert stop.ends_update(CPU)
    assert stop.ends_update(CPU)
    stop.begin_rollout()
    stop.observe(kl(0.0), MASK)
    assert not stop.ends_update(CPU)


def test_the_minibatches_of_an_update_are_pooled_by_tokens_and_forgotten_after():
    stop = KLStop(0.02)
    stop.observe(kl(0.05), MASK[:1].expand(2, 3))  # 4 tokens
    stop.observe(kl(0.0), torch.ones(2, 3, dtype=torch.bool))  # 6 tokens: 0.02 on average
    assert not stop.ends_update(CPU)
    stop.observe(kl(0.028), MASK)
    assert not stop.ends_update(CPU)


def test_padding_does_not_count():
    stop = KLStop(0.02)
    stop.observe(torch.where(MASK, 0.0, 99.0), MASK)
    assert not stop.ends_update(CPU)


def test_all_processes_decide_by_the_same_number():
    stop = KLStop(0.02, total=lambda local: local + torch.tensor([0.5, 5.0]))  # another process moved far
    stop.observe(kl(0.0), MASK)
    assert stop.ends_update(CPU)


def test_without_a_target_it_never_stops():
    stop = KLStop(None)
    stop.observe(kl(99.0), MASK)
    assert not stop.ends_update(CPU)
