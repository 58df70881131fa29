"""Keeping rewards' states in the checkpoints of a trainer that knows nothing of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from rlgen.rewards.state import load_reward_state, save_reward_state


class RewardStateCallback(TrainerCallback):
    """Saves and restores the states of rewards with every checkpoint; rlgen's PPO does so without it.

    Args:
        functions: the rewards as the trainer has them.
    """

    def __init__(self, functions: Sequence[Any]) -> None:
        self.functions = list(functions)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write beside the checkpoint's weights."""
        if state.is_world_process_zero:
            save_reward_state(_checkpoint(args, state), self.functions)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Go on from the checkpoint in the run's folder that training goes on from."""
        if state.global_step > 0:
            load_reward_state(_checkpoint(args, state), self.functions)


def _checkpoint(args: Any, state: Any) -> Path:
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"
