"""What the tasks share: rows dealt out to splits by content."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from datasets import Dataset

from rlgen.data import conversational, row_hash
from rlgen.errors import ConfigError, DataError
from rlgen.tasks import SPLITS

Row = dict[str, Any]

# Shares of the rows (or of what rows are grouped by), as upper ends of hash ranges.
SHARES = {"sft": 0.35, "preference": 0.5, "rl": 0.78, "validation": 0.83, "heldout": 1.0}


def refuse_source(task: str, source: str | None) -> None:
    """Say that a task has one source only.

    Raises:
        ConfigError: Another is given.
    """
    if source is not None:
        raise ConfigError(f"task {task} takes no source, but '{source}' is given; leave it out")


def make_row(prompt: str | list[dict[str, str]], completion: str, **columns: Any) -> Row:
    """Put one example into the columns that every task has: `prompt`, `completion` and `reference`, then its own."""
    return {
        "prompt": conversational(prompt) if isinstance(prompt, str) else prompt,
        "completion": [{"role": "assistant", "content": completion}],
        "reference": completion,
        **columns,
    }


def split_of(unit: str, salt: str, shares: Mapping[str, float] = SHARES) -> str:
    """Find the split that a text belongs to, whatever other texts there are.

    Args:
        unit: What must stay together: a prompt, a document, a module.
        salt: Another salt gives another partition.
        shares: Upper end of the share of each split, the last 1.
    """
    position = int(digest(salt, unit)[:8], 16) / 0x1_0000_0000
    return next(name for name, end in shares.items() if position < end)


def deal(
    rows: Iterable[Row],
    salt: str,
    unit: Callable[[Row], str] = row_hash,
    shares: Mapping[str, float] = SHARES,
) -> dict[str, list[Row]]:
    """Deal rows out to the splits, each prompt once, in the order of their hashes so that any beginning is a sample.

    Args:
        rows: Rows with `prompt`.
        salt: See `split_of`.
        unit: Names what must stay in one split; the prompt by default.
        shares: See `split_of`.
    """
    dealt: dict[str, dict[str, Row]] = {name: {} for name in SPLITS}
    seen: set[str] = set()
    for row in rows:
        key = row_hash(row)
        if key not in seen:
            seen.add(key)
            dealt[split_of(unit(row), salt, shares)][key] = row
    return {name: [part[key] for key in sorted(part)] for name, part in dealt.items()}


def splitter(task: str, rows_of: Callable[[str], Sequence[Row]]) -> Callable[..., Dataset]:
    """Make the `split` of a task.

    Args:
        task: The task's name, for messages.
        rows_of: Gives the rows of a split; called whenever one is asked for, so it should remember them.

    Returns:
        `split(name, max_rows=None)`, which raises ConfigError for an unknown split and DataError for an empty one.
    """

    def split(name: str, max_rows: int | None = None) -> Dataset:
        if name not in SPLITS:
            raise ConfigError(f"unknown split '{name}' of task {task}; use one of {', '.join(SPLITS)}")
        rows = list(rows_of(name))
        if not rows:
            raise DataError(f"task {task} has no rows for split '{name}'; give a larger source")
        return Dataset.from_list(rows if max_rows is None else rows[:max_rows])

    return split


def unknown_source(task: str, source: str, known: Sequence[str]) -> ConfigError:
    """Make the error for a source that a task does not have."""
    return ConfigError(f"task {task} has no source '{source}'; there are {', '.join(known)}, or leave it out")


def optional(module: str, task: str, package: str) -> Any:
    """Import a module of an optional package.

    Raises:
        DataError: It is not installed; the message names the command.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DataError(
            f"task {task} needs the package {package}, which is missing; install it with: pip install 'rlgen[tasks]'"
        ) from error


def digest(*parts: str) -> str:
    """Hash some texts: 64 hexadecimal digits."""
    return hashlib.sha256("\0".join(parts).encode(errors="surrogatepass")).hexdigest()
