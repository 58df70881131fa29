"""Named checkpoints: parse them, fingerprint them, and check that a comparison of them is fair."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from datasets import Dataset
from huggingface_hub import snapshot_download

from rlgen.data import row_hash
from rlgen.errors import ConfigError, DataError, ModelError
from rlgen.evaluation.remote import is_remote, parse_remote
from rlgen.models import adapter_base, is_adapter, resolve_model
from rlgen.rewards.spec import parse_spec, read_spec
from rlgen.templates import Shots, split_shots

# What decides a model's output. Nothing else in a run folder (logs, optimizer, critic) does.
_MODEL_FILES = (
    "*.safetensors",
    "config.json",
    "generation_config.json",
    "adapter_config.json",
    "tokenizer*",
    "vocab.*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.*",
)
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")


@dataclass(frozen=True)
class Checkpoint:
    """A model to compare.

    Args:
        name: The name it is reported under.
        path: What the user gave: folder, adapter folder, hub id, "embedded", or an endpoint.
        fingerprint: Hash of its weights, configuration and tokenizer; of an endpoint's address and the model's name.
        runs: Run folders it came from: its own and, for an adapter, its base's.
        shots: Examples that it is given before each prompt; None for the prompt as it is.
    """

    name: str
    path: str
    fingerprint: str
    runs: tuple[str, ...] = ()
    shots: Shots | None = None


def parse_named(entries: Sequence[str], flag: str) -> dict[str, str]:
    """Read `NAME=PATH` entries, in order.

    Raises:
        ConfigError: An entry has no `=`, an unusable name or no path, or a name is given twice.
    """
    named: dict[str, str] = {}
    for entry in entries:
        name, equals, path = entry.partition("=")
        if not equals or not name or not path:
            raise ConfigError(f"{flag} {entry}: write it as NAME=PATH, e.g. sft=runs/sft")
        if not NAME.fullmatch(name):
            raise ConfigError(f"{flag} {entry}: the name '{name}' may hold letters, digits and . _ + - only")
        if name in named:
            raise ConfigError(f"{flag}: the name '{name}' is given twice ({named[name]} and {path}); rename one")
        named[name] = path
    return named


def open_checkpoints(named: Mapping[str, str]) -> list[Checkpoint]:
    """Find and fingerprint the models of a comparison without loading them.

    Args:
        named: Folder, adapter folder, hub id or "embedded" by name, with `@4shot` at the end for examples in the
            prompt, see `rlgen.templates`.

    Raises:
        ConfigError: What stands after `@` is malformed.
        ModelError: One of them does not exist or holds no model.
        ConfigError: An endpoint is not written as one.
    """
    checkpoints = []
    for name, given in named.items():
        if is_remote(given):  # its address may hold an @ too
            checkpoints.append(Checkpoint(name, given, parse_remote(given).fingerprint))
            continue
        path, shots = split_shots(given)
        try:
            folder = _local_folder(path)
            runs = tuple(run for run in _lineage(folder) if (Path(run) / "run.json").is_file())
            checkpoints.append(Checkpoint(name, path, _fingerprint(folder), runs, shots))
        except ModelError as error:
            raise ModelError(f"checkpoint {name}: {error}") from error
    return checkpoints


def check_same_models(checkpoints: Sequence[Checkpoint]) -> list[str]:
    """Warn about checkpoints that are one and the same model under two names.

    Returns:
        Warnings, one line each.
    """
    first: dict[tuple[str, str], str] = {}
    warnings = []
    for checkpoint in checkpoints:
        other = first.setdefault((checkpoint.fingerprint, str(checkpoint.shots)), checkpoint.name)
        if other != checkpoint.name:
            warnings.append(
                f"checkpoints {other} and {checkpoint.name} are the same model: weights, configuration and tokenizer "
                "are equal"
            )
    return warnings


def check_same_prompts(
    rendered: Mapping[str, Sequence[str]], vocabularies: Mapping[str, str], *, allow_different: bool = False
) -> list[str]:
    """Check that all checkpoints read the same text.

    Args:
        rendered: Per checkpoint, the prompts as its own template renders them.
        vocabularies: Per checkpoint, a hash of its vocabulary.
        allow_different: Warn about a difference instead of refusing it.

    Returns:
        Warnings, one line each, empty where everything agrees.

    Raises:
        ConfigError: Two checkpoints render a prompt differently; the message shows where.
    """
    warnings = []
    first, *others = rendered or [""]
    for other in others:
        pairs = enumerate(zip(rendered[first], rendered[other], strict=True))
        differing = next(((index, left, right) for index, (left, right) in pairs if left != right), None)
        if differing is not None:
            index, left, right = differing
            problem = (
                f"checkpoints {first} and {other} do not see the same text: prompt {index} differs at "
                f"{_first_difference(left, right)}"
            )
            if not allow_different:
                raise ConfigError(
                    f"{problem}; give both the same chat template, or pass --allow_different_prompts true to compare "
                    "them as they are"
                )
            warnings.append(problem)
        if vocabularies[first] != vocabularies[other]:
            warnings.append(
                f"checkpoints {first} and {other} have different vocabularies: their token counts are not comparable "
                "and no KL between them is computed"
            )
    return warnings


def check_unseen(rows: Dataset, runs: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Check that no compared run has used a held-out prompt.

    Args:
        rows: The held-out rows.
        runs: Per checkpoint (or reward model), the run folders it came from.

    Returns:
        What was checked, for results.json: `checked` per run folder with its data files and row count, and
        `unchecked`, the checkpoints without any record of their data.

    Raises:
        DataError: A run has used some of the rows; the message names the run and their number.
    """
    held_out = {row_hash(row) for row in rows}
    checked: dict[str, dict[str, int]] = {}
    unchecked = []
    for name, folders in runs.items():
        records = [(folder, file) for folder in folders for file in sorted(Path(folder).glob("data/*.hashes"))]
        if not records:
            unchecked.append(name)
        for folder, file in records:
            hashes = set(file.read_text(encoding="utf-8").split())
            shared = hashes & held_out
            if shared:
                raise DataError(
                    f"{len(shared)} of {len(held_out)} held-out prompts occur in the {file.stem} data of run {folder} "
                    f"(checkpoint {name}); compare on prompts that no stage has used"
                )
            checked.setdefault(folder, {})[file.stem] = len(hashes)
    return {
        "checked": [{"run": folder, "data": counts} for folder, counts in checked.items()],
        "unchecked": unchecked,
        "overlap": 0,
    }


def run_folders(path: str) -> tuple[str, ...]:
    """Run folders that a model came from: its own and, for an adapter, its base's; empty for a hub model."""
    folder = Path(resolve_model(path))
    return tuple(run for run in _lineage(folder) if (Path(run) / "run.json").is_file()) if folder.is_dir() else ()


def reward_runs(names: Sequence[str], config: str | None = None) -> dict[str, tuple[str, ...]]:
    """Run folders of the trained reward models among some rewards.

    Args:
        names: of rewards, as `--reward` takes them.
        config: a composition, as `--reward_config` takes it.
    """
    parts = parse_spec(read_spec(config), config) if config else ()
    named = [*names, *(member.reward for part in parts for member in part.members)]
    return {name: run_folders(name) for name in named if Path(name).expanduser().is_dir()}


def refuse_examples(checkpoints: Sequence[Checkpoint]) -> None:
    """Refuse few-shot checkpoints, for recipes that ask every model the bare prompt.

    Raises:
        ConfigError: One is given as PATH@4shot or the like.
    """
    for checkpoint in checkpoints:
        if checkpoint.shots is not None:
            raise ConfigError(
                f"checkpoint {checkpoint.name}: examples (@...shot) are for rlgen compare; leave them out"
            )


def _local_folder(path: str) -> Path:
    resolved = resolve_model(path)
    if Path(resolved).is_dir():
        return Path(resolved)
    try:
        return Path(snapshot_download(resolved, allow_patterns=list(_MODEL_FILES)))
    except Exception as error:
        # The hub client raises many unrelated types; all of them mean the same to the user.
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{path} is no local folder and not obtainable from the hub: {reason}") from error


def _lineage(folder: Path) -> list[str]:
    """A model's folder, then its base's and so on; the run of a `checkpoint-N` folder is the folder above it."""
    lineage = [str(folder.parent if folder.name.startswith("checkpoint-") else folder)]
    return lineage + _lineage(_local_folder(adapter_base(folder))) if is_adapter(folder) else lineage


def _fingerprint(folder: Path) -> str:
    digest = hashlib.sha256()
    files = sorted({file for pattern in _MODEL_FILES for file in folder.glob(pattern) if file.is_file()})
    for file in files:
        if file.name == "adapter_config.json":
            config = json.loads(file.read_text(encoding="utf-8"))
            # Where the base lies differs from machine to machine; what it is does not.
            config["base_model_name_or_path"] = _fingerprint(_local_folder(adapter_base(folder)))
            digest.update(json.dumps(config, sort_keys=True).encode())
        else:
            status = file.stat()
            digest.update(f"{file.name}:{_file_hash(file, status.st_size, status.st_mtime_ns)}\n".encode())
    return digest.hexdigest()[:16]


@cache
def _file_hash(file: Path, size: int, modified: int) -> str:
    """Hash a file once per state: several adapters share one base."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _first_difference(left: str, right: str) -> str:
    both = zip(left, right, strict=False)
    position = next((index for index, (x, y) in enumerate(both) if x != y), min(len(left), len(right)))
    around = slice(max(0, position - 20), position + 20)
    return f"character {position}: {left[around]!r} against {right[around]!r}"
