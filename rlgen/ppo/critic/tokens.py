"""Critics that compute hidden states of their own from a rollout's tokens, and train what computes them."""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rlgen.ppo.critic.base import Critic, CriticOptions
from rlgen.ppo.critic.features import states_of
from rlgen.ppo.losses import value_loss
from rlgen.scoring import PackedRows

if TYPE_CHECKING:
    from rlgen.ppo.rollout import Scored


@dataclass
class TokenStates:
    """A rollout as these critics read it."""

    packed: PackedRows
    trunk: Tensor | None = None
    """(N, S, H) output of the frozen lower layers, where it is known."""

    def __getitem__(self, rows: slice | Tensor) -> "TokenStates":
        """Some of the rows, without the padding that none of them needs."""
        packed = self.packed[rows]
        return TokenStates(packed, None if self.trunk is None else self.trunk[rows][:, : packed.input_ids.shape[1]])

    def to(self, device: torch.device) -> "TokenStates":
        """The same rows on another device."""
        return TokenStates(self.packed.to(device), None if self.trunk is None else self.trunk.to(device))

    def flat(self) -> tuple[Tensor | None, ...]:
        """Its tensors, as a file takes them."""
        return (*(getattr(self.packed, item.name) for item in fields(PackedRows)), self.trunk)


class TokenCritic(Critic):
    """A critic with a backbone that trains; steps take whole rows, so that a prompt serves all its completions.

    Args:
        hidden_size: H of the backbone.
        options: sizes and settings.
        backbone: its parameters.
        batch_size: completions of a forward pass without gradient.
        autocast: entered around every forward pass of the backbone.
    """

    trunk_depth = 0
    """Lower layers that it leaves out, since rollouts bring their output along."""

    def __init__(
        self,
        hidden_size: int,
        options: CriticOptions,
        backbone: nn.Module,
        *,
        batch_size: int = 16,
        autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        super().__init__(hidden_size, options, backbone)
        self.hidden_size, self.batch_size, self.autocast = hidden_size, batch_size, autocast

    @abstractmethod
    def hidden(self, states: TokenStates) -> Tensor:
        """Final hidden states (N, S, H) of the backbone."""

    @contextmanager
    def in_charge(self) -> Iterator[None]:
        """Around everything that runs or trains the backbone."""
        yield

    def states(self, scored: "Scored | TokenStates") -> TokenStates:
        """Tokens, and what is known of their lower layers."""
        return TokenStates(scored.packed, scored.trunk if self.trunk_depth else None)

    @torch.no_grad()
    def values(self, states: TokenStates) -> Tensor:
        """Values (M,), a few rows at a time."""
        self.eval()
        n, groups, _ = states.packed.completion_mask.shape
        size = max(self.batch_size // groups, 1)
        with self.in_charge():
            return torch.cat([self._values(states[start : start + size]) for start in range(0, n, size)])

    def _values(self, states: TokenStates) -> Tensor:
        with self.autocast():
            hidden = states_of(self.hidden(states), states.packed)
        values: Tensor = self(hidden)
        return values

    def fit(
        self,
        states: TokenStates,
        returns: Tensor,
        old_values: Tensor,
        *,
        epochs: int,
        minibatches: int,
        cliprange_value: float | None,
        mean_over_processes: Callable[[Tensor], Tensor] = lambda value: value,
    ) -> tuple[float, float]:
        """See `Critic.fit`; a step takes rows of one rollout, in an order that mixes the rollouts."""
        device, cpu = self.head.weight.device, torch.device("cpu")
        self.replay.append((*states.to(cpu).flat(), returns.cpu()))
        rollouts: list[_Remembered] = []
        for *tokens, trunk, targets in self.replay:
            remembered, newest = TokenStates(PackedRows(*tokens), trunk), len(rollouts) == len(self.replay) - 1
            values = old_values if newest else self.values(remembered.to(device))
            rollouts.append(_Remembered(remembered, targets, values.cpu()))
        # As many steps on every process, and none of them over no rows where all processes have as many rows.
        rows = float(mean_over_processes(torch.tensor(float(len(states.packed.input_ids)), device=device)))
        steps = min(minibatches, max(round(rows), 1))
        taken = []
        self.train()
        with self.in_charge():
            for _ in range(epochs):
                chunks = [(r, chunk) for r in rollouts for chunk in torch.randperm(r.rows).tensor_split(steps)]
                for place in torch.randperm(len(chunks)).tolist():
                    rollout, chunk = chunks[place]
                    loss, was_clipped = self._losses(rollout, chunk, cliprange_value)
                    taken.append(self._step(loss, was_clipped, mean_over_processes))
        mean_loss, mean_clipped = (sum(each) / len(taken) for each in zip(*taken, strict=True))
        return mean_loss, mean_clipped

    def _losses(self, rollout: "_Remembered", rows: Tensor, cliprange_value: float | None) -> tuple[Tensor, Tensor]:
        """Loss of each value of some rows, and whether it was clipped; (0,) for no rows."""
        device = self.head.weight.device
        if not len(rows):
            return torch.zeros(0, device=device), torch.zeros(0, device=device)
        old_values, returns = (rollout.pick(values, rows).to(device) for values in (rollout.values, rollout.returns))
        return value_loss(self._values(rollout.states[rows].to(device)), old_values, returns, cliprange_value)


@dataclass
class _Remembered:
    """A rollout that a critic learns from."""

    states: TokenStates
    returns: Tensor
    """(M,)."""
    values: Tensor
    """(M,) before the fit."""

    @property
    def rows(self) -> int:
        return len(self.states.packed.input_ids)

    def pick(self, values: Tensor, rows: Tensor) -> Tensor:
        """Of values (M,) those that belong to some rows, in the order of these rows."""
        keep = self.states.packed.completion_mask
        grid = torch.zeros(keep.shape).masked_scatter(keep, values)
        return grid[rows][keep[rows]]
