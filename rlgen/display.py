"""Where a chain of stages is: two bars on a terminal, sparse lines elsewhere, and one estimate of the time left."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from rlgen.progress import LineProgress, format_metrics, format_seconds, listening

TELLING = 0.1  # share of a stage after which its pace can be read off
ALMOST = 0.03  # a stage that outlasts its estimate still has this share of it left, as far as anybody knows


class TimeLeft:
    """Estimates the time left from expected minutes, corrected by how long finished stages really took.

    Args:
        minutes: expected per stage, in order.
        clock: seconds since whenever.
        rough: only the proportions are known, so that there is no estimate before something was measured.
    """

    def __init__(
        self, minutes: Mapping[str, float], clock: Callable[[], float] = time.monotonic, *, rough: bool = False
    ) -> None:
        self.rough = rough
        self.expected = {name: 60.0 * value for name, value in minutes.items()}
        self.measured: dict[str, float] = {}
        self._clock = clock
        self._current: str | None = None
        self._began = 0.0
        self._share = 0.0

    def begin(self, name: str) -> None:
        """Start the clock of a stage."""
        self._current, self._began, self._share = name, self._clock(), 0.0

    def report(self, share: float) -> None:
        """Note the share of the current stage's main work that is done, 0 to 1."""
        self._share = share

    def end(self, name: str, seconds: float | None = None) -> None:
        """Note that a stage is over; `seconds` if it was measured elsewhere."""
        self.measured[name] = self._clock() - self._began if seconds is None else seconds
        self._current = None

    def spent_here(self) -> float:
        """Seconds since the current stage began, 0 between stages."""
        return 0.0 if self._current is None else self._clock() - self._began

    def seconds(self) -> float | None:
        """The estimated seconds left for all stages; None while nobody can know."""
        if self.rough and not self.measured and (self._current is None or self._share <= TELLING):
            return None
        expected_so_far = sum(self.expected[name] for name in self.measured)
        pace = sum(self.measured.values()) / expected_so_far if expected_so_far else 1.0
        left = sum(pace * value for name, value in self.expected.items() if name not in self.measured)
        if self._current is None:
            return left
        spent = self.spent_here()
        if self.rough and not self.measured:  # its share of the work says how fast this machine is
            pace = spent / self._share / self.expected[self._current]
            left = sum(pace * value for value in self.expected.values())
        stage = pace * self.expected[self._current]
        left_here = (
            spent * (1 - self._share) / self._share if self._share > TELLING else max(stage - spent, ALMOST * stage)
        )
        return left - stage + left_here


class LineDisplay:
    """Lines for logs: one per stage with the time left, and those of `LineProgress` within it."""

    def __init__(
        self, title: str, minutes: Mapping[str, float], stream: TextIO | None = None, *, rough: bool = False
    ) -> None:
        self.title = title
        self.names = list(minutes)
        self.left = TimeLeft(minutes, rough=rough)
        self._stream = stream

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Write a line, then listen to the stage."""
        left = self.left.seconds()
        self._write(self._place(name) + ("" if left is None else f" about {format_seconds(left)} left"))
        lines = LineProgress(self._stream)
        self.left.begin(name)

        def listen(work: str, done: int, total: int, metrics: dict[str, Any]) -> None:
            lines(work if work.startswith(name) else f"{name}: {work}", done, total, metrics)

        with listening(listen):
            yield
        self.left.end(name)
        self._write(f"{self._place(name)} done in {format_seconds(self.left.measured[name])}")

    def skip(self, name: str, seconds: float) -> None:
        """Say that there is nothing to do."""
        self.left.end(name, seconds)
        self._write(f"{self._place(name)} was finished before")

    def _place(self, name: str) -> str:
        return f"[{self.names.index(name) + 1}/{len(self.names)}] {name}:"

    def _write(self, line: str) -> None:
        stream = self._stream or sys.stderr
        stream.write(line + "\n")
        stream.flush()


class BarDisplay:
    """Two bars: the whole chain, and the work at hand with its numbers."""

    def __init__(self, title: str, minutes: Mapping[str, float], progress: Progress, *, rough: bool = False) -> None:
        self.title = title
        self.names = list(minutes)
        self.left = TimeLeft(minutes, rough=rough)
        self._progress = progress
        self._whole = progress.add_task(title, total=1.0, text="")
        self._work = progress.add_task("", total=None, text="", visible=False)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Show the stage in both bars and listen to it."""
        self.left.begin(name)
        self._update_whole(name)
        work_began = (name, time.monotonic())

        def listen(work: str, done: int, total: int, metrics: dict[str, Any]) -> None:
            nonlocal work_began
            if work != work_began[0]:
                work_began = (work, time.monotonic())
            if work == name:
                self.left.report(done / max(total, 1))
            spent = time.monotonic() - work_began[1]
            ends = f"{format_seconds(spent * (total - done) / done)} left" if 0 < done < total else ""
            text = "  ".join(part for part in (f"{done}/{total}", format_metrics(metrics), ends) if part)
            label = f"  {work}" if work.startswith(name) else f"  {name}: {work}"
            self._progress.update(self._work, description=label, completed=done, total=total, text=text, visible=True)
            self._update_whole(name)

        with listening(listen):
            yield
        self.left.end(name)
        self._progress.update(self._work, visible=False)
        self._progress.console.print(f"  {name} done in {format_seconds(self.left.measured[name])}")

    def skip(self, name: str, seconds: float) -> None:
        """Say that there is nothing to do."""
        self.left.end(name, seconds)
        self._progress.console.print(f"  {name} was finished before")

    def _update_whole(self, name: str) -> None:
        left = self.left.seconds()
        spent = sum(self.left.measured.values()) + self.left.spent_here()
        text = f"{self.names.index(name) + 1}/{len(self.names)} {name}"
        if left is not None:
            text += f"  about {format_seconds(left)} left"
        self._progress.update(self._whole, completed=spent, total=None if left is None else spent + left, text=text)


@contextlib.contextmanager
def chain_display(
    title: str, minutes: Mapping[str, float], *, rough: bool = False
) -> Iterator[LineDisplay | BarDisplay]:
    """The display that fits where stderr goes.

    Args:
        title: name of the whole.
        minutes: expected minutes per stage, in order.
        rough: the proportions are a guess, so that no time left is shown before something was measured.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield LineDisplay(title, minutes, rough=rough)
        return
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[text]}"))
    with Progress(*columns, console=console) as progress:
        yield BarDisplay(title, minutes, progress, rough=rough)
