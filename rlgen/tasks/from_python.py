"""A task from one Python file of the user's; what goes wrong in it is told in one line that names the file."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from datasets import Dataset

from rlgen.errors import ConfigError, DataError, RlgenError
from rlgen.importing import import_file
from rlgen.parser import find_shipped
from rlgen.tasks import Task, build_task


def build_from_file(path: Path, source: str | None = None) -> Task:
    """Make the task of a Python file with `build(source) -> Task`.

    Args:
        path: The file, or its place among the shipped configurations.
        source: Passed on to `build`.

    Returns:
        The task. Its `split` raises DataError where the file's own fails or gives no rows with prompts.

    Raises:
        ConfigError: The file is missing, cannot be imported, or its `build` fails or is none.
    """
    where = f"task file {path}"
    file = find_shipped(path.as_posix())
    if file is None:
        raise ConfigError(f"{where}: no such file")
    module = _tried(lambda: import_file(file, "task"), where, ConfigError)
    task = _tried(lambda: build_task(module, str(path), source), f"{where}: build(source)", ConfigError)
    return dataclasses.replace(task, split=_checked_split(task.split, where))


def _checked_split(split: Callable[..., Dataset], where: str) -> Callable[..., Dataset]:
    @functools.wraps(split)
    def checked(name: str, max_rows: int | None = None) -> Dataset:
        called = f"{where}: split({name!r}, {max_rows})"
        rows = _tried(lambda: split(name, max_rows), called, DataError)
        if not isinstance(rows, Dataset):
            raise DataError(f"{called} gave {type(rows).__name__}, not datasets.Dataset: take Dataset.from_list(rows)")
        if not len(rows):
            raise DataError(f"{called} gave no rows")
        if "prompt" not in rows.column_names:
            raise DataError(f"{called} gave rows without a column prompt; found: {', '.join(rows.column_names)}")
        return rows

    return checked


def _tried(call: Callable[[], Any], what: str, kind: type[RlgenError]) -> Any:
    try:
        return call()
    except RlgenError:
        raise
    except Exception as error:
        raise kind(f"{what} raised {type(error).__name__}: {' '.join(str(error).split())}") from error
