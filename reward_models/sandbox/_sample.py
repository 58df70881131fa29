"""One sample inside the isolation: limits, then two processes, one for the tests and one for the program."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import sys
from typing import Any, NoReturn

from reward_models.sandbox import _candidate, _tests
from reward_models.sandbox._settings import Settings
from reward_models.sandbox._wire import read_frame, send


def virtual_size() -> int:
    """Address space of this process in bytes, 0 where the system doesn't say."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 0


def run_sample(settings: Settings, job: int, result: int, output: int) -> NoReturn:
    """Run one sample in this process and a child, and end.

    Args:
        settings: the limits.
        job: descriptor with two frames, the program and then the tests. The second is read only after the program's
            process has been split off, so that it has no expected value in its memory.
        result: descriptor for the verdicts.
        output: descriptor for what the program prints.
    """
    code = 1
    try:
        os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.close(output)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process of a namespace gets only what it handles
        _clean_environment()
        if sys.platform == "linux":
            _restrict_linux(allow_processes=True)
        _limit(settings, settings.cpu_seconds * 2)
        head = json.loads(read_frame(job))
        requests, to_program = os.pipe()
        responses, from_program = os.pipe()
        child = os.fork()
        if child == 0:
            for descriptor in (job, result, to_program, responses):
                os.close(descriptor)
            _program(settings, head, requests, from_program)
        os.close(requests)
        os.close(from_program)
        null = os.open("/dev/null", os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        link = _tests.Link(to_program, responses, child, settings.cpu_seconds)
        tests = json.loads(read_frame(job))
        _judge(tests, link, result)
        code = 0
    except BaseException as error:
        send(result, {"internal": f"{type(error).__name__}: {error}"})
    finally:
        os._exit(code)


def _judge(tests: dict[str, Any], link: _tests.Link, result: int) -> None:
    status, detail = "ok", ""
    try:
        loaded = link.receive()
        if "raised" in loaded:
            status, detail = "error", f"{loaded['raised']}: {loaded.get('text', '')}"[:600]
            if loaded["raised"] == "SystemExit":
                status, detail = "exited", "the program left by SystemExit"
    except _tests.CandidateGone:
        pass
    if status == "ok" and not link.gone:
        _tests.run_tests(tests, link, result)
    if not link.gone:
        os.close(link.requests)  # the program's process writes out what it printed, and ends
        os.waitpid(link.process, 0)
    else:
        status, detail = link.gone
    send(result, {"end": status, "detail": detail})


def _program(settings: Settings, head: dict[str, Any], requests: int, responses: int) -> NoReturn:
    code = 1
    try:
        low, high = sorted((requests, responses))
        for first, last in ((3, low), (low + 1, high), (high + 1, 1024)):
            os.closerange(first, last)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        _limit(settings, settings.cpu_seconds)
        if sys.platform == "linux":
            _restrict_linux(allow_processes=settings.processes > 0)
        sys.path.extend(settings.readable)
        _candidate.serve(head["program"], head["name"], requests, responses)
        code = 0
    finally:
        os._exit(code)


def _clean_environment() -> None:
    os.environ.clear()
    os.environ.update(HOME=os.getcwd(), TMPDIR=os.getcwd(), LANG="C.UTF-8", PATH="")
    sys.stdout = open(1, "w", encoding="utf-8", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115
    random.seed(0)


def _restrict_linux(allow_processes: bool) -> None:
    from reward_models.sandbox import _linux

    _linux.give_up_privileges()
    _linux.install_filter(allow_processes)


def _limit(settings: Settings, cpu_seconds: int) -> None:
    limits = {
        "RLIMIT_AS": settings.baseline + settings.memory,
        "RLIMIT_CPU": cpu_seconds,
        "RLIMIT_FSIZE": settings.disk,
        "RLIMIT_NOFILE": 64,
        "RLIMIT_CORE": 0,
        "RLIMIT_MEMLOCK": 0,
        "RLIMIT_MSGQUEUE": 0,
    }
    if settings.isolation != "none":  # without a namespace the limit would count all of the user's processes
        limits["RLIMIT_NPROC"] = settings.threads + settings.processes + 3
    for name, value in limits.items():
        kind = getattr(resource, name, None)
        if kind is not None:
            hard = resource.getrlimit(kind)[1]
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(kind, (value, value))
