"""One run of a recipe in a process of its own, watched through the files that it leaves."""

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rlgen.errors import ConfigError
from rlgen.runs import read_metrics

ROOT = Path(__file__).parent.parent.parent
CHILD = "rlgen.sweep.child"
POLL_SECONDS = 0.5
GRACE_SECONDS = 10.0


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    state: Literal["finished", "pruned", "failed"]
    reason: str = ""


def run_recipe(
    recipe: str,
    flags: Sequence[str],
    folder: Path,
    log: Path,
    *,
    metric: str,
    hopeless: Callable[[int, float], bool],
    max_seconds: float | None = None,
) -> Outcome:
    """Run a recipe to its end, unless it takes too long or is given up.

    Args:
        recipe: file name in recipes/, without ending.
        flags: its command line, `--output_dir` among them.
        folder: that output folder.
        log: gets what the run prints.
        metric: watched in metrics.jsonl.
        hopeless: called with step and value of each new logged number; True ends the run.
        max_seconds: after which the run is ended; None for no limit.

    Returns:
        How it ended; an error of the recipe is an outcome, too.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    search = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(search)}
    command = [sys.executable, "-m", CHILD, recipe, *flags]
    with log.open("a", encoding="utf-8") as output:
        begin = output.tell()
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=output, env=environment)
        try:
            ended_by_us = _watch(process, folder, metric, hopeless, max_seconds)
        finally:  # of an interrupt, too
            _end(process)
    if ended_by_us is not None:
        return ended_by_us
    if process.returncode == 0:
        return Outcome("finished")
    return Outcome("failed", _reason(log, begin, process.returncode))


def logged_values(folder: Path, metric: str) -> list[tuple[int, float]]:
    """Step and value of each number that a run has logged under a name so far."""
    file = folder / "metrics.jsonl"
    rows = read_metrics(file) if file.is_file() else []
    return [(int(row.get("step", 0)), float(row[metric])) for row in rows if _is_number(row.get(metric))]


def final_value(folder: Path, metric: str, last: int = 1) -> float:
    """What a finished run has achieved.

    That is the value of the best checkpoint if the run chose one by this metric, since this is what it ends with;
    else, for `last` 1, the number in the run's summary; else the mean of the last logged values.

    Args:
        folder: of the run.
        metric: name.
        last: how many logged values to average, at least 1.

    Returns:
        The number, NaN if the run logged none but such as are no number.

    Raises:
        ConfigError: the run has no such metric.
    """
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    chosen = record.get("best_checkpoint") or {}
    if chosen.get("metric") == metric:
        return float(chosen["value"])
    summary = record.get("summary") or {}
    if last == 1 and _is_number(summary.get(metric)):
        return float(summary[metric])
    values = [value for _, value in logged_values(folder, metric)][-last:]
    if values:
        return sum(values) / len(values)
    file = folder / "metrics.jsonl"
    rows = read_metrics(file) if file.is_file() else []
    names = {key for row in rows for key in row} | {key for key, value in summary.items() if _is_number(value)}
    if metric in names:
        return math.nan
    known = ", ".join(sorted(names - {"step", "time"}))
    raise ConfigError(f"--metric {metric}: the run in {folder} has no such metric, only {known}")


def _watch(
    process: subprocess.Popen[bytes],
    folder: Path,
    metric: str,
    hopeless: Callable[[int, float], bool],
    max_seconds: float | None,
) -> Outcome | None:
    """Wait for the end of a process; what is returned is why it has to be ended before, else None."""
    began, seen, size = time.monotonic(), -1, -1
    while True:
        running = process.poll() is None
        file = folder / "metrics.jsonl"
        now = file.stat().st_size if file.is_file() else -1
        if now != size:
            size = now
            for step, value in logged_values(folder, metric):
                if step > seen:
                    seen = step
                    if hopeless(step, value) and running:
                        return Outcome("pruned", f"{metric} was {value:.4g} at step {step}")
        if not running:
            return None
        if max_seconds is not None and time.monotonic() - began > max_seconds:
            return Outcome("failed", f"took longer than {max_seconds / 60:g} minutes")
        time.sleep(POLL_SECONDS)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    assert process.stdin is not None
    process.stdin.close()


def _reason(log: Path, begin: int, code: int) -> str:
    """The error line of a recipe, else the last line of a traceback."""
    with log.open(encoding="utf-8", errors="replace") as file:
        file.seek(begin)
        lines = [line.strip() for line in file if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    said = errors[-1] if errors else lines[-1] if lines else "it printed nothing"
    return said if errors else f"exit code {code}: {said}"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
