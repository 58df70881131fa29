"""Tasks: where the rows come from, how they are split, and which rewards and metrics judge them.

A task is one module with `build(source: str | None) -> Task`. Shipped tasks are found by name; a task of your own is
a file and needs no registration: Python (`my_task.py`, see `rlgen.tasks.from_python`), or YAML that names a data set
(`my_task.yaml`, see `rlgen.tasks.from_yaml`).
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from datasets import Dataset

from rlgen.errors import ConfigError

SPLITS = ("sft", "preference", "rl", "validation", "heldout")

_SHIPPED = (
    "augmentation",
    "code_generation",
    "controlled",
    "dialogue",
    "docstring",
    "instructions",
    "reasoning",
    "summarization",
    "translation",
)
_REGISTRY: dict[str, str] = {name: f"rlgen.tasks.{name}" for name in _SHIPPED}


@dataclass(frozen=True)
class Task:
    """One job for a language model: its rows, its rewards and its measures.

    Args:
        name: The name users type.
        description: One sentence for listings and reports.
        split: `split(name, max_rows=None)` gives the rows of one of `SPLITS`, with the columns `prompt`, `completion`
            and whatever the rewards read. It is deterministic, and no two splits share a row.
        rewards: The default composite: short name or reference of a reward to its weight.
        reward_functions: Short names of this task's own reward functions.
        metrics: Measures for evaluation only, with the signature of a reward.
        max_prompt_tokens: Longest prompt in tokens that training keeps.
        max_completion_tokens: Longest completion in tokens.
        public_data: A public data set for a full-size run: hub id, and what it needs to become rows of this task.
    """

    name: str
    description: str
    split: Callable[..., Dataset]
    rewards: Mapping[str, float]
    reward_functions: Mapping[str, Callable[..., list[float | None]]]
    metrics: Mapping[str, Callable[..., list[float | None]]]
    max_prompt_tokens: int
    max_completion_tokens: int
    public_data: str = ""


def task_names() -> list[str]:
    """List the names of the registered tasks."""
    return sorted(_REGISTRY)


def register_task(name: str, module: str) -> None:
    """Make a task known by a short name.

    Args:
        name: The name users will type.
        module: Importable module with `build(source) -> Task`; it is imported only when the task is asked for.

    Raises:
        ConfigError: The name belongs to another module already.
    """
    if _REGISTRY.get(name, module) != module:
        raise ConfigError(f"task '{name}' is already registered by {_REGISTRY[name]}; choose another name")
    _REGISTRY[name] = module


def get_task(name: str, source: str | None = None) -> Task:
    """Build a task.

    Args:
        name: A registered name, the path of a Python file with `build(source) -> Task`, or of a YAML file.
        source: Where the task shall take its raw material from, in the task's own terms; None for its default.

    Returns:
        The task. Its rows are made when a split is asked for.

    Raises:
        ConfigError: There is no such task, its module has no `build` or one that fails, or its YAML is wrong.
        DataError: The source cannot be used.
    """
    if name.endswith((".yaml", ".yml")):
        from rlgen.tasks.from_yaml import build_from  # only now: it imports this module

        return build_from(Path(name), source)
    if name.endswith(".py"):
        from rlgen.tasks.from_python import build_from_file  # likewise

        return build_from_file(Path(name), source)
    return build_task(_load_registered(name), name, source)


def build_task(module: ModuleType, name: str, source: str | None) -> Task:
    """Call `build` of a task's module.

    Args:
        module: The imported module.
        name: What the user called the task, for messages.
        source: See `get_task`.

    Raises:
        ConfigError: It has no `build`, or that gives something else than a task.
    """
    build = getattr(module, "build", None)
    if not callable(build):
        raise ConfigError(f"task '{name}' has no function build(source); add one")
    task = build(source)
    if not isinstance(task, Task):
        raise ConfigError(f"task '{name}': build(source) returned {type(task).__name__}, not rlgen.tasks.Task")
    return task


def _load_registered(name: str) -> ModuleType:
    if name not in _REGISTRY:
        near = difflib.get_close_matches(name, _REGISTRY, n=1)
        hint = f"did you mean '{near[0]}'?" if near else "or give the path of a .py or .yaml file"
        raise ConfigError(f"unknown task '{name}' (known: {', '.join(task_names())}); {hint}")
    return importlib.import_module(_REGISTRY[name])
