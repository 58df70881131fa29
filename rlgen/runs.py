"""Run folders: what a run was given, what it logged, where it can go on, and whether it is finished."""

import contextlib
import importlib.metadata
import json
import logging
import math
import os
import platform
import shlex
import shutil
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlgen.errors import RunError
from rlgen.progress import progress_listener, report_progress

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import TrainerCallback

__all__ = ["Run", "open_run", "progress_listener", "read_metrics", "report_progress", "write_atomic"]

logger = logging.getLogger(__name__)

RECORDED_PACKAGES = ("rlgen", "torch", "transformers", "trl", "peft", "accelerate", "datasets", "evaluate")
# Settings that say where, how often or how loudly, not what is learned: they may change when a run goes on.
FREE_KEYS = frozenset(
    "output_dir run_name project trackio_space_id report_to disable_tqdm resume_from_checkpoint push_to_hub "
    "dataloader_num_workers dataloader_pin_memory dataloader_persistent_workers dataloader_prefetch_factor "
    "dataset_num_proc eval_strategy eval_steps eval_delay eval_on_start per_device_eval_batch_size "
    "eval_accumulation_steps include_num_input_tokens_seen skip_memory_metrics reward_check reward_timeout".split()
)
FREE_PREFIXES = ("logging_", "log_", "save_", "hub_")


def write_atomic(path: str | Path, text: str) -> None:
    """Write a whole text file or nothing: aside, flushed to disk, then renamed over the old one.

    Raises:
        OSError: the write failed; the old file, if any, is untouched.
    """
    path = Path(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with aside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            aside.unlink()
        raise


def open_run(output_dir: str | Path, *, stage: str, config: dict[str, Any]) -> "Run":
    """Create a run folder, or open the one that is there if it holds the same run.

    Args:
        output_dir: the folder.
        stage: which recipe writes here, for example "sft".
        config: the resolved settings, see `rlgen.config.resolved_config`.

    Returns:
        The run; `run.finished` says whether there is anything left to do.

    Raises:
        RunError: the folder cannot be written, or holds another stage or other settings.
    """
    path = Path(output_dir)
    config = json.loads(json.dumps(config, default=str))
    record = _read_record(path)
    if record is not None and not barely_begun(path, record):
        _check_same_run(path, record, stage, config)
        return Run(path, record)
    record = {
        "stage": stage,
        "config": config,
        "seed": config.get("seed"),
        "command": f"{sys.argv[0]} {shlex.join(sys.argv[1:])}",
        "started": now(),
        "finished": None,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": package_versions(),
        "data": {},
        "summary": None,
    }
    run = Run(path, record)
    if _writes():
        shutil.rmtree(path / "data", ignore_errors=True)  # of an attempt that failed before it computed anything
    run.create()
    return run


class Run:
    """One run folder: `run.json`, `metrics.jsonl`, `data/*.hashes`, checkpoints and what the recipe saves."""

    def __init__(self, path: Path, record: dict[str, Any]) -> None:
        self.path = path
        self.record = record

    @property
    def finished(self) -> bool:
        """Whether `finish` was called, now or in an earlier process."""
        return bool(self.record["finished"])

    @property
    def stage(self) -> str:
        """Which recipe writes here."""
        return str(self.record["stage"])

    @property
    def summary(self) -> dict[str, Any]:
        """What the finished run reported, empty before."""
        return dict(self.record.get("summary") or {})

    def create(self) -> None:
        """Make the folder and write `run.json`.

        Raises:
            RunError: the folder cannot be made or written.
        """
        with _clear_write_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            self._save()

    def record_data(self, name: str, dataset: "Dataset") -> None:
        """Keep which rows were used, so that a later comparison can prove that splits do not overlap.

        Args:
            name: the split, for example "train" or "heldout".
            dataset: rows with a `prompt` column.

        Raises:
            RunError: an unfinished run used other rows under this name before.
        """
        from rlgen.data import fingerprint, row_hashes

        entry = {"rows": len(dataset), "fingerprint": fingerprint(dataset)}
        known = self.record["data"].get(name)
        if known is not None and known != entry:
            raise RunError(
                f"{self.path}: the '{name}' rows are not those this run began with ({known['rows']} rows, "
                f"{known['fingerprint']}; now {entry['rows']}, {entry['fingerprint']}): choose another --output_dir"
            )
        if not _writes():
            return
        with _clear_write_errors(self.path):
            (self.path / "data").mkdir(exist_ok=True)
            write_atomic(self.path / "data" / f"{name}.hashes", "".join(f"{h}\n" for h in row_hashes(dataset)))
            self.record["data"][name] = entry
            self._save()

    def note(self, name: str, value: Any) -> None:
        """Keep something about the run itself in `run.json`, beside its settings and its summary.

        Args:
            name: a key of its own.
            value: what JSON can hold.
        """
        self.record[name] = json.loads(json.dumps(finite(value), default=str))
        with _clear_write_errors(self.path):
            self._save()

    def last_checkpoint(self) -> str | None:
        """The newest complete `checkpoint-N` folder; one cut short by a crash or a full disk does not count."""
        for folder in sorted(self.path.glob("checkpoint-*"), key=_checkpoint_step, reverse=True):
            problem = checkpoint_problem(folder)
            if problem is None:
                return str(folder)
            logger.warning("%s is ignored: %s", folder, problem)
        return None

    def finish(self, summary: dict[str, Any]) -> None:
        """Mark the run as finished; from now on the same command returns at once."""
        self.record["finished"] = now()
        self.record["summary"] = json.loads(json.dumps(finite(summary), default=str))
        with _clear_write_errors(self.path):
            self._save()

    def callbacks(self, progress_every: int = 1) -> "list[TrainerCallback]":
        """Callbacks for a transformers trainer: `metrics.jsonl`, progress, and memory given back now and then.

        Args:
            progress_every: steps between two reports of progress.

        The trainer's own printing of log dictionaries is switched off, since it would tear the progress display.
        """
        from rlgen.callbacks import MetricsCallback, ProgressCallback, TrimHeapCallback, silence_printer

        silence_printer()
        progress = ProgressCallback(self.stage, progress_every)
        return [MetricsCallback(self.path / "metrics.jsonl"), progress, TrimHeapCallback()]

    def _save(self) -> None:
        if _writes():
            write_atomic(self.path / "run.json", json.dumps(self.record, indent=2) + "\n")


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a `metrics.jsonl`; a last line cut short by a crash is left out."""
    rows = []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            rows.append(json.loads(line))
    return rows


def checkpoint_problem(folder: Path) -> str | None:
    """Why a checkpoint cannot be resumed from, or None if it is complete.

    transformers writes `trainer_state.json` after weights, optimizer and random states, so it is the mark of a
    checkpoint that was written to its end; the sizes of the weight files are checked all the same.
    """
    try:
        json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "trainer_state.json is missing or cut short"
    weights = sorted(folder.rglob("*.safetensors"))
    sharded = [*folder.glob("global_step*"), *folder.glob("pytorch_model_fsdp*")]
    if not weights and not sharded:
        return "it has no weights"
    broken = [file.name for file in weights if not _safetensors_complete(file)]
    return f"{broken[0]} is cut short" if broken else None


def finite(value: Any) -> Any:
    """The value with NaN and infinities replaced by None, since JSON has no words for them."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def now() -> str:
    """The time, UTC, ISO 8601 to the second."""
    return datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="seconds")


def package_versions() -> dict[str, str]:
    """Versions of the packages that decide a run's results, without importing them."""
    versions = {}
    for package in RECORDED_PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


def _writes() -> bool:
    """Whether this process is the one that writes, under `accelerate launch` and `torchrun` as well as alone."""
    return int(os.environ.get("RANK", "0")) == 0


def _read_record(path: Path) -> dict[str, Any] | None:
    file = path / "run.json"
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise RunError(f"{file} cannot be read ({error}): delete the folder or choose another --output_dir") from error
    if not isinstance(record, dict) or not {"stage", "config", "finished", "data"} <= record.keys():
        raise RunError(f"{file} was not written by rlgen: choose another --output_dir")
    return record


def barely_begun(path: Path, record: dict[str, Any] | None = None) -> bool:
    """Whether nothing was computed yet: a mistake in the settings must not bar the folder to the corrected command."""
    record = _read_record(path) if record is None else record
    begun = {entry.name for entry in path.iterdir()} if path.is_dir() else set()
    return (record is None or record["finished"] is None) and begun <= {"run.json", "data"}


def _check_same_run(path: Path, record: dict[str, Any], stage: str, config: dict[str, Any]) -> None:
    remedy = "choose another --output_dir or delete the folder"
    if record["stage"] != stage:
        raise RunError(f"{path} holds a run of '{record['stage']}', not of '{stage}': {remedy}")
    # A key that only one side knows came with another version of a library, not from the user.
    differing = [
        f"{key} (there {record['config'][key]!r}, now {config[key]!r})"
        for key in sorted(record["config"].keys() & config.keys())
        if key not in FREE_KEYS and not key.startswith(FREE_PREFIXES) and record["config"][key] != config[key]
    ]
    if differing:
        raise RunError(f"{path} holds a run with other settings, {', '.join(differing)}: {remedy}")


@contextlib.contextmanager
def _clear_write_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise RunError(f"cannot write to {path} ({reason}): choose another --output_dir or free it") from error


def _checkpoint_step(folder: Path) -> int:
    number = folder.name.removeprefix("checkpoint-")
    return int(number) if number.isdigit() else -1


def _safetensors_complete(file: Path) -> bool:
    """Whether the header can be read and the file is as long as its header says."""
    try:
        with file.open("rb") as stream:
            header_size = int.from_bytes(stream.read(8), "little")
            if not 2 <= header_size <= file.stat().st_size - 8:
                return False
            header = json.loads(stream.read(header_size))
        data_size = max(
            (entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0
        )
        return file.stat().st_size == 8 + header_size + data_size
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
