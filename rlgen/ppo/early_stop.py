"""The end of a rollout's updates once the policy has moved far from the one that sampled it."""

from collections.abc import Callable

import torch
from torch import Tensor

STOP_FACTOR = 1.5


class KLStop:
    """Ends a rollout's updates when the policy has moved too far from the one that sampled it.

    The k3 estimate of KL(sampling policy, policy), a mean over the tokens of all minibatches and processes of one
    update, is compared with 1.5 times the target before the step is taken, as Spinning Up and Stable-Baselines3 do;
    that update and the rollout's remaining ones are then left out.

    Args:
        target_kl: in nats a token; None never stops.
        total: sums a tensor over all processes, so that all of them stop together.
    """

    def __init__(self, target_kl: float | None, total: Callable[[Tensor], Tensor] = lambda local: local) -> None:
        self.target_kl = target_kl
        self.total = total
        self.begin_rollout()

    def begin_rollout(self) -> None:
        """Allow updates again."""
        self.stopped = False
        self._begin_update()

    def _begin_update(self) -> None:
        self._kl, self._tokens = 0.0, 0.0

    def observe(self, kl: Tensor, completion_mask: Tensor) -> None:
        """Add one minibatch of the update: per-token estimates and which of them count, of one shape."""
        self._kl += float(torch.where(completion_mask, kl, 0.0).sum())
        self._tokens += float(completion_mask.sum())

    def ends_update(self, device: torch.device) -> bool:
        """Whether the update whose minibatches were observed must be left out; on every process alike."""
        if self.target_kl is None:
            return False
        if not self.stopped:
            kl, tokens = self.total(torch.tensor([self._kl, self._tokens], device=device)).tolist()
            self.stopped = kl > STOP_FACTOR * self.target_kl * tokens
        self._begin_update()
        return self.stopped
