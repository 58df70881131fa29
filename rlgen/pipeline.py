"""A chain of stages in one run folder: a manifest that survives any stop, and the proof that no rows were shared."""

import contextlib
import itertools
import json
import logging
import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import rlgen
from rlgen.errors import DataError, RunError
from rlgen.memory import release_memory
from rlgen.runs import barely_begun, now, package_versions, write_atomic

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
PENDING, RUNNING, FINISHED = "pending", "running", "finished"


@dataclass(frozen=True)
class Stage:
    """One step of the chain.

    Attributes:
        name: what it is called; its run folder has the same name.
        argv: flags for the recipe's main.
    """

    name: str
    argv: list[str]


class Display(Protocol):
    """Who shows where the chain is; see `rlgen.display`."""

    def stage(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Show that a stage is under way while the block runs."""

    def skip(self, name: str, seconds: float) -> None:
        """Note that a stage was finished earlier and how long it took then."""


def flags(options: Mapping[str, Any]) -> list[str]:
    """A mapping of flags, as YAML has it, as command-line words.

    Args:
        options: flag names without dashes to a value, a list of values, a mapping, a truth value or None (left out).
    """
    words: list[str] = []
    for name, value in options.items():
        if value is None:
            continue
        values = value if isinstance(value, list) else [value]
        words += [f"--{name}", *(_word(each) for each in values)]
    return words


def _word(value: Any) -> str:
    if isinstance(value, dict):
        return json.dumps(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def run_stages(
    folder: Path,
    stages: Sequence[Stage],
    mains: Callable[[str], Callable[[list[str]], Any]],
    *,
    settings: Mapping[str, Any],
    display: Display,
) -> dict[str, Any]:
    """Run what is not finished yet, in order; stopped anywhere, the same call goes on from there.

    Args:
        folder: the run folder of the whole chain.
        stages: the steps.
        mains: gives the main of a stage, once it is needed.
        settings: what the chain was asked for (preset, seed, ...); a folder made with others is refused.
        display: who shows the progress.

    Returns:
        The manifest.

    Raises:
        RunError: the folder holds another chain, or lost a stage on which later ones were built.
        DataError: two stages used the same row for different purposes.
    """
    manifest = open_manifest(folder, stages, settings)
    for index, stage in enumerate(stages):
        entry = manifest["stages"][index]
        if entry["state"] == FINISHED and _is_finished(folder / stage.name):
            display.skip(stage.name, entry["seconds"])
            continue
        _check_nothing_built_on(folder, manifest, index)
        entry.update(state=RUNNING, started=entry["started"] or now(), finished=None)
        _save(folder, manifest)
        before, began = entry["seconds"], time.monotonic()
        try:
            with display.stage(stage.name), _output_to(folder / f"{stage.name}.log"):
                mains(stage.name)(stage.argv)
        finally:
            entry["seconds"] = round(before + time.monotonic() - began, 1)
            _save(folder, manifest)
        entry.update(state=FINISHED, finished=now(), data=_stage_data(folder / stage.name))
        manifest["data"] = prove_disjoint(folder, [s.name for s in stages])
        _save(folder, manifest)
        release_memory()
    if manifest["finished"] is None:
        manifest["finished"] = now()
        _save(folder, manifest)
    return manifest


def open_manifest(folder: Path, stages: Sequence[Stage], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Read the manifest of a chain, or begin one.

    Raises:
        RunError: the folder cannot be written, or holds a chain with other settings.
    """
    fresh: dict[str, Any] = {
        "settings": dict(settings),
        "command": f"{sys.argv[0]} {shlex.join(sys.argv[1:])}".strip(),
        "rlgen": rlgen.__version__,
        "versions": package_versions(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "started": now(),
        "finished": None,
        "stages": [
            {"name": s.name, "argv": s.argv, "state": PENDING, "started": None, "finished": None, "seconds": 0.0}
            for s in stages
        ],
        "data": {},
    }
    known = _read_manifest(folder)
    if known is None or all(barely_begun(folder / s["name"]) for s in known["stages"]):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _save(folder, fresh)
        except OSError as error:
            raise RunError(f"cannot write to {folder} ({error.strerror}): choose another --output_dir") from error
        return fresh
    differing = _differences(known, fresh, folder)
    if differing:
        raise RunError(
            f"{folder} holds a run with other settings, {', '.join(differing)}: choose another --output_dir, or "
            "delete the folder"
        )
    return known


def prove_disjoint(folder: Path, stages: Sequence[str]) -> dict[str, Any]:
    """Check that rows used for one purpose were used for no other, by the hashes that the stages left.

    Files of the same name in several stages (for example the pairs that both the reward model and DPO learn from)
    are one purpose.

    Args:
        folder: the run folder of the chain.
        stages: names of its stages.

    Returns:
        Rows per purpose, and which stages used them.

    Raises:
        DataError: two purposes share a row.
    """
    rows: dict[str, set[str]] = {}
    users: dict[str, list[str]] = {}
    for stage in stages:
        for file in sorted((folder / stage / "data").glob("*.hashes")):
            rows.setdefault(file.stem, set()).update(file.read_text(encoding="utf-8").split())
            users.setdefault(file.stem, []).append(stage)
    for first, second in itertools.combinations(rows, 2):
        shared = rows[first] & rows[second]
        if shared:
            raise DataError(
                f"the '{first}' rows of {users[first][0]} and the '{second}' rows of {users[second][0]} share "
                f"{len(shared)} prompts (the first has hash {min(shared)}): a comparison would not be fair"
            )
    return {name: {"rows": len(rows[name]), "stages": users[name], "disjoint": True} for name in rows}


def _differences(known: Mapping[str, Any], fresh: Mapping[str, Any], folder: Path) -> list[str]:
    differing = [
        f"{key} (there {known['settings'].get(key)!r}, now {value!r})"
        for key, value in fresh["settings"].items()
        if known["settings"].get(key) != value
    ]
    if differing:
        return differing
    if [s["name"] for s in known["stages"]] != [s["name"] for s in fresh["stages"]]:
        return ["other stages"]
    return [
        f"other flags for {a['name']}"
        for a, b in zip(known["stages"], fresh["stages"], strict=True)
        if a["argv"] != b["argv"]
    ]


def _check_nothing_built_on(folder: Path, manifest: Mapping[str, Any], index: int) -> None:
    name = manifest["stages"][index]["name"]
    later = [entry["name"] for entry in manifest["stages"][index + 1 :] if entry["state"] != PENDING]
    if later:
        raise RunError(
            f"{folder / name} is gone or unfinished, but {', '.join(later)} was built on it: delete {folder}, or "
            "choose another --output_dir"
        )


def _is_finished(folder: Path) -> bool:
    record = _read_json(folder / "run.json")
    return bool(record and record.get("finished"))


def _stage_data(folder: Path) -> dict[str, Any]:
    return (_read_json(folder / "run.json") or {}).get("data", {})


def _read_manifest(folder: Path) -> dict[str, Any] | None:
    file = folder / MANIFEST
    if not file.exists():
        return None
    manifest = _read_json(file)
    if manifest is None or not {"settings", "stages"} <= manifest.keys():
        raise RunError(f"{file} was not written by rlgen: choose another --output_dir, or delete the folder")
    return manifest


def _read_json(file: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _save(folder: Path, manifest: Mapping[str, Any]) -> None:
    write_atomic(folder / MANIFEST, json.dumps(manifest, indent=2) + "\n")


@contextlib.contextmanager
def _output_to(file: Path) -> Iterator[None]:
    """Keep what a stage prints for people who run it alone out of the display of the whole."""
    with file.open("a", encoding="utf-8") as stream, contextlib.redirect_stdout(stream):
        yield
