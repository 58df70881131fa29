"""From scores to advantages: per-token rewards, generalised advantage estimation, whitening. Pure functions.

Letters for shapes: B sequences, T completion tokens. A completion mask is True for tokens the policy chose.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

KLEstimator = Literal["k1", "k2", "k3"]


def kl_estimate(logprobs: Tensor, ref_logprobs: Tensor, estimator: KLEstimator = "k1") -> Tensor:
    """Estimate of the KL divergence from the reference at each sampled token.

    Args:
        logprobs: (B, T) log-probabilities under the policy, natural log.
        ref_logprobs: (B, T) under the reference.
        estimator: "k1" log ratio (unbiased, may be negative), "k2" half its square, "k3" unbiased and non-negative.

    Returns:
        (B, T) in nats.

    Source: Schulman, "Approximating KL divergence", 2020, http://joschu.net/blog/kl-approx.html.
    """
    log_ratio = logprobs - ref_logprobs
    if estimator == "k1":
        return log_ratio
    if estimator == "k2":
        return log_ratio.square() / 2
    return torch.expm1(-log_ratio) + log_ratio


def token_rewards(
    scores: Tensor, kl: Tensor, completion_mask: Tensor, kl_coef: float, bonus: Tensor | None = None
) -> Tensor:
    """Reward of each token: minus the KL penalty and plus its own bonus everywhere, plus the score at the last token.

    Args:
        scores: (B,) one score a completion.
        kl: (B, T) per-token KL estimate.
        completion_mask: (B, T).
        kl_coef: weight of the penalty, at least 0.
        bonus: (B, T) rewards that were given to single tokens, or None.

    Returns:
        (B, T), 0 where the mask is False. A completion without any token has no reward.

    Source: Ziegler et al. 2019, arXiv 1909.08593, section 2.2.
    """
    rewards = torch.where(completion_mask, -kl_coef * kl if bonus is None else bonus - kl_coef * kl, 0.0)
    last = completion_mask & (completion_mask.long().cumsum(1) == completion_mask.sum(1, keepdim=True))
    return rewards + torch.where(last, scores[:, None], 0.0)


def gae(rewards: Tensor, values: Tensor, completion_mask: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation over completions that end at their last token.

    Args:
        rewards: (B, T) per-token rewards.
        values: (B, T) value of the state before each token.
        completion_mask: (B, T), True without gaps from the first token on.
        gamma: discount factor in [0, 1].
        lam: weight of long against short estimates, lambda in [0, 1].

    Returns:
        Advantages (B, T) and returns (B, T) = advantages + values, both 0 where the mask is False.

    Source: Schulman et al. 2016, arXiv 1506.02438, equations 11 and 16.
    """
    rewards = torch.where(completion_mask, rewards, 0.0)
    values = torch.where(completion_mask, values, 0.0)
    following = torch.cat([values[:, 1:], values.new_zeros(len(values), 1)], 1)  # 0 after the last token
    deltas = rewards + gamma * following - values
    advantages = torch.zeros_like(deltas)
    running = deltas.new_zeros(len(deltas))
    for t in reversed(range(deltas.shape[1])):
        running = deltas[:, t] + gamma * lam * running
        advantages[:, t] = running
    return advantages, advantages + values


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of `values` where `mask` is True; 0 if it is nowhere."""
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp(min=1)


def whiten(
    values: Tensor,
    mask: Tensor,
    *,
    shift_mean: bool = True,
    total: Callable[[Tensor], Tensor] = lambda local: local,
) -> Tensor:
    """Scale to variance 1 over the True positions, and to mean 0 unless `shift_mean` is off.

    Args:
        values: (B, T).
        mask: (B, T).
        shift_mean: whether the mean is taken out.
        total: sums a tensor over all processes, so that every process whitens alike.

    Returns:
        (B, T), 0 where the mask is False.

    Source: Huang et al. 2024, arXiv 2403.17031, details on reward and advantage whitening.
    """
    count = total(mask.sum().to(values.dtype)).clamp(min=1)
    mean = total(torch.where(mask, values, 0.0).sum()) / count
    centred = torch.where(mask, values - mean, 0.0)
    variance = total(centred.square().sum()) / count
    scaled = centred * torch.rsqrt(variance + 1e-8)
    return scaled if shift_mean else torch.where(mask, scaled + mean, 0.0)


def explained_variance(predictions: Tensor, targets: Tensor) -> float:
    """1 - Var(targets - predictions) / Var(targets); 1 is perfect, 0 no better than a constant.

    Args:
        predictions: (M,).
        targets: (M,).

    Returns:
        At most 1; NaN if the targets do not vary.
    """
    if targets.numel() == 0 or targets.var(correction=0) == 0:
        return float("nan")
    return float(1 - (targets - predictions).var(correction=0) / targets.var(correction=0))
