"""A task from one YAML file: a data set, how its columns become prompts and answers, and what judges the answers.

    name: trivia
    data: trivia.jsonl                  # beside the YAML, or a hub id such as openai/gsm8k:main
    columns: {answer: short_answer}     # what the rewards read: the data's column short_answer as `answer`
    prompt: "Answer in one line: {question}"
    completion: "{explanation} The answer is {short_answer}."
    rewards: {reasoning_correct: 0.9, my_rewards.py:brief: 0.1}

Every row keeps the data's columns. The rows are dealt out to the splits by the hash of their prompts; with `heldout`
the held-out rows come from there, and none of them is in another split.
"""

from __future__ import annotations

import difflib
import functools
import string
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from reward_models._text import completion_text
from rlgen.data import DATA_SUFFIXES, load_rows, row_hash
from rlgen.errors import ConfigError, DataError
from rlgen.rewards.load import load_reward
from rlgen.tasks import Task
from rlgen.tasks.rows import SHARES, Row, deal, make_row, splitter

_WITHOUT_HELDOUT = {name: min(1.0, end / SHARES["validation"]) for name, end in SHARES.items() if name != "heldout"}


@dataclass(frozen=True)
class TaskFile:
    """What a task's YAML may say.

    Args:
        data: File or folder beside the YAML, or hub id, see `rlgen.data.load_rows`.
        name: What the task is called; default the file's name.
        description: One sentence.
        split: Split of the data to read.
        heldout: Data to take the held-out rows from.
        heldout_split: Split of it to read.
        columns: New names for columns, `new: old`; the old ones stay.
        prompt: Template with the columns in braces; default the column `prompt` as it is.
        completion: Template of the answer to learn from; default the column `completion`, if there is one.
        rewards: Rewards by name, or `file.py:function` beside the YAML, with their weights.
        metrics: Measures that nothing trains on, named in the same way.
        max_prompt_tokens: Longest prompt in tokens that training keeps.
        max_completion_tokens: Longest completion in tokens.
        max_rows: Read at most this many rows.
    """

    data: str
    rewards: dict[str, float]
    name: str = ""
    description: str = ""
    split: str = "train"
    heldout: str = ""
    heldout_split: str = "test"
    columns: dict[str, str] = field(default_factory=dict)
    prompt: str = "{prompt}"
    completion: str = "{completion}"
    metrics: list[str] = field(default_factory=list)
    max_prompt_tokens: int = 512
    max_completion_tokens: int = 128
    max_rows: int = 0


def build_from(path: Path, source: str | None = None) -> Task:
    """Make the task that a YAML file describes.

    Args:
        path: The YAML file, see `TaskFile`.
        source: Data to use in place of the file's; None for the file's.

    Raises:
        ConfigError: The file is missing or malformed, has an unknown key, or names a column that the data lacks.
        RewardError: A reward or metric cannot be loaded.
        DataError: The data cannot be loaded; only when a split is asked for.
    """
    settings = read_task_file(path)
    name = settings.name or path.stem
    folder = path.expanduser().resolve().parent
    rewards = {_beside(reward, folder): weight for reward, weight in settings.rewards.items()}
    functions: dict[str, Callable[..., list[float | None]]] = {reward: load_reward(reward) for reward in rewards}
    metrics = {metric.rpartition(":")[2]: load_reward(_beside(metric, folder)) for metric in settings.metrics}
    rows_of = functools.cache(lambda: _splits(settings, path, folder, source))
    return Task(
        name=name,
        description=settings.description or f"The task of {path}.",
        split=splitter(name, lambda split: rows_of()[split]),
        rewards=rewards,
        reward_functions=functions,
        metrics=dict(metrics),
        max_prompt_tokens=settings.max_prompt_tokens,
        max_completion_tokens=settings.max_completion_tokens,
        public_data="" if settings.data.endswith(DATA_SUFFIXES) else settings.data,
    )


def read_task_file(path: Path) -> TaskFile:
    """Read and check a task's YAML.

    Raises:
        ConfigError: It is missing or malformed, lacks a key, or has one that is unknown or of the wrong type.
    """
    where = f"task file {path}"
    try:
        content = yaml.safe_load(path.expanduser().read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{where}: no such file") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{where}: cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{where}: must hold keys and values, starting with data and rewards")
    known = {item.name: item for item in fields(TaskFile)}
    for key, value in content.items():
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
            raise ConfigError(f"{where}: unknown key {key}; {hint}")
        wanted = str(known[key].type).partition("[")[0]
        if type(value).__name__ != wanted:
            raise ConfigError(f"{where}: {key} must be of type {wanted}, not {type(value).__name__}")
    missing = [item.name for item in known.values() if item.default is MISSING and item.default_factory is MISSING]
    missing = [name for name in missing if not content.get(name)]
    if missing:
        raise ConfigError(f"{where}: {' and '.join(missing)} must be given")
    weights = content["rewards"]
    for reward, weight in weights.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float):
            raise ConfigError(f"{where}: the weight of reward {reward} must be a number, not {weight!r}")
    for key in ("max_prompt_tokens", "max_completion_tokens", "max_rows"):
        if content.get(key, 1) < 1:
            raise ConfigError(f"{where}: {key} must be at least 1, not {content[key]}")
    return TaskFile(**{**content, "rewards": {str(name): float(weight) for name, weight in weights.items()}})


def _splits(settings: TaskFile, path: Path, folder: Path, source: str | None) -> Mapping[str, list[Row]]:
    data = source or _beside(settings.data, folder)
    rows = _rows(settings, path, data, settings.split)
    if not settings.heldout:
        return deal(rows, settings.name or path.stem)
    held_out = _rows(settings, path, _beside(settings.heldout, folder), settings.heldout_split)
    theirs = {row_hash(row) for row in held_out}
    left = (row for row in rows if row_hash(row) not in theirs)
    splits = deal(left, settings.name or path.stem, shares=_WITHOUT_HELDOUT)
    return {**splits, "heldout": deal(held_out, path.stem, shares={"heldout": 1.0})["heldout"]}


def _rows(settings: TaskFile, path: Path, data: str, split: str) -> list[Row]:
    table = load_rows(data, columns=[], split=split, max_rows=settings.max_rows or None)
    found = table.column_names
    for new, old in settings.columns.items():
        _known_column(old, found, f"task file {path}: columns: {new}")
    fields_of = {key: _fields(getattr(settings, key), f"task file {path}: {key}") for key in ("prompt", "completion")}
    answered = settings.completion != TaskFile.completion or "completion" in (*found, *settings.columns)
    for key in ("prompt", "completion") if answered else ("prompt",):
        for name in fields_of[key]:
            _known_column(name, [*found, *settings.columns], f"task file {path}: {key}")
    rows = []
    for index, record in enumerate(table):
        values = {**record, **{new: record[old] for new, old in settings.columns.items()}}
        empty = [name for key in ("prompt", *(("completion",) if answered else ())) for name in fields_of[key]]
        empty = [name for name in empty if values[name] is None]
        if empty:
            raise DataError(f"{data}: row {index} has no {empty[0]}; fill it in or remove the row")
        others = {name: value for name, value in values.items() if name not in ("prompt", "completion", "reference")}
        prompt = _filled(settings.prompt, "{prompt}", "prompt", values)
        if not prompt:
            raise DataError(f"{data}: row {index} has an empty prompt; fill it in or remove the row")
        answer = (
            completion_text(_filled(settings.completion, "{completion}", "completion", values)) if answered else ""
        )
        row = make_row(prompt, answer, **others)
        if not answered:
            row = {name: value for name, value in row.items() if name not in ("completion", "reference")}
        rows.append(row | ({"reference": values["reference"]} if "reference" in values else {}))
    return rows


def _fields(template: str, where: str) -> list[str]:
    try:
        return [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise ConfigError(f"{where}: {error}; write a brace that is meant twice, {{{{ or }}}}") from error


def _filled(template: str, whole: str, column: str, values: Mapping[str, Any]) -> Any:
    """Fill a template; one that is a column and nothing else gives that column as it is, messages too."""
    return values[column] if template == whole else template.format_map(values)


def _known_column(name: str, found: list[str], where: str) -> None:
    if name not in found:
        near = difflib.get_close_matches(name, found, n=1)
        hint = f"did you mean {near[0]}?" if near else f"found: {', '.join(found)}"
        raise ConfigError(f"{where}: the data has no column '{name}'; {hint}")


def _beside(name: str, folder: Path) -> str:
    """A file that lies beside the YAML by its full path; anything else as it is."""
    file, colon, function = name.partition(":") if ".py:" in name else (name, "", "")
    return f"{folder / file}{colon}{function}" if (folder / file).exists() and file else name
