"""Folders that `evaluate.load` takes, one per metric of `rlgen.evaluation.references`; nothing is downloaded."""

from __future__ import annotations

import difflib
from pathlib import Path

from rlgen.errors import ConfigError

_HERE = Path(__file__).parent


def module_names() -> list[str]:
    """What `module_path` knows."""
    return sorted(folder.name.removeprefix("rlgen_") for folder in _HERE.glob("rlgen_*") if folder.is_dir())


def module_path(name: str) -> str:
    """Folder of a metric, for `evaluate.load(module_path("rouge"))`.

    Raises:
        ConfigError: There is no metric of that name.
    """
    if name not in module_names():
        near = difflib.get_close_matches(name, module_names(), n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(module_names())}"
        raise ConfigError(f"unknown evaluate module {name}: {hint}")
    return str(_HERE / f"rlgen_{name}")
