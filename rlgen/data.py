"""Rows in: load a dataset from a file, a folder or the hub, check it, fingerprint it, and prove splits disjoint.

Rows follow TRL's conventions: `prompt`, `completion`, `chosen` and `rejected` are plain strings or lists of
`{"role": ..., "content": ...}` messages, and any other column travels on to the reward functions.
"""

from __future__ import annotations

import difflib
import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from datasets import Dataset
from pyarrow import csv as pa_csv

from rlgen.errors import DataError

DATA_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
TEXT_COLUMNS = ("prompt", "completion", "chosen", "rejected")


def load_rows(source: str, *, columns: Sequence[str], split: str = "train", max_rows: int | None = None) -> Dataset:
    """Load the rows of a file, a folder or a hub dataset, and check them.

    Args:
        source: A .jsonl, .json, .csv or .parquet file; a folder written by `save_to_disk` or holding such files
            (`<split>.jsonl`, ...); or a hub id, with a configuration after a colon where it needs one
            (`openai/gsm8k:main`).
        columns: Columns that every row must have. Other columns are kept.
        split: Which split of a folder or hub dataset; a single file has none.
        max_rows: Keep at most this many rows, evenly spaced over the whole (None keeps all).

    Returns:
        The rows, in their order in the source.

    Raises:
        DataError: The source is missing, empty or malformed, or lacks a column.
    """
    path = Path(source).expanduser()
    if path.is_file():
        rows = _load_file(path)
    elif path.is_dir():
        rows = _load_folder(path, split)
    elif _looks_like_path(source):
        raise DataError(f"{source}: no such file or folder{_near_files(path)}")
    else:
        rows = _load_hub(source, split)
    _check_rows(rows, columns, source)
    if max_rows is not None and max_rows < len(rows):
        rows = rows.select([index * len(rows) // max_rows for index in range(max_rows)])
    return rows


def conversational(prompt: str) -> list[dict[str, str]]:
    """Wrap a plain prompt as one user message."""
    return [{"role": "user", "content": prompt}]


def prompt_text(prompt: Any) -> str:
    """Flatten a plain or conversational prompt into one string.

    Args:
        prompt: A string, or a list of messages with `role` and `content`.

    Returns:
        The string itself, or one `role: content` line per message.
    """
    if isinstance(prompt, str):
        return prompt
    return "\n".join(f"{message['role']}: {message['content']}" for message in prompt)


def row_hash(row: Mapping[str, Any]) -> str:
    """Hash what a row asks: its prompt text with runs of whitespace collapsed.

    A single user message hashes like the same plain string, so that the two spellings of one row are seen as one.

    Args:
        row: A row with `prompt`; one without (implicit-prompt preference or text rows) is hashed by all its columns.

    Returns:
        The first 16 hexadecimal digits of a sha256.
    """
    prompt = row.get("prompt")
    if prompt is None:
        text = json.dumps(dict(row), sort_keys=True, default=str)
    elif isinstance(prompt, str) or len(prompt) != 1 or prompt[0]["role"] != "user":
        text = prompt_text(prompt)
    else:
        text = str(prompt[0]["content"])
    return hashlib.sha256(" ".join(text.split()).encode()).hexdigest()[:16]


def row_hashes(dataset: Dataset) -> list[str]:
    """Hash every row of a dataset, in order."""
    wanted = dataset.select_columns(["prompt"]) if "prompt" in dataset.column_names else dataset
    return [row_hash(row) for row in wanted]


def fingerprint(dataset: Dataset) -> str:
    """Hash a dataset's content, whatever the order of its rows.

    Returns:
        The first 16 hexadecimal digits of a sha256 over the sorted row hashes.
    """
    return hashlib.sha256("\n".join(sorted(row_hashes(dataset))).encode()).hexdigest()[:16]


def check_disjoint(named: Mapping[str, Dataset]) -> None:
    """Refuse datasets that share a row.

    Args:
        named: Datasets by the name to report them under.

    Raises:
        DataError: Two of them share a row; the message names both and the row.
    """
    hashes = {name: dict(zip(row_hashes(rows), range(len(rows)), strict=True)) for name, rows in named.items()}
    for (first, left), (second, right) in itertools.combinations(hashes.items(), 2):
        shared = left.keys() & right.keys()
        if shared:
            example = min(shared, key=lambda value: left[value])
            raise DataError(
                f"{first} and {second} share {len(shared)} rows, e.g. row {left[example]} of {first} is row "
                f"{right[example]} of {second} (hash {example}); remove them from one"
            )


def _looks_like_path(source: str) -> bool:
    return (
        source.endswith(DATA_SUFFIXES)
        or source.startswith((".", "/", "~", "\\"))
        or source.count("/") > 1
        or not source.strip()
    )


def _near_files(path: Path) -> str:
    siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, siblings, n=1)
    return f"; did you mean {path.parent / near[0]}?" if near else "; check the path"


def _load_file(path: Path) -> Dataset:
    readers = {".jsonl": _read_json, ".json": _read_json, ".csv": _read_csv, ".parquet": _read_parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path}: cannot read '{path.suffix}' files; use one of {', '.join(DATA_SUFFIXES)}")
    try:
        if path.stat().st_size == 0:
            raise DataError(f"{path}: the file is empty; add rows")
        return reader(path)
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot be read as {path.suffix[1:]}: {_one_line(error)}") from error


def _read_json(path: Path) -> Dataset:
    """Read JSON lines, or one JSON array; either may stand in a .json or .jsonl file."""
    text = path.read_text(encoding="utf-8-sig")
    if text.lstrip().startswith("["):
        try:
            rows = json.loads(text)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}:{error.lineno}: malformed JSON: {error.msg}") from error
        where = [f"{path}, item {index}" for index in range(len(rows))]
    else:
        rows, where = [], []
        for number, line in enumerate(text.split("\n"), start=1):
            if not line.strip():
                continue
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                hint = " (one object per line is wanted)" if line.strip() in ("{", "[") else ""
                raise DataError(f"{path}:{number}: malformed JSON: {error.msg}{hint}") from error
            where.append(f"{path}:{number}")
    for row, place in zip(rows, where, strict=True):
        if not isinstance(row, dict):
            raise DataError(f"{place}: a row must be a JSON object, not {type(row).__name__}")
    names = list(dict.fromkeys(name for row in rows for name in row))
    return Dataset(pa.table({name: pa.array([row.get(name) for row in rows]) for name in names}))


def _read_csv(path: Path) -> Dataset:
    # Typed as text: a prompt such as "12" or "true" must not become a number.
    types = {name: pa.string() for name in (*TEXT_COLUMNS, "reference")}
    table = pa_csv.read_csv(
        path,
        parse_options=pa_csv.ParseOptions(newlines_in_values=True),
        convert_options=pa_csv.ConvertOptions(column_types=types),
    )
    return Dataset(table)


def _read_parquet(path: Path) -> Dataset:
    from pyarrow import parquet

    return Dataset(parquet.read_table(path))


def _load_folder(path: Path, split: str) -> Dataset:
    if (path / "dataset_dict.json").is_file() or (path / "dataset_info.json").is_file():
        try:
            loaded = datasets.load_from_disk(str(path))
        except Exception as error:
            raise DataError(f"{path}: cannot be loaded as a saved dataset: {_one_line(error)}") from error
        return _pick_split(loaded, split, str(path))
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in DATA_SUFFIXES)
    files += sorted(file for file in path.glob("data/*") if file.suffix.lower() in DATA_SUFFIXES)
    if not files:
        raise DataError(f"{path}: the folder holds no saved dataset and no {', '.join(DATA_SUFFIXES)} file")
    chosen = [file for file in files if file.stem == split or file.name.startswith(f"{split}-")]
    if not chosen and len(files) == 1:
        chosen = files
    if not chosen:
        raise DataError(f"{path}: no file for split '{split}' (found: {', '.join(file.name for file in files)})")
    parts = [_load_file(file) for file in chosen]
    try:
        return datasets.concatenate_datasets(parts)
    except ValueError as error:
        raise DataError(f"{path}: the files of split '{split}' differ in columns: {_one_line(error)}") from error


def _load_hub(source: str, split: str) -> Dataset:
    name, _, config = source.partition(":")
    try:
        loaded = datasets.load_dataset(name, config or None, split=split)
    except Exception as error:
        # datasets and the hub client raise many unrelated types; all of them mean the same to the user.
        raise DataError(
            f"{source}: no such file or folder, and not obtainable from the hub as split '{split}': {_one_line(error)}"
        ) from error
    return _pick_split(loaded, split, source)


def _pick_split(loaded: Any, split: str, source: str) -> Dataset:
    if isinstance(loaded, Dataset):
        return loaded
    if split not in loaded:
        raise DataError(f"{source}: no split '{split}' (found: {', '.join(loaded)})")
    rows: Dataset = loaded[split]
    return rows


def _check_rows(rows: Dataset, columns: Sequence[str], source: str) -> None:
    found = rows.column_names
    missing = [name for name in columns if name not in found]
    if len(rows) == 0:
        raise DataError(f"{source}: the dataset is empty; add rows with the columns {', '.join(columns)}")
    if missing:
        near = {name: difflib.get_close_matches(name, found, n=1) for name in missing}
        renames = [f"rename '{match[0]}' to '{name}'" for name, match in near.items() if match]
        advice = ", ".join(renames) or "add or rename columns"
        raise DataError(f"{source}: no column {_quoted(missing)} (found: {_quoted(found)}); {advice}")
    for name in columns:
        column = rows.data.column(name)
        if column.null_count:
            index = next(index for index, value in enumerate(column) if not value.is_valid)
            raise DataError(f"{source}: row {index} has no '{name}'; fill it in or remove the row")
        if name in TEXT_COLUMNS:
            _check_text(column, f"{source}: column '{name}'")


def _check_text(column: pa.ChunkedArray, where: str) -> None:
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        item = column.type.value_type
        fields = [item.field(index).name for index in range(item.num_fields)] if pa.types.is_struct(item) else []
        if {"role", "content"} <= set(fields):
            return
    raise DataError(f"{where} must hold text or lists of role/content messages, not {_one_line(column.type)}")


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names) or "none"


def _one_line(error: object) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else text[:197] + "..."
