"""Sandboxes for tests; those that need isolation skip where the machine has none, and say so."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator

import pytest

from reward_models.sandbox import Sandbox, available_isolation


@pytest.fixture(scope="session")
def isolation() -> str:
    kind = available_isolation()
    if kind is None:
        # Where util-linux can do it, so must we: a fault of ours is no reason to skip.
        probe = ["unshare", "--user", "--map-root-user", "--mount", "--pid", "--net", "--fork", "true"]
        if shutil.which("unshare") and subprocess.run(probe, capture_output=True).returncode == 0:
            pytest.fail("this machine has user namespaces, but the sandbox cannot use them")
        pytest.skip("this machine has neither user namespaces nor bubblewrap to isolate code with")
    return kind


@pytest.fixture(scope="module")
def sandbox(isolation: str) -> Iterator[Sandbox]:
    with Sandbox(1, wall_seconds=8, cpu_seconds=1, memory_mb=64, disk_mb=4, output_kb=64) as pool:
        yield pool


@pytest.fixture(scope="module")
def hasty(isolation: str) -> Iterator[Sandbox]:
    """A sandbox for programs that don't end: little time to wait, but enough for others on a busy machine."""
    with Sandbox(1, wall_seconds=1.2, cpu_seconds=1, memory_mb=64, disk_mb=4, output_kb=64) as pool:
        yield pool


@pytest.fixture(scope="module")
def forking(isolation: str) -> Iterator[Sandbox]:
    """A sandbox whose programs may start processes."""
    with Sandbox(1, wall_seconds=2, cpu_seconds=1, memory_mb=64, processes=8) as pool:
        yield pool
