"""How far the work is: one function to report it, one variable that says who listens, and the plain displays."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

ProgressListener = Callable[[str, int, int, dict[str, Any]], None]
progress_listener: ContextVar[ProgressListener | None] = ContextVar("progress_listener", default=None)

# The numbers worth a place on the line, most telling first; names as they stand in the logs.
SHOWN_METRICS = {
    "loss": "loss",
    "reward": "reward",
    "objective/kl": "kl",
    "critic/explained_variance": "explained variance",
    "accuracy": "accuracy",
    "rewards/accuracies": "accuracy",
    "mean_token_accuracy": "token accuracy",
    "eval_loss": "eval loss",
    "best": "best",
}
MOST_SECONDS_BETWEEN_LINES = 30.0
LEAST_SECONDS_BETWEEN_LINES = 5.0


def report_progress(name: str, done: int, total: int, **metrics: Any) -> None:
    """Say that `done` of `total` units of the work called `name` are over; nothing happens if nobody listens.

    Args:
        name: what is being done, for example "sft" or "generate".
        done: units finished, 0 to `total`.
        total: units in all.
        metrics: the newest numbers; the display picks those it knows.
    """
    listener = progress_listener.get()
    if listener is not None:
        listener(name, done, total, metrics)


def format_metrics(metrics: Mapping[str, Any], limit: int = 4) -> str:
    """The telling numbers of a log as short text, for example "loss 1.83  accuracy 0.61"."""
    shown: dict[str, str] = {}
    for key, label in SHOWN_METRICS.items():
        value = metrics.get(key)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and label not in shown:
            shown[label] = f"{label} {value:.3g}"
    return "  ".join(list(shown.values())[:limit])


def format_seconds(seconds: float) -> str:
    """A duration as people write it: "45 s", "3 min 20 s", "1 h 05 min"."""
    total = round(max(seconds, 0.0))
    if total < 60:
        return f"{total} s"
    if total < 3600:
        return f"{total // 60} min {total % 60:02d} s"
    return f"{total // 3600} h {total % 3600 // 60:02d} min"


class LineProgress:
    """Sparse plain lines for logs: at the start, each tenth of the work or half minute, and at the end."""

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._started: dict[str, tuple[float, int]] = {}
        self._printed: dict[str, tuple[float, int]] = {}

    def __call__(self, name: str, done: int, total: int, metrics: dict[str, Any]) -> None:
        """Write a line if enough has happened since the last one."""
        now = self._clock()
        tenth = 10 * done // max(total, 1)
        start, start_done = self._started.get(name, (now, done))
        if done <= start_done:  # said again, after other work: only now does this one begin
            start, start_done = now, done
        self._started[name] = start, start_done
        last_time, last_tenth = self._printed.get(name, (float("-inf"), -1))
        waited = now - last_time
        is_due = waited >= (LEAST_SECONDS_BETWEEN_LINES if tenth != last_tenth else MOST_SECONDS_BETWEEN_LINES)
        if not is_due and not (done == total and tenth != last_tenth):
            return
        self._printed[name] = (now, tenth)
        parts = [f"{name}: {done}/{total}", format_metrics(metrics)]
        if start_done < done < total:
            parts.append(f"{format_seconds((now - start) / (done - start_done) * (total - done))} left")
        stream = self._stream or sys.stderr
        stream.write("  ".join(part for part in parts if part) + "\n")
        stream.flush()


class BarProgress:
    """One bar per kind of work on a terminal, with the time left and the newest numbers.

    The display starts at the first report, so that a listener set further in can have the terminal for itself.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bars: dict[str, TaskID] = {}

    def __call__(self, name: str, done: int, total: int, metrics: dict[str, Any]) -> None:
        """Move the bar called `name`, making it at its first report."""
        if name not in self._bars:
            self._progress.start()
            self._bars[name] = self._progress.add_task(name, total=total, numbers="")
        numbers = format_metrics(metrics)
        self._progress.update(self._bars[name], completed=done, total=total)
        if numbers:
            self._progress.update(self._bars[name], numbers=numbers)


def bars(console: Console) -> Progress:
    """The columns of rlgen's progress bars."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[numbers]}"),
        console=console,
    )


@contextlib.contextmanager
def listening(listener: ProgressListener) -> Iterator[None]:
    """Send progress reports to `listener` inside the block."""
    token = progress_listener.set(listener)
    try:
        yield
    finally:
        progress_listener.reset(token)


@contextlib.contextmanager
def recipe_progress() -> Iterator[None]:
    """The display of a recipe that runs alone: bars on a terminal, sparse lines elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        with listening(LineProgress()):
            yield
        return
    progress = bars(console)
    try:
        with listening(BarProgress(progress)):
            yield
    finally:
        progress.stop()
