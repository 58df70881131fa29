"""What every worker shares: the clock, memory, rewards. Needs nothing that one of the environments lacks.

A worker is called as `python WORKER.py job.json result.json`. The result holds one record a rollout (seconds of its
phases, samples, tokens, mean reward), the process's peak memory and the versions of its packages.
"""

import json
import logging
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from job import Job
from transformers import TrainerCallback

PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate")


class Times(NamedTuple):
    """Seconds on the clock, and of the processor's work for this process, all threads added up."""

    wall: float = 0.0
    cpu: float = 0.0

    def __add__(self, other: "Times") -> "Times":  # type: ignore[override]
        return Times(self.wall + other.wall, self.cpu + other.cpu)

    def __sub__(self, other: "Times") -> "Times":
        return Times(self.wall - other.wall, self.cpu - other.cpu)


class TimeIsUp(Exception):
    """Ends a training run that is measured by the clock: not every trainer looks at `should_training_stop`."""


def even_tokens(completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
    """Share of tokens with an even id: known optimum 1, about 0.5 for a random model."""
    return [sum(token % 2 == 0 for token in ids) / max(len(ids), 1) for ids in completion_ids]


def docstring(completions: Sequence[Any], code: Sequence[str], **_: Any) -> list[float | None]:
    """The docstring task's composite reward, whose module needs nothing but Python."""
    from reward_models.docstring import composite

    return composite(completions=completions, code=code)


REWARDS: dict[str, Callable[..., list[float | None]]] = {"even_tokens": even_tokens, "docstring": docstring}


class Recorder:
    """Times the phases of each rollout and keeps what the rewards saw.

    Args:
        job: what is measured.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.rollouts: list[dict[str, Any]] = []
        self.began = self.border = Times()
        self._spent: dict[str, Times] = defaultdict(Times)
        self._scores: list[float] = []
        self._tokens: list[int] = []

    # --- rewards ---

    def reward_function(self) -> Callable[..., list[float | None]]:
        """The job's reward with TRL's signature; what passes through it is recorded."""
        score = REWARDS[self.job.reward]

        def recorded(completions: Sequence[Any], completion_ids: Sequence[Sequence[int]], **columns: Any) -> Any:
            scores = score(completions=completions, completion_ids=completion_ids, **columns)
            self._scores.extend(s for s in scores if s is not None)
            self._tokens.extend(map(len, completion_ids))
            return scores

        recorded.__name__ = self.job.reward
        return recorded

    # --- clock ---

    def now(self) -> Times:
        if self.job.device == "cuda":
            torch.cuda.synchronize()
        return Times(time.perf_counter(), time.process_time())

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        start = self.now()
        try:
            yield
        finally:
            self._spent[name] += self.now() - start

    def time_calls(self, owner: Any, name: str, phase: str) -> None:
        """Count the time in a function or method, by the name under which its callers look it up, as a phase."""
        original = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.phase(phase):
                return original(*args, **kwargs)

        setattr(owner, name, timed)

    def start(self) -> None:
        self.began = self.border = self.now()

    def end_rollout(self) -> None:
        """Close the record of a rollout; the phase that was not timed is what is left of the total."""
        total, spent = self.now() - self.border, dict(self._spent)
        rollout = spent["rollout"]
        if "update" in spent:
            update = spent["update"]
            scoring = total - rollout - update
        else:
            scoring = spent["rollout_and_scoring"] - rollout
            update = total - rollout - scoring
        phases = {"total": total, "rollout": rollout, "scoring": scoring, "update": update}
        self.rollouts.append(
            {
                "seconds": {name: times.wall for name, times in phases.items()},
                "cpu_seconds": {name: times.cpu for name, times in phases.items()},
                "samples": len(self._tokens),
                "completion_tokens": sum(self._tokens),
                "reward": sum(self._scores) / max(len(self._scores), 1),
            }
        )
        self._spent.clear()
        self._scores.clear()
        self._tokens.clear()
        self.border = self.now()
        if self.job.minutes and (self.border - self.began).wall >= 60 * self.job.minutes:
            raise TimeIsUp

    # --- result ---

    def finish(self, **extra: Any) -> None:
        """Write the result of the run."""
        result = {
            "contender": self.job.contender,
            "rollouts": self.rollouts,
            "train_seconds": (self.border - self.began).wall,
            "peak_memory_gb": peak_memory_gb(),
            "torch_threads": torch.get_num_threads(),
            "versions": {name: version(name) for name in PACKAGES},
            **extra,
        }
        if self.job.device == "cuda":
            result["peak_device_memory_gb"] = torch.cuda.max_memory_allocated() / 1e9
        Path(sys.argv[2]).write_text(json.dumps(result, indent=1), encoding="utf-8")


class RolloutBorders(TrainerCallback):
    """Tells the recorder where a rollout ends: every so many optimizer steps.

    Args:
        recorder: whom to tell.
        steps: the trainer's steps a rollout.
    """

    def __init__(self, recorder: Recorder, steps: int) -> None:
        self.recorder, self.steps = recorder, steps

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.recorder.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step % self.steps == 0:
            self.recorder.end_rollout()


def train(trainer: Any) -> None:
    """Train to the end of the steps or of the time."""
    logging.disable(logging.WARNING)
    with suppress(TimeIsUp):
        trainer.train()


def peak_memory_gb() -> float:
    """Largest resident memory that this process has had, in GB (10^9 bytes)."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def cpu_flags(job: Job) -> dict[str, bool]:
    """Training arguments for the job's device and number format."""
    cpu = job.device == "cpu"
    return {"use_cpu": cpu, "dataloader_pin_memory": not cpu, "bf16": job.dtype == "bfloat16"}
