"""Critics on activations of a forward pass that runs anyway: of the reference (`frozen`) or of the policy (`head`)."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rlgen.ppo.critic.base import Critic, CriticOptions
from rlgen.ppo.losses import value_loss
from rlgen.scoring import PROMPT, PackedRows

if TYPE_CHECKING:
    from rlgen.ppo.rollout import Scored


class FeatureCritic(Critic):
    """A critic on features that the scoring of a rollout gives away; only its head trains."""

    memory = torch.float32
    """Number format of remembered features."""

    def states(self, scored: "Scored") -> Tensor:
        """Features (M, F)."""
        assert scored.features is not None
        return scored.features

    @torch.no_grad()
    def values(self, states: Tensor) -> Tensor:
        """Values (M,) of features (M, F)."""
        self.eval()
        return self(states)

    def fit(
        self,
        states: Tensor,
        returns: Tensor,
        old_values: Tensor,
        *,
        epochs: int,
        minibatches: int,
        cliprange_value: float | None,
        mean_over_processes: Callable[[Tensor], Tensor] = lambda value: value,
    ) -> tuple[float, float]:
        """See `Critic.fit`; steps mix the states of all rollouts."""
        device = self.head.weight.device
        self.replay.append((states.to(self.memory).cpu(), returns.cpu()))
        features, returns = (torch.cat(parts) for parts in zip(*self.replay, strict=True))
        old_values = torch.cat([self.values(part.to(device)) for part in features.split(4096)])
        self.train()
        steps = []
        for _ in range(epochs):
            order = torch.randperm(len(features))
            # tensor_split, not chunk: every process must take the same number of steps, if need be over no rows
            for chunk in order.tensor_split(minibatches * len(self.replay)):
                values, targets = self(features[chunk].to(device)), returns[chunk].to(device)
                loss, was_clipped = value_loss(values, old_values[chunk.to(device)], targets, cliprange_value)
                steps.append(self._step(loss, was_clipped, mean_over_processes))
        mean_loss, mean_clipped = (sum(each) / len(steps) for each in zip(*steps, strict=True))
        return mean_loss, mean_clipped


class FrozenCritic(FeatureCritic):
    """Reads one frozen layer of the reference model.

    It costs nothing extra, because the reference's forward pass visits the layer anyway, and the layer holds more
    about the return than the policy's last one, which is shaped for the next token.

    Args:
        hidden_size: H.
        layer: decoder layers below it.
        max_completion_length: limit of completion tokens, the unit of the position feature.
        options: sizes and settings.
    """

    kind = "frozen"
    memory = torch.float16  # layer-normed features lose nothing in it

    def __init__(self, hidden_size: int, layer: int, max_completion_length: int, options: CriticOptions) -> None:
        super().__init__(2 * hidden_size + 1, options)
        self.hidden_size, self.layer, self.max_completion_length = hidden_size, layer, max_completion_length

    def features(self, hidden: Mapping[int, Tensor], final: Tensor | None, packed: PackedRows) -> Tensor:
        """See `critic_features`."""
        assert self.layer is not None
        return critic_features(hidden[self.layer], packed, self.max_completion_length)

    def describe(self) -> dict[str, Any]:
        """Kind, layer and sizes."""
        sizes = {"hidden_size": self.hidden_size, "max_completion_length": self.max_completion_length}
        return {**super().describe(), "layer": self.layer, **sizes}


class HeadCritic(FeatureCritic):
    """The classic value head: linear on the policy's final hidden state, which is detached.

    Ziegler et al. 2019 (arXiv 1909.08593) train head and policy jointly; here the head alone learns, and sees the
    policy's features as they are at each rollout. It remembers no older ones, since the features move with the policy.
    """

    kind = "head"
    reads_policy = True

    def __init__(self, hidden_size: int, options: CriticOptions) -> None:
        super().__init__(hidden_size, options)
        self.hidden_size = hidden_size

    def features(self, hidden: Mapping[int, Tensor], final: Tensor | None, packed: PackedRows) -> Tensor:
        """Final hidden states (M, H)."""
        assert final is not None
        return states_of(final, packed).float()

    def describe(self) -> dict[str, Any]:
        """Kind and sizes."""
        return {**super().describe(), "hidden_size": self.hidden_size}


def states_of(hidden: Tensor, packed: PackedRows) -> Tensor:
    """Of hidden states (N, S, H) those that predict the completion tokens, (M, H)."""
    keep = packed.completion_mask
    rows = torch.arange(keep.shape[0], device=keep.device)[:, None, None].expand_as(keep)[keep]
    return hidden[rows, packed.source[keep]]


def critic_features(hidden: Tensor, packed: PackedRows, max_completion_length: int) -> Tensor:
    """What a frozen critic sees of each state: the hidden state, the mean of all so far, and how far along it is.

    Args:
        hidden: (N, S, H) activations of one layer for the packed rows.
        packed: the rows.
        max_completion_length: limit of completion tokens, the unit of the last feature.

    Returns:
        (M, 2H + 1) float32, in the order of `packed.completion_mask`'s True positions.
    """
    hidden = hidden.float()
    n, groups, tokens = packed.source.shape
    index = packed.source.reshape(n, -1, 1).expand(-1, -1, hidden.shape[-1])
    states = hidden.gather(1, index).reshape(n, groups, tokens, -1)
    in_prompt = (packed.segment_ids == PROMPT)[:, :, None]
    prompt_sum = (hidden * in_prompt).sum(1)[:, None, None]  # (N, 1, 1, H)
    steps = torch.arange(tokens, device=hidden.device)
    # The state before the first token is the prompt's last one, which the prompt's sum holds already.
    read = (states * (steps > 0)[:, None]).cumsum(2)
    means = (prompt_sum + read) / (in_prompt.sum(1)[:, None, None] + steps[:, None])
    progress = (steps / max_completion_length).expand(n, groups, tokens)[..., None]
    size = (hidden.shape[-1],)
    parts = [nn.functional.layer_norm(part, size) for part in (states, means)]  # activations reach 1e4 in mid layers
    return torch.cat([*parts, progress], -1)[packed.completion_mask]
