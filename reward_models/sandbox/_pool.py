"""The pool: workers that are started when needed, given samples one at a time, and replaced when they die."""

from __future__ import annotations

import dataclasses
import functools
import os
import queue
import threading
import weakref
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from reward_models.sandbox._process import MAX_RESULT, Run, Worker
from reward_models.sandbox._settings import Settings
from reward_models.sandbox._wire import decode, frame, frames

ISOLATIONS = ("namespaces", "bubblewrap")  # in this order of preference
ISOLATION_VARIABLE = "RLGEN_SANDBOX_ISOLATION"


class SandboxUnavailable(RuntimeError):
    """No isolation is to be had on this machine, and none was not asked for."""


class CallError(Exception):
    """A call that gave no value; its text says why."""


@dataclass(frozen=True)
class Result:
    """What came of one program.

    Attributes:
        status: `ok` (it ran; tests may have failed), `error` (it raised while it was loaded), `exited` (it left by
            itself), `timeout` (processor or wall time), `crashed` (a signal ended it), `output` (it printed too much).
            Without tests and calls, `ok` is only the program's own word.
        detail: the reason, where the status is not `ok`.
        tests: one verdict for each test, for doctests for each example that expects something; None where a test
            cannot be run here, since it gives the program something that cannot be sent to another process.
        reasons: for each verdict why, "" where it passed.
        values: for each call its value, or a `CallError`.
        stdout: what the program printed, standard error included.
        seconds: wall time.
    """

    status: str
    detail: str = ""
    tests: tuple[bool | None, ...] = ()
    reasons: tuple[str, ...] = ()
    values: tuple[Any, ...] = ()
    stdout: str = ""
    seconds: float = 0.0

    @property
    def fraction(self) -> float | None:
        """Share of the tests that passed, None if there are none that can be run."""
        judged = [verdict for verdict in self.tests if verdict is not None]
        return sum(judged) / len(judged) if judged else None


class Sandbox:
    """A pool of workers that run programs in isolation.

    Workers start at the first use, and end with `close`, with the `with` block, or with the process. A sandbox can be
    pickled, and used after a fork: its copy starts workers of its own. Threads may share it.
    """

    def __init__(
        self,
        workers: int = 2,
        *,
        wall_seconds: float = 10.0,
        cpu_seconds: int = 5,
        memory_mb: int = 256,
        disk_mb: int = 16,
        output_kb: int = 256,
        threads: int = 16,
        processes: int = 0,
        readable: Sequence[str] = (),
        isolation: str | None = None,
    ) -> None:
        """Set the limits; nothing is started yet.

        Args:
            workers: programs that run at the same time, 1 or more.
            wall_seconds: time that a program and its tests may take.
            cpu_seconds: processor time of the program, whole seconds, 1 or more.
            memory_mb: memory, in MiB, that the program may allocate beyond the interpreter's own.
            disk_mb: size of its working directory, which is held in memory.
            output_kb: what it may print, in KiB.
            threads: how many threads it may start.
            processes: how many further processes it may start; each may use memory and processor time anew.
            readable: folders and files that programs may read and import from, besides the standard library.
            isolation: `namespaces`, `bubblewrap`, `auto` for the first that works, `none` to run model-written code
                with limits but without isolation; None for what the environment variable RLGEN_SANDBOX_ISOLATION
                says, or else `auto`.

        Raises:
            ValueError: a limit makes no sense.
        """
        chosen = isolation or os.environ.get(ISOLATION_VARIABLE) or "auto"
        if chosen not in (*ISOLATIONS, "auto", "none"):
            raise ValueError(f"there is no isolation '{chosen}'; there are auto, {', '.join(ISOLATIONS)} and none")
        amounts = {"workers": workers, "cpu_seconds": cpu_seconds, "memory_mb": memory_mb, "disk_mb": disk_mb}
        for name, amount in {**amounts, "output_kb": output_kb, "wall_seconds": wall_seconds}.items():
            if not amount > 0:
                raise ValueError(f"{name} must be above 0, not {amount}")
        if threads < 0 or processes < 0:
            raise ValueError("threads and processes must not be below 0")
        missing = [path for path in readable if not os.path.exists(path)]
        if missing:
            raise ValueError(f"there is no {missing[0]} to make readable")
        self.workers, self.isolation, self.output = int(workers), chosen, output_kb * 1024
        paths = tuple(os.path.abspath(path) for path in readable)
        size = 2**20
        self._settings = Settings(
            chosen,
            float(wall_seconds),
            int(cpu_seconds),
            int(memory_mb * size),
            int(disk_mb * size),
            int(threads),
            int(processes),
            paths,
        )
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._idle: queue.LifoQueue[Worker | None] = queue.LifoQueue()
        for _ in range(self.workers):
            self._idle.put(None)
        self._started: list[Worker] = []
        self._starting = threading.Lock()
        self._end = weakref.finalize(self, _stop, self._started, self._process)

    def __getstate__(self) -> dict[str, Any]:
        return {name: self.__dict__[name] for name in ("workers", "isolation", "output", "_settings")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers; the next use starts new ones."""
        self._end()
        self._begin()

    def run(
        self,
        program: str,
        tests: Sequence[str] = (),
        *,
        calls: Sequence[str] = (),
        setup: str = "",
        entry_point: str | None = None,
    ) -> Result:
        """Run one program, and tests against it.

        Tests and calls are yours: they run beside the program, in another process, and reach it by its names.

        Args:
            program: Python source, trusted with nothing.
            tests: each statements with `assert`, doctest examples, or a function `check(candidate)` as HumanEval has.
            calls: expressions whose values are wanted.
            setup: source that tests and calls need; its names come before the program's.
            entry_point: name of the program's function that tests mean, even where it is a builtin's name.

        Raises:
            SandboxUnavailable: no isolation is to be had.
            ValueError: setup, tests or calls are no valid Python, or the setup fails.
        """
        head = {"program": program, "name": "program" if tests or calls else "__main__"}
        body = {"tests": list(tests), "calls": list(calls), "setup": setup, "entry_point": entry_point}
        job = frame(head) + frame(body)
        if os.getpid() != self._process:
            self._begin()  # a copy after a fork: the workers are the original's
        idle = self._idle
        worker = idle.get()
        try:
            for _ in range(2):  # once more, should a worker have died since
                if worker is None:
                    worker = self._start()
                run = worker.run(job, self.output)
                if run is not None:
                    return _result(run, body, self.output)
                worker.stop()
                worker = None
            return _result(Run(), body, self.output)
        finally:
            if worker is not None and worker.busy:  # interrupted: what it does now is nobody's any more
                worker.stop()
                worker = None
            idle.put(worker)

    def run_many(self, jobs: Iterable[Mapping[str, Any]]) -> list[Result]:
        """Run several programs, as many at a time as there are workers.

        Args:
            jobs: the arguments of `run`, each by name.

        Returns:
            The results in the order of the jobs.
        """
        listed = list(jobs)
        if len(listed) < 2:
            return [self.run(**job) for job in listed]
        with ThreadPoolExecutor(min(self.workers, len(listed)), thread_name_prefix="sandbox") as threads:
            return list(threads.map(lambda job: self.run(**job), listed))

    def _start(self) -> Worker:
        with self._starting:  # one at a time, so that the kind of isolation is settled by the first
            kinds = ISOLATIONS if self._settings.isolation == "auto" else (self._settings.isolation,)
            problems = []
            for kind in kinds:
                settings = dataclasses.replace(self._settings, isolation=kind)
                try:
                    worker = Worker(settings)
                    _require_isolation(worker)
                except OSError as error:
                    problems.append(f"{kind}: {error}")
                    continue
                self._settings = settings
                self._started[:] = [other for other in self._started if other.alive()] + [worker]
                return worker
        raise SandboxUnavailable(
            f"code of a model cannot be isolated on this machine ({'; '.join(problems)}); see docs/rewards/sandbox.md "
            f'or run it without isolation by isolation="none" or {ISOLATION_VARIABLE}=none'
        )


def _require_isolation(worker: Worker) -> None:
    """Run a program that tells where it is; `OSError`, and the end of the worker, if it is not where it should be."""
    program = "import os\ndef f(): return [os.getpid(), os.getuid(), *map(os.path.exists, ('/proc/1', '/etc/passwd'))]"
    tests = {"tests": [], "calls": ["f()"], "setup": "", "entry_point": None}
    problem = "its worker died of the first program"
    try:
        run = worker.run(frame({"program": program, "name": "program"}) + frame(tests), 1000)
        if run is not None:
            result = _result(run, tests, 1000)
            (value,) = result.values
            problem = f"the first program failed: {result.detail or value} {result.stdout}".strip()[:500]
            if not isinstance(value, CallError):
                process, user, *visible = value
                inside = process < 10 and user != 0 and not any(visible)
                if worker.settings.isolation == "none" or inside:
                    return
                problem = f"the isolation is not what it should be: process {process}, user {user}"
    except BaseException:
        worker.stop()
        raise
    worker.stop()
    raise OSError(problem)


def _stop(workers: list[Worker], process: int) -> None:
    for worker in workers:
        if os.getpid() == process:
            worker.stop()
        else:
            worker.control.close()
    workers.clear()


@functools.lru_cache(maxsize=1024)
def _expected(test: str) -> int:
    if ">>>" not in test:
        return 1
    from reward_models.sandbox import _tests

    return _tests.expected_verdicts(test)


def _result(run: Run, body: Mapping[str, Any], max_output: int) -> Result:
    """Read verdicts; what is missing has failed."""
    status, detail = "crashed", "the program's tests came to no end"
    verdicts: list[list[tuple[bool | None, str]]] = [[] for _ in body["tests"]]
    values: list[Any] = []
    for message in frames(bytes(run.result)):
        if "broken" in message:
            raise ValueError(message["broken"])
        if "internal" in message:
            detail = message["internal"]
        elif "end" in message:
            status, detail = message["end"], message["detail"]
        elif "test" in message:
            verdicts[message["test"]].append((message["passed"], message["detail"]))
        elif "failed" in message:
            values.append(CallError(message["failed"]))
        else:
            values.append(_decoded(message["value"]))
    if run.stopped:
        status, detail = "output", f"it printed more than {max_output} bytes"
        if run.stopped == "result":
            detail = f"its values take more than {MAX_RESULT} bytes"
    elif run.timed_out:
        status, detail = "timeout", "wall time ran out"
    reason = detail or "the program did not get that far"
    for test, found in zip(body["tests"], verdicts, strict=True):
        if found != [] and found[0][0] is None:
            continue
        found.extend([(False, found[-1][1] if found else reason)] * (_expected(test) - len(found)))
    values.extend(CallError(reason) for _ in range(len(body["calls"]) - len(values)))
    flat = [verdict for found in verdicts for verdict in found]
    return Result(
        status,
        detail,
        tuple(passed for passed, _ in flat),
        tuple(reason for _, reason in flat),
        tuple(values),
        run.output.decode("utf-8", "replace"),
        run.seconds,
    )


def _decoded(data: Any) -> Any:
    try:
        return decode(data)
    except ValueError as error:
        return CallError(str(error))


@functools.cache
def available_isolation() -> str | None:
    """The isolation that this machine has, `namespaces` or `bubblewrap`; None if there is none."""
    try:
        with Sandbox(1, isolation="auto") as sandbox:
            sandbox.run("")
            return sandbox._settings.isolation
    except SandboxUnavailable:
        return None
