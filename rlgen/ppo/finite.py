"""Numbers that are none stop training before any weight learns from them."""

from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from rlgen.errors import TrainingError
from rlgen.runs import checkpoint_problem

CHANGE = {
    "rewards": "look at what the reward functions and reward_weights multiply to",
    "gradient norm": "lower learning_rate, or train in bf16 or float32 if the base model's weights are float16",
}
DIVERGED = "the policy or its critic has diverged: lower learning_rate, critic_learning_rate or max_grad_norm"


def require_finite(name: str, values: Tensor, *, step: int, output_dir: str | Path) -> None:
    """Stop if a tensor holds NaN or an infinity.

    Args:
        name: what the tensor holds, for the message.
        values: of any shape; an empty one passes.
        step: updates done so far.
        output_dir: folder of the run, where its checkpoints lie.

    Raises:
        TrainingError: one line with the step, the tensor, what to change and the last good checkpoint.
    """
    wrong = int((~values.isfinite()).sum())
    if not wrong:
        return
    checkpoint = last_good_checkpoint(output_dir, step)
    go_on = f"the last good checkpoint is {checkpoint}" if checkpoint else "there is no good checkpoint to go back to"
    raise TrainingError(
        f"{name} at step {step}: {wrong} of {values.numel()} numbers are NaN or infinite; "
        f"{CHANGE.get(name, DIVERGED)}; {go_on}"
    )


def last_good_checkpoint(output_dir: str | Path, step: int) -> Path | None:
    """The newest complete `checkpoint-N` whose weights are all finite; a later one is of another, longer run.

    Args:
        output_dir: folder of the run.
        step: updates done so far; N is at most this.
    """
    numbered = {folder.name.removeprefix("checkpoint-"): folder for folder in Path(output_dir).glob("checkpoint-*")}
    steps = sorted((int(number) for number in numbered if number.isdigit() and int(number) <= step), reverse=True)
    return next((numbered[str(n)] for n in steps if _is_good(numbered[str(n)])), None)


def _is_good(folder: Path) -> bool:
    return checkpoint_problem(folder) is None and all(
        _weights_are_finite(file) for file in folder.rglob("*.safetensors")
    )


def _weights_are_finite(file: Path) -> bool:
    """Read tensor by tensor, so that a large model needs no memory of its own."""
    with safe_open(file, framework="pt") as weights:
        return all(bool(torch.isfinite(weights.get_tensor(name)).all()) for name in weights.keys())  # noqa: SIM118
