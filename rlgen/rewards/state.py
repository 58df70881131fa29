"""What rewards have learned, kept with a checkpoint: running statistics, budgets, whatever has a `state_dict`."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rlgen.errors import RewardError
from rlgen.runs import write_atomic

STATE_FILE = "reward_state.json"


def state_of(function: Any) -> Any:
    """The object that has a reward's state (`state_dict` and `load_state_dict`), or None."""
    for owner in (function, getattr(function, "function", None)):
        if hasattr(owner, "state_dict") and hasattr(owner, "load_state_dict"):
            return owner
    return None


def save_reward_state(folder: str | Path, functions: Iterable[Any]) -> None:
    """Write the states of those rewards that have one into `folder`; nothing if none has."""
    states = {
        function.__name__: owner.state_dict() for function in functions if (owner := state_of(function)) is not None
    }
    if states:
        write_atomic(Path(folder) / STATE_FILE, json.dumps(states) + "\n")


def load_reward_state(folder: str | Path, functions: Iterable[Any]) -> None:
    """Give the rewards back what `save_reward_state` wrote.

    Raises:
        RewardError: the folder has no state, or that of other rewards.
    """
    owners = {function.__name__: owner for function in functions if (owner := state_of(function)) is not None}
    if not owners:
        return
    file = Path(folder) / STATE_FILE
    try:
        states = json.loads(file.read_text(encoding="utf-8"))
        missing = [name for name in owners if name not in states]
        if missing:
            raise RewardError(f"{file} has no state of reward '{missing[0]}'; it was saved with other rewards")
        for name, owner in owners.items():
            owner.load_state_dict(states[name])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RewardError(f"the rewards cannot go on from {file}: {type(error).__name__}: {error}") from error


def newest_state(run: str | Path) -> Path | None:
    """The folder of a run that has the latest state: the finished run itself, or its last checkpoint."""
    folder = Path(run).expanduser()
    checkpoints = [file.parent for file in folder.glob(f"checkpoint-*/{STATE_FILE}")]
    checkpoints.sort(key=lambda each: int(each.name.rpartition("-")[2]))
    if (folder / STATE_FILE).is_file():
        return folder
    return checkpoints[-1] if checkpoints else None
