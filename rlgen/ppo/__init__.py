"""Proximal policy optimisation on TRL's current trainer machinery."""

from rlgen.ppo.config import PPOConfig
from rlgen.ppo.trainer import PPOTrainer

__all__ = ["PPOConfig", "PPOTrainer"]
