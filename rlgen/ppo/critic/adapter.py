"""The critic `adapter`: a second adapter and a value head on the base model that policy and reference share."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from peft import PeftConfig, PeftModel
from torch import Tensor

from rlgen.hidden import frozen_depth, replay_hidden, run_decoder
from rlgen.ppo.critic.base import CriticOptions
from rlgen.ppo.critic.tokens import TokenCritic, TokenStates
from rlgen.ppo.side_adapter import SideAdapter

NAME = "critic"


class AdapterCritic(TokenCritic):
    """Base weights are shared, adapter and value head are the critic's own (Santacroce et al. 2023, arXiv 2309.00754).

    The adapter is part of the policy's layers only while the critic is at work, see `SideAdapter`.

    Args:
        policy: with adapters of its own.
        adapter: settings of the critic's adapter.
        options: sizes and settings.
        trunk_depth: lower layers that the policy leaves frozen, whose output rollouts bring along.
        weights: of the adapter, as PEFT saves them; None for fresh ones, which change nothing at first.
        **kwargs: see `TokenCritic`.

    Raises:
        ConfigError: the adapter does not fit the model.
    """

    kind = "adapter"

    def __init__(
        self,
        policy: PeftModel,
        adapter: PeftConfig,
        options: CriticOptions,
        *,
        trunk_depth: int = 0,
        weights: dict[str, Tensor] | None = None,
        **kwargs: Any,
    ) -> None:
        self.side = SideAdapter(policy, NAME, adapter, weights)
        hidden_size = policy.config.get_text_config().hidden_size
        super().__init__(hidden_size, options, self.side.parameter_dict(), **kwargs)
        with self.in_charge():
            self.trunk_depth = trunk_depth if frozen_depth(policy) >= trunk_depth else 0

    @property
    def policy(self) -> PeftModel:
        """The model that the adapter lives in."""
        return self.side.policy

    def hidden(self, states: TokenStates) -> Tensor:
        """Final hidden states (N, S, H) of the base with the critic's adapter; only while it is in charge."""
        with replay_hidden(self.policy, self.trunk_depth, states.trunk):
            return run_decoder(self.policy, states.packed)

    @contextmanager
    def in_charge(self) -> Iterator[None]:
        """The critic's adapter instead of the policy's, without dropout; afterwards all is as it was."""
        with self.side.in_charge():
            yield

    def describe(self) -> dict[str, Any]:
        """Kind, sizes and the adapter's settings."""
        return {**super().describe(), "hidden_size": self.hidden_size, "adapter": self.side.config.to_dict()}
