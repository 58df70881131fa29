"""PPO's losses, token by token, and that of PPO-ptx. Pure functions; the caller averages the ones of PPO."""

import torch
from torch import Tensor


def policy_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, cliprange: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Clipped surrogate loss of each token.

    Args:
        logprobs: (...) log-probabilities of the sampled tokens under the policy that is being updated.
        old_logprobs: (...) under the policy that sampled them.
        advantages: (...).
        cliprange: half width of the trusted band of probability ratios around 1.

    Returns:
        Loss (...), probability ratio (...), and whether clipping took the gradient away (...), bool.

    Source: Schulman et al. 2017, arXiv 1707.06347, equation 7.
    """
    ratio = torch.exp(logprobs - old_logprobs)
    unclipped = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - cliprange, 1 + cliprange)
    return torch.maximum(unclipped, clipped), ratio, clipped > unclipped


def value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, cliprange_value: float | None
) -> tuple[Tensor, Tensor]:
    """Squared error of each value, clipped around the old prediction.

    Args:
        values: (...) predictions of the critic that is being updated.
        old_values: (...) its predictions at the rollout.
        returns: (...) targets.
        cliprange_value: half width of the band around the old value; None for no clipping.

    Returns:
        Loss (...) and whether clipping took the gradient away (...), bool.

    Source: Huang et al. 2024, arXiv 2403.17031, detail "value function loss clipping"; Schulman et al.'s code.
    """
    plain = (values - returns).square() / 2
    if cliprange_value is None:
        return plain, torch.zeros_like(plain, dtype=torch.bool)
    near_old = old_values + (values - old_values).clamp(-cliprange_value, cliprange_value)
    clipped = (near_old - returns).square() / 2
    return torch.maximum(plain, clipped), clipped > plain


def language_model_loss(logprobs: Tensor, completion_mask: Tensor, tokens: float) -> Tensor:
    """Cross-entropy of the tokens of given completions: minus the sum of their log-probabilities over `tokens`.

    Args:
        logprobs: (...) natural log, at temperature 1.
        completion_mask: (...).
        tokens: what the sum is divided by: completion tokens of the whole update's batch, so that batches that are
            accumulated add up to the mean over all of them.

    Returns:
        A scalar.

    Source: Ouyang et al. 2022, arXiv 2203.02155, equation 2, last term; a mean over tokens instead of their
        expectation over sequences, so that its weight does not depend on the length of the rows.
    """
    return -torch.where(completion_mask, logprobs, 0.0).sum() / tokens
