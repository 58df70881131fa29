"""What the trainer's end and the worker's end of a sandbox agree on."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass

# Orders to a worker, and its answer: "d", whether the time ran out, and the wait status.
RUN, KILL = b"r", b"k"
DONE = struct.Struct("!cBI")
PYTHON_FLAGS = ("-s", "-S", "-P", "-B", "-X", "utf8")  # no packages, no files of the user's, UTF-8

INNER_USER = 1000
FOLDER = "/work"  # the sample's working directory, empty at the start, and the only place to write to


@dataclass(frozen=True)
class Settings:
    """What a worker is told at its start; sizes in bytes, times in seconds."""

    isolation: str
    wall_seconds: float
    cpu_seconds: int
    memory: int
    disk: int
    threads: int
    processes: int
    readable: tuple[str, ...]
    baseline: int = 0  # address space of the worker itself, which the limit adds to

    def text(self) -> str:
        """All of them as text for a command line."""
        return json.dumps(vars(self))

    @classmethod
    def of(cls, text: str) -> Settings:
        """Settings from such a text."""
        values = json.loads(text)
        return cls(**{**values, "readable": tuple(values["readable"])})
