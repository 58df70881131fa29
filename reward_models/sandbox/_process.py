"""The trainer's end of one worker: its process, the socket to it, and what comes from its samples."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass

from reward_models.sandbox._settings import DONE, KILL, PYTHON_FLAGS, RUN, Settings

MAX_RESULT = 16 * 2**20  # bytes of verdicts and values
GRACE_SECONDS = 10.0  # how long after the wall time a worker may still keep silent


@dataclass
class Run:
    """What a worker and a sample wrote."""

    timed_out: bool = False
    stopped: str = ""
    seconds: float = 0.0
    result: bytearray = dataclasses.field(default_factory=bytearray)
    output: bytearray = dataclasses.field(default_factory=bytearray)


class Worker:
    """One worker process and the socket to it."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.busy = settings, False
        if not sys.platform.startswith("linux") and settings.isolation != "none":
            raise OSError(f"needs Linux, this is {sys.platform}")
        if settings.isolation == "bubblewrap" and shutil.which("bwrap") is None:
            raise OSError("bwrap is not installed")
        self.control, other = socket.socketpair()
        package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        code = (
            f"import sys; sys.path.insert(0, {package!r})\n"
            "from reward_models.sandbox import _worker\n"
            "del sys.path[0]\n"
            f"_worker.main({other.fileno()}, _worker.Settings.of({settings.text()!r}))"
        )
        needed = ["LD_LIBRARY_PATH", *(["PATH"] if settings.isolation == "bubblewrap" else [])]
        environment = {"PYTHONHASHSEED": "0"} | {name: os.environ[name] for name in needed if name in os.environ}
        command = [os.path.realpath(sys.executable), *PYTHON_FLAGS, "-c", code]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[other.fileno()],
            env=environment,
            start_new_session=True,
        )
        other.close()
        self.control.settimeout(60.0)
        try:
            answer = self.control.recv(1000)
            if answer != b"y":
                raise OSError(answer[1:].decode() or "its worker does not start")
        except BaseException:
            self.stop()
            raise

    def alive(self) -> bool:
        """Whether the worker's process runs."""
        return self.process.poll() is None

    def run(self, job: bytes, max_output: int) -> Run | None:
        """Run one sample; None if the worker itself failed."""
        self.busy = True
        begin = time.monotonic()
        job_read, job_write = os.pipe()
        result_read, result_write = os.pipe()
        output_read, output_write = os.pipe()
        run = Run()
        try:
            try:
                socket.send_fds(self.control, [RUN], [job_read, result_write, output_write])
            except OSError:
                return None
            finally:
                for descriptor in (job_read, result_write, output_write):
                    os.close(descriptor)
            deadline = begin + self.settings.wall_seconds + GRACE_SECONDS
            if not self._exchange(run, memoryview(job), job_write, result_read, output_read, max_output, deadline):
                return None
        finally:
            for descriptor in (job_write, result_read, output_read):
                os.close(descriptor)
        run.seconds = time.monotonic() - begin
        self.busy = False
        return run

    def _exchange(
        self,
        run: Run,
        job: memoryview,
        job_write: int,
        result_read: int,
        output_read: int,
        max_output: int,
        deadline: float,
    ) -> bool:
        for descriptor in (job_write, result_read, output_read):
            os.set_blocking(descriptor, False)
        kept = {result_read: (run.result, MAX_RESULT), output_read: (run.output, max_output)}
        with selectors.DefaultSelector() as selector:
            selector.register(job_write, selectors.EVENT_WRITE)
            for source in (self.control, result_read, output_read):
                selector.register(source, selectors.EVENT_READ)
            while True:
                ready = selector.select(max(0.0, deadline - time.monotonic()))
                if not ready:
                    return False
                for key, _ in ready:
                    if key.fd == job_write:
                        job = _write_some(job_write, job)
                        if not job:
                            selector.unregister(job_write)
                    elif key.fd in kept and not self._read_some(run, key.fd, *kept[key.fd]):
                        selector.unregister(key.fd)
                if any(key.fileobj is self.control for key, _ in ready):
                    break
            message = self._message()
            if message is None:
                return False
            run.timed_out = bool(DONE.unpack(message)[1])
            for descriptor, (buffer, limit) in kept.items():  # what is left in the pipes
                while descriptor in selector.get_map() and self._read_some(run, descriptor, buffer, limit, last=True):
                    pass
        return True

    def _message(self) -> bytes | None:
        try:
            message = self.control.recv(DONE.size, socket.MSG_WAITALL)
        except OSError:
            return None
        return message if len(message) == DONE.size and message[:1] == b"d" else None

    def _read_some(self, run: Run, source: int, kept: bytearray, limit: int, last: bool = False) -> bool:
        """Read what is there; False when nothing more will be kept."""
        try:
            data = os.read(source, 2**16)
        except BlockingIOError:
            return not last
        kept += data[: limit - len(kept)]
        if data and len(kept) >= limit:
            run.stopped = "output" if kept is run.output else "result"
            with contextlib.suppress(OSError):
                if not last:
                    self.control.sendall(KILL)
            return False
        return bool(data)

    def stop(self) -> None:
        """End the worker and all that it started."""
        self.busy = False
        self.control.close()  # which it takes as its end
        try:
            self.process.wait(1.0)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(OSError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def _write_some(descriptor: int, data: memoryview) -> memoryview:
    try:
        return data[os.write(descriptor, data[: 2**16]) :]
    except BlockingIOError:
        return data
    except OSError:  # the sample has ended and reads no more
        return data[:0]
