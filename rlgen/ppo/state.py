"""Going on from a checkpoint: the KL weight, the moments of the scores, and the order of the prompts."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch

from rlgen.errors import TrainingError
from rlgen.ppo.kl_control import KLControl
from rlgen.ppo.scores import ScoreShaping
from rlgen.rewards.moments import RunningMoments
from rlgen.rewards.state import load_reward_state
from rlgen.runs import write_atomic

STATE_FILE = "ppo_state.json"


def save_state(folder: str | Path, control: KLControl, shaping: ScoreShaping) -> None:
    """Write the weight and the moments into `folder`; JSON keeps a float exactly."""
    state = {"kl_coef": control.kl_coef, "scores": dataclasses.asdict(shaping.moments)}
    write_atomic(Path(folder) / STATE_FILE, json.dumps(state) + "\n")


def load_state(folder: str | Path, control: KLControl, shaping: ScoreShaping) -> None:
    """Read back what the settings use.

    Raises:
        TrainingError: they use a state that the checkpoint does not have.
    """
    if control.target is None and not shaping.args.normalize_rewards:
        return
    file = Path(folder) / STATE_FILE
    if not file.is_file():
        raise TrainingError(f"{folder} holds no {STATE_FILE}, which kl_target and normalize_rewards go on from")
    state = json.loads(file.read_text(encoding="utf-8"))
    if control.target is not None:
        control.kl_coef = state["kl_coef"]
    if shaping.args.normalize_rewards:
        shaping.moments = RunningMoments(**state["scores"])


def restore_best(trainer: Any) -> None:
    """Give a trained PPOTrainer the critic and the rewards' state of the checkpoint whose policy it has loaded.

    Args:
        trainer: after `train`; nothing happens unless it chose a best checkpoint.
    """
    best = trainer.state.best_model_checkpoint
    if trainer.args.load_best_model_at_end and best is not None:
        trainer.critic.load(Path(best) / "critic", with_replay=False)
        load_reward_state(best, trainer.reward_funcs)


def skip_past_epochs(sampler: Any, epochs: int) -> None:
    """Move a sampler's generator to the epoch that a checkpoint is in; transformers starts it at the first.

    Args:
        sampler: TRL's `RepeatSampler`.
        epochs: whole passes over the prompts that the checkpoint has behind it.
    """
    if sampler.shuffle:
        for _ in range(epochs):
            torch.randperm(sampler.num_samples, generator=sampler.generator)
