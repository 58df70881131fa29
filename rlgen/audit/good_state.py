"""The last state that passed an audit: kept on disk as a checkpoint, and taken back into a trainer that is running."""

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import TrainerState

from rlgen.errors import TrainingError
from rlgen.runs import checkpoint_problem
from rlgen.scoring import unwrapped

OPTIMIZER, SCHEDULER, STATE = "optimizer.pt", "scheduler.pt", "trainer_state.json"


def good_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint of a folder that holds nothing but these, None if there is none."""
    complete = [each for each in folder.glob("checkpoint-*") if checkpoint_problem(each) is None]
    return max(complete, key=lambda each: int(each.name.rpartition("-")[2]), default=None)


def save_good(trainer: Any, folder: Path, state: TrainerState) -> Path:
    """Write a checkpoint beside the one that is there, then remove that: at any time one of them is whole.

    It holds what the trainer itself saves (the policy; PPO's critic and KL weight), the optimizer, the schedule and
    the trainer's state. Only its random state is left out, so that a run can go on from it, but not to the bit.

    Args:
        trainer: a transformers trainer.
        folder: where these checkpoints lie, and nothing else.
        state: the trainer's state.
    """
    target = folder / f"checkpoint-{state.global_step}"
    aside = folder / f".{target.name}.{os.getpid()}.tmp"
    shutil.rmtree(aside, ignore_errors=True)
    trainer.save_model(str(aside))
    torch.save(trainer.optimizer.state_dict(), aside / OPTIMIZER)
    torch.save(trainer.lr_scheduler.state_dict(), aside / SCHEDULER)
    state.save_to_json(str(aside / STATE))
    shutil.rmtree(target, ignore_errors=True)
    os.replace(aside, target)
    for other in folder.glob("checkpoint-*"):
        if other != target:
            shutil.rmtree(other)
    return target


def restore_good(trainer: Any, checkpoint: Path) -> None:
    """Put the weights of a checkpoint back in place: the policy's, its optimizer's moments, and PPO's critic.

    The step count, the schedule of the learning rate, the order of the prompts, the random state and the moments of
    the scores go on from where they are.

    Raises:
        TrainingError: the checkpoint does not hold the weights that are being trained.
    """
    model = unwrapped(trainer.model)
    files = sorted(checkpoint.glob("*.safetensors"))
    weights = {name: tensor for file in files for name, tensor in load_file(file).items()}
    if isinstance(model, PeftModel):
        result = set_peft_model_state_dict(model, weights, adapter_name=model.active_adapters[0])
    else:
        result = model.load_state_dict(weights, strict=False)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    missing = sorted(trained & set(result.missing_keys))
    if missing or result.unexpected_keys:
        raise TrainingError(f"{checkpoint} does not fit the policy (e.g. {[*missing, *result.unexpected_keys][0]})")
    trainer.optimizer.load_state_dict(torch.load(checkpoint / OPTIMIZER, map_location="cpu", weights_only=True))
    critic = getattr(trainer, "critic", None)
    if critic is not None:
        # Remembered rollouts are those of the process that saved.
        critic.load(checkpoint / "critic", with_replay=trainer.accelerator.num_processes == 1)


def can_raise_kl(trainer: Any) -> bool:
    """Whether the trainer has a KL penalty with a weight above 0 (PPO's `kl_control`, or TRL's `beta`)."""
    control = getattr(trainer, "kl_control", None)
    return bool(control.kl_coef if control is not None else getattr(trainer, "beta", 0.0))


def raise_kl(trainer: Any, factor: float, *, resumed: bool = False) -> float:
    """Raise the weight of the KL penalty.

    Args:
        trainer: see `can_raise_kl`.
        factor: above 1.
        resumed: whether this repeats, in a resumed run, what was done before its checkpoint was written.

    Returns:
        The weight from now on.
    """
    control = getattr(trainer, "kl_control", None)
    if control is not None:
        control.tighten(factor, resumed=resumed)
        return float(control.kl_coef)
    trainer.beta *= factor
    return float(trainer.beta)
