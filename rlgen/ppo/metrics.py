"""What PPO logs about a rollout and about a minibatch; docs/metrics.md gives each formula and its healthy range.

Letters for shapes: B completions, T completion tokens.
"""

from collections.abc import Callable

import torch
from accelerate import Accelerator
from torch import Tensor

from rlgen.ppo.advantages import masked_mean

Mean = Callable[[Tensor, Tensor], float | Tensor]
"""Of the values where a mask of the same shape is True; over all processes where there are several."""


def objective_metrics(
    scores: Tensor,
    scorable: Tensor,
    kl: Tensor,
    bonus: Tensor | None,
    completion_mask: Tensor,
    kl_coef: float,
    mean: Mean = masked_mean,
) -> dict[str, float]:
    """How a rollout stands with what PPO maximizes.

    Args:
        scores: (B,) as they enter the token rewards.
        scorable: (B,) False where a completion stays out of the update.
        kl: (B, T) estimates of the KL to the reference.
        bonus: (B, T) rewards of single tokens, or None.
        completion_mask: (B, T), False all along a completion that stays out.
        kl_coef: weight of the KL penalty.
        mean: how to average.
    """
    sequence_kl = torch.where(completion_mask, kl, 0.0).sum(1)
    objective = scores - kl_coef * sequence_kl
    if bonus is not None:
        objective = objective + torch.where(completion_mask, bonus, 0.0).sum(1)
    return {
        "objective/kl": float(mean(sequence_kl, scorable)),
        "objective/kl_per_token": float(mean(kl, completion_mask)),
        "objective/kl_coef": kl_coef,
        "objective/rlhf_reward": float(mean(objective, scorable)),
        "objective/unscored": float((~scorable).float().mean()),
    }


def update_metrics(
    ratio: Tensor,
    clipped: Tensor,
    moved: Tensor,
    entropy: Tensor | None,
    completion_mask: Tensor,
    mean: Mean = masked_mean,
) -> dict[str, float]:
    """How far a minibatch's policy is from the one that sampled, token by token.

    Args:
        ratio: (...) probability ratios.
        clipped: (...) bool, where clipping took the gradient away.
        moved: (...) estimates of the KL from the policy that sampled.
        entropy: (...) of the next-token distributions, or None.
        completion_mask: (...).
        mean: how to average.
    """
    values = {
        "policy/clip_fraction": clipped.float(),
        "policy/approx_kl": moved,
        "policy/ratio": ratio,
    }
    if entropy is not None:
        values["policy/entropy"] = entropy
    return {name: float(mean(value.detach(), completion_mask)) for name, value in values.items()}


def pooled_mean(values: Tensor, accelerator: Accelerator) -> tuple[float, int]:
    """Mean (0 of nothing) and number of the values (M,) of all processes, however many each of them has."""
    sums = torch.stack([values.sum(), values.new_tensor(len(values))]).to(accelerator.device)
    total, count = accelerator.reduce(sums, "sum").tolist()
    return total / max(count, 1), int(count)


def pooled(values: Tensor, accelerator: Accelerator) -> Tensor:
    """The values (M,) of all processes, one after the other, however many each of them has."""
    if accelerator.num_processes == 1:
        return values
    there = accelerator.pad_across_processes(torch.ones_like(values))
    everywhere: Tensor = accelerator.gather(accelerator.pad_across_processes(values))
    return everywhere[accelerator.gather(there) > 0]
