"""What a run hangs on a transformers trainer: metrics as JSON lines, progress, and a tidy heap."""

import json
import time
from pathlib import Path
from typing import Any

from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rlgen.memory import trim_heap
from rlgen.progress import report_progress
from rlgen.runs import finite, read_metrics, write_atomic


class MetricsCallback(TrainerCallback):
    """Appends one JSON object per log event, with its step and time, to a file that survives resuming."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Drop what was logged after the checkpoint that training goes on from: those steps are done again."""
        if state.is_world_process_zero and self.path.exists():
            kept = [row for row in read_metrics(self.path) if row.get("step", 0) <= state.global_step]
            write_atomic(self.path, "".join(json.dumps(row) + "\n" for row in kept))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write one line."""
        if state.is_world_process_zero and logs:
            row = {"step": state.global_step, "time": round(time.time(), 3), **finite(logs)}
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row, default=float) + "\n")


class ProgressCallback(TrainerCallback):
    """Reports optimizer steps and the newest numbers.

    Args:
        name: of the work.
        every: report after so many steps; where the first of them takes longest, as in PPO, whole rounds tell the
            time left.
    """

    def __init__(self, name: str, every: int = 1) -> None:
        self.name = name
        self.every = every
        self.latest: dict[str, Any] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Show the work before its first step is over."""
        self._report(state)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Remember the numbers for the next report."""
        self.latest.update(logs or {})

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Report one more step, or round of steps."""
        if state.global_step % self.every == 0:
            self._report(state)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Report the last numbers."""
        self._report(state)

    def _report(self, state: TrainerState) -> None:
        if state.is_world_process_zero and state.max_steps > 0:
            report_progress(self.name, min(state.global_step, state.max_steps), state.max_steps, **self.latest)


class TrimHeapCallback(TrainerCallback):
    """Trims the heap between steps, now and then: pages that are needed again cost a little to get back.

    Args:
        seconds: between two trims, at least.
    """

    def __init__(self, seconds: float = 5.0) -> None:
        self.seconds = seconds
        self.last = time.monotonic()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Trim if it is time to."""
        if time.monotonic() - self.last >= self.seconds:
            trim_heap()
            self.last = time.monotonic()


def silence_printer() -> None:
    """Switch off the printing of log dictionaries that a trainer without tqdm adds to itself."""
    PrinterCallback.on_log = TrainerCallback.on_log
