"""Memory that goes back to the system."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import TrainerControl, TrainerState

from rlgen.callbacks import TrimHeapCallback

FRAGMENTS = """
import os, torch
from rlgen.memory import trim_heap
resident = lambda: int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
kept = []
for _ in range(2000):  # small blocks that live keep the large ones between them from leaving the heap by themselves
    block = torch.ones(25_000)
    kept.append(torch.ones(2_000))
    del block
held = [torch.ones(25_000) for _ in range(4000)]
pins = held[::50]
del held
before = resident()
trim_heap()
print(before - resident())
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux' own figures")
def test_trimming_gives_holes_in_the_heap_back():
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**31)}
    done = subprocess.run([sys.executable, "-c", FRAGMENTS], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100e6  # of 400 MB that were freed


def test_the_callback_trims_now_and_then(monkeypatch):
    trims, clock = [], iter([0.0, 1.0, 5.5, 5.5, 6.0, 11.0, 11.0])
    monkeypatch.setattr("rlgen.callbacks.time.monotonic", lambda: next(clock))
    monkeypatch.setattr("rlgen.callbacks.trim_heap", lambda: trims.append(1))
    callback = TrimHeapCallback(seconds=5.0)
    seen = []
    for _ in range(4):
        callback.on_step_end(None, TrainerState(), TrainerControl())
        seen.append(len(trims))
    assert seen == [0, 1, 1, 2]
