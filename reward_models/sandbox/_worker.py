"""A worker: stands inside the isolation and splits off a fresh process for every sample.

It never reads a sample's program, tests, verdicts or output: they go through descriptors that it hands on unread, so
that no later sample can find anything of an earlier one in the memory that it inherits.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import gc
import importlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from dataclasses import replace
from typing import NoReturn

from reward_models.sandbox import _sample, _wire
from reward_models.sandbox._settings import DONE, FOLDER, INNER_USER, PYTHON_FLAGS, RUN, Settings

# What programs for exercises import; loaded once, shared by all samples.
_COMMON = """
    abc array ast base64 bisect calendar cmath collections collections.abc contextlib copy csv dataclasses datetime
    decimal difflib doctest enum fractions functools hashlib heapq html inspect io itertools json locale math numbers
    operator pprint queue random re secrets statistics string struct textwrap threading time traceback types typing
    unicodedata unittest uuid warnings
""".split()
_LEAVE_OUT = ("_test", "_tkinter", "xx", "readline", "_curses", "_ctypes_test", "_dbm", "_gdbm", "nis", "ossaudiodev")


def main(control_number: int, settings: Settings) -> None:
    """Serve the process that started this one until it closes the socket."""
    control = socket.socket(fileno=control_number)
    os.umask(0o022)  # whatever the trainer's, samples must be able to pass through the folders that are made here
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the trainer, which ends its workers
    try:
        if settings.isolation == "namespaces":
            _serve_in_namespaces(control, settings)
        else:
            spawn = _spawn_bubblewrap
            if settings.isolation == "none":
                _preload()
                spawn = _spawn_bare
            _serve(control, settings, spawn)
    except BrokenPipeError:
        pass
    except OSError as error:
        control.sendall(f"n{error}".encode()[:1000])


def _serve_in_namespaces(control: socket.socket, settings: Settings) -> None:
    from reward_models.sandbox import _linux, _namespaces

    trainer = os.pidfd_open(os.getppid())
    _preload()
    _namespaces.enter_namespaces()
    worker = os.fork()
    if worker == 0:
        code = 1
        try:
            _linux.die_with_parent(signal.SIGKILL)
            own = os.open("/proc/self/ns/pid", os.O_RDONLY)
            settings = replace(settings, baseline=_sample.virtual_size())
            _namespaces.build_root(settings.readable)

            def spawn(settings: Settings, job: int, result: int, output: int) -> tuple[int, str]:
                _linux.unshare(_linux.CLONE_NEWPID)
                process = os.fork()
                if process == 0:
                    _isolated_sample(control, settings, job, result, output)
                _linux.setns(own, _linux.CLONE_NEWPID)
                return process, ""

            _serve(control, settings, spawn)
            code = 0
        except OSError as error:
            control.sendall(f"n{error}".encode()[:1000])
        finally:
            os._exit(code)
    control.close()
    ended = os.pidfd_open(worker)
    select.select([trainer, ended], [], [])
    os.kill(worker, signal.SIGKILL)
    os.waitpid(worker, 0)


def _isolated_sample(control: socket.socket, settings: Settings, job: int, result: int, output: int) -> NoReturn:
    from reward_models.sandbox import _namespaces

    try:
        control.close()
        os.setsid()  # a signal to the process group would reach the worker, outside of the sample's namespaces
        _namespaces.enter_sample(settings.disk)
    except BaseException as error:
        _wire.send(result, {"internal": f"{type(error).__name__}: {error}"})
        os._exit(1)
    _sample.run_sample(settings, job, result, output)


def _preload() -> None:
    """Load modules, and the shared libraries of the others, whose files are not to be seen later."""
    for name in _COMMON:
        importlib.import_module(name)
    for text in ("", "a.b"):
        text.encode("idna"), text.encode("utf-16"), text.encode("latin-1"), text.encode("cp1252")
    folder = sysconfig.get_config_var("DESTSHARED") or ""
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    for name in [*(f"{folder}/{name}" for name in names if not name.startswith(_LEAVE_OUT)), "libgcc_s.so.1"]:
        with contextlib.suppress(OSError):  # a part of the library that this system cannot load anyway
            ctypes.CDLL(name, mode=os.RTLD_LAZY)
    gc.collect()
    gc.freeze()


Spawn = Callable[[Settings, int, int, int], tuple[int, str]]


def _serve(control: socket.socket, settings: Settings, spawn: Spawn) -> None:
    control.sendall(b"y")
    while True:
        order, descriptors = _receive(control)
        if not order:
            return
        if order != RUN:
            continue  # to end a sample that has ended by itself
        process, folder = spawn(settings, *descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        timed_out, status, closed = _wait(control, process, settings)
        if folder:
            shutil.rmtree(folder, ignore_errors=True)
        if closed:
            return
        control.sendall(DONE.pack(b"d", timed_out, status))


def _receive(control: socket.socket) -> tuple[bytes, list[int]]:
    size = array.array("i").itemsize
    order, messages, _, _ = control.recvmsg(1, socket.CMSG_SPACE(3 * size))
    descriptors = array.array("i")
    for _level, _kind, data in messages:
        descriptors.frombytes(data[: len(data) - len(data) % size])
    return order, list(descriptors)


def _wait(control: socket.socket, process: int, settings: Settings) -> tuple[bool, int, bool]:
    """Wait for a sample, but not too long, nor when nobody wants it any more.

    Returns:
        Whether time ran out, the wait status, and whether the other side of the socket is closed.
    """
    ended = os.pidfd_open(process)
    try:
        ready = select.select([control.fileno(), ended], [], [], settings.wall_seconds)[0]
    finally:
        os.close(ended)
    if settings.isolation == "none":  # elsewhere the end of the namespace's first process is the end of all in it
        _kill_group(process)
    else:
        os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    closed = control.fileno() in ready and control.recv(1) == b""
    return not ready, status, closed


def _kill_group(process: int) -> None:
    try:
        os.killpg(process, signal.SIGKILL)
    except OSError:
        os.kill(process, signal.SIGKILL)


def _spawn_bare(settings: Settings, job: int, result: int, output: int) -> tuple[int, str]:
    folder = tempfile.mkdtemp(prefix="sandbox-")
    settings = replace(settings, baseline=settings.baseline or _sample.virtual_size())
    process = os.fork()
    if process == 0:
        os.setsid()
        os.chdir(folder)
        _sample.run_sample(settings, job, result, output)
    return process, folder


def _spawn_bubblewrap(settings: Settings, job: int, result: int, output: int) -> tuple[int, str]:
    command = bubblewrap_command(settings, job, result, output)
    return subprocess.Popen(command, pass_fds=(job, result, output), env={}, start_new_session=True).pid, ""


def bubblewrap_command(settings: Settings, job: int, result: int, output: int) -> list[str]:
    """The command line that runs one sample under bubblewrap."""
    from reward_models.sandbox import _namespaces

    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    library = _namespaces.library_folders()
    system = [path for path in ("/usr", "/lib", "/lib64", "/etc/ld.so.cache") if os.path.exists(path)]
    command = [shutil.which("bwrap") or "bwrap", "--unshare-all", "--die-with-parent", "--as-pid-1", "--clearenv"]
    command += ["--uid", str(INNER_USER), "--gid", str(INNER_USER), "--cap-drop", "ALL"]
    for path in dict.fromkeys([*system, sys.base_prefix, *library]):
        command += ["--ro-bind", path, path]
    for path in _namespaces.hidden_folders(library):
        command += ["--tmpfs", path]
    for path in settings.readable:
        command += ["--ro-bind", path, path]
    command += ["--ro-bind", package, f"/sandbox/{os.path.basename(package)}", "--dev-bind", "/dev/null", "/dev/null"]
    command += ["--size", str(settings.disk), "--tmpfs", FOLDER, "--chdir", FOLDER, "--remount-ro", "/"]
    code = (
        "import sys; sys.path.insert(0, '/sandbox'); from reward_models.sandbox import _worker; sys.path.pop(0); "
        f"_worker.run_alone({json.dumps(settings.text())}, {job}, {result}, {output})"
    )
    return [*command, "--setenv", "PYTHONHASHSEED", "0", os.path.realpath(sys.executable), *PYTHON_FLAGS, "-c", code]


def run_alone(text: str, job: int, result: int, output: int) -> None:
    """Run one sample in a Python of its own."""
    os.setsid()
    settings = replace(Settings.of(text), baseline=256 * 2**20)  # no /proc to ask
    _sample.run_sample(settings, job, result, output)
