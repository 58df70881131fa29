"""A folder with one YAML file per stage, read as a chain: every stage begins where an earlier one ended."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlgen.errors import ConfigError
from rlgen.parser import SHIPPED_CONFIGS, spelled_settings
from rlgen.strategies import check_tuning

STAGES = ("pretrain", "sft", "reward", "ppo", "dpo", "compare")


def find_chain(name: str) -> Path:
    """A folder of stages by its path, or by its name among the shipped ones ("reasoning").

    Raises:
        ConfigError: there is no such folder.
    """
    path = Path(name)
    for folder in (path, SHIPPED_CONFIGS / name.removeprefix("recipes/configs/")):
        if folder.is_dir():
            return folder
    known = sorted(f.name for f in SHIPPED_CONFIGS.iterdir() if len(_files(f)) > 1)
    raise ConfigError(f"there is no chain {name}: give a folder with one YAML per stage, or one of {', '.join(known)}")


def read_chain(
    folder: Path, output_dir: str, *, model: str | None = None, seed: int | None = None
) -> dict[str, dict[str, Any]]:
    """The flags of every stage of a chain, in order, moved to another folder, model or seed.

    Args:
        folder: has `STAGE.yaml` for at least one of `STAGES`. The stages write to `ROOT/STAGE` of one root.
        output_dir: takes the place of that root, wherever a value is a path below it, also after `name=`.
        model: takes the place of the model that the first stage starts from, there and wherever else it is named.
        seed: takes the place of every stage's seed.

    Returns:
        Per stage its flags without dashes.

    Raises:
        ConfigError: no stage, a file that cannot be read, no `output_dir`, or stages that share no root.
    """
    stages = {name: spelled_settings(file) for name, file in _files(folder).items()}
    if not stages:
        raise ConfigError(f"{folder} has none of {', '.join(f'{name}.yaml' for name in STAGES)}")
    roots = {_root(folder, name, options) for name, options in stages.items()}
    if len(roots) > 1:
        raise ConfigError(
            f"the stages of {folder} write to {' and '.join(sorted(map(str, roots)))}: set every output_dir to "
            "one folder and the stage's name below it"
        )
    places = {str(roots.pop()): output_dir}
    if model is not None:
        start = next(iter(stages.values())).get("model_name_or_path")
        if start is None:
            raise ConfigError(f"the first stage of {folder} names no model_name_or_path that another could replace")
        places[os.path.normpath(start)] = model
    moved = {name: {key: _moved(value, places) for key, value in stage.items()} for name, stage in stages.items()}
    if seed is not None:
        moved = {name: {**stage, "seed": seed} for name, stage in moved.items()}
    return moved


def check_stage(name: str, settings: Sequence[Any]) -> None:
    """Refuse what a stage would refuse only once its turn comes: its way of tuning, and its task.

    Args:
        name: of the stage.
        settings: what its recipe reads, see `rlgen.config.read_settings`.

    Raises:
        ConfigError: the stage cannot have that way of tuning, or there is no such task.
        DataError: the task cannot be built.
    """
    from rlgen.tasks import get_task  # only now: a chain that is misspelt is refused without these libraries

    values = {key: value for each in settings for key, value in vars(each).items()}
    for model_args in (each for each in settings if hasattr(each, "tuning")):
        known = ("packing", "gradient_checkpointing", "disable_dropout", "critic")
        others = {key: values[key] for key in known if key in values}
        check_tuning(model_args, name, merge=values.get("merge_adapter", True), **others)
    if values.get("task"):
        get_task(values["task"], values.get("task_source"))


def _files(folder: Path) -> dict[str, Path]:
    files = {name: folder / f"{name}.yaml" for name in STAGES}
    return {name: file for name, file in files.items() if file.is_file()}


def _root(folder: Path, name: str, options: Mapping[str, Any]) -> Path:
    output = options.get("output_dir")
    if not isinstance(output, str) or Path(output).name != name:
        raise ConfigError(f"{folder / name}.yaml must set output_dir to a folder called {name}, not {output!r}")
    root = Path(os.path.normpath(output)).parent
    if root == Path():
        raise ConfigError(f"{folder / name}.yaml must set output_dir to a folder of the run and {name} below it")
    return root


def _moved(value: Any, places: Mapping[str, str]) -> Any:
    """A value with the folders and models in it exchanged; `sft=runs/a/sft@4shot` names one after the equals sign."""
    if isinstance(value, list):
        return [_moved(item, places) for item in value]
    if not isinstance(value, str):
        return value
    name, equals, place = value.rpartition("=")
    path, at, examples = place.partition("@")
    for old, new in places.items():
        normal = os.path.normpath(path)
        if normal == old or normal.startswith(old + os.sep):
            return name + equals + new + normal.removeprefix(old) + at + examples
    return value
