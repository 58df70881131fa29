"""What a program may try: each attack costs one failed score, and neither the worker nor the next program anything."""

from __future__ import annotations

import os
import textwrap
import time
from pathlib import Path

import pytest

from reward_models.sandbox import Sandbox

GOOD = "def solve(n):\n    return n * 2\n"
TESTS = ["assert solve(3) == 6", "assert solve(-41) == -82"]

# name: (program, the statuses that it may end with)
ATTACKS: dict[str, tuple[str, str]] = {
    "fork bomb": ("import os\nwhile True: os.fork()", "error"),
    "fork bomb by multiprocessing": (
        "import multiprocessing as m\n[m.Process(target=print).start() for _ in range(99)]",
        "error",
    ),
    "one huge allocation": ("x = bytearray(10**11)", "error"),
    "memory bit by bit": ("x = []\nwhile True: x.append(bytearray(10**6))", "error crashed"),
    "memory by memory maps": (
        "import mmap\nkept = []\nwhile True:\n    m = mmap.mmap(-1, 2**22); m.write(b'x' * 2**22); kept.append(m)",
        "error",
    ),
    "memory by shared memory": (
        "from multiprocessing.shared_memory import SharedMemory\ns = SharedMemory(create=True, size=2**30)",
        "error",
    ),
    "memory by memfd": ("import os\nf = os.memfd_create('x')\nos.write(f, b'x' * 2**20)", "error"),
    "memory by exponents": ("x = 9 ** 9 ** 9", "timeout error crashed"),
    "memory by System V segments": (
        "import ctypes\nassert ctypes.CDLL(None).shmget(0, 2**24, 0o1600) >= 0, 'refused'",
        "error",
    ),
    "one huge file": ("f = open('f', 'wb')\nwhile True: f.write(b'x' * 2**20)", "error"),
    "many files": ("n = 0\nwhile True:\n    open(str(n), 'wb').write(b'x' * 10**5); n += 1", "error"),
    "sparse file": ("f = open('f', 'wb'); f.seek(2**40); f.write(b'x'); f.flush()", "error"),
    "endless loop": ("while True: pass", "timeout"),
    "endless sleep": ("import time\ntime.sleep(1000)", "timeout"),
    "endless backtracking": ("import re\nre.match('(a+)+$', 'a' * 60 + 'b')", "timeout"),
    "endless call": ("def solve(n):\n    while True: pass", "timeout"),
    "output flood": ("while True: print('x' * 1000)", "output"),
    "output flood of raw bytes": ("import os\nwhile True: os.write(2, b'\\xff' * 65536)", "output"),
    "ignoring signals": (
        "import signal\nfor s in set(signal.Signals) - {9, 19}: signal.signal(s, signal.SIG_IGN)\nwhile True: pass",
        "timeout",
    ),
    "handling the limit's signal": (
        "import signal\nsignal.signal(signal.SIGXCPU, lambda *_: None)\nwhile True: pass",
        "timeout",
    ),
    "an alarm that restarts": (
        "import signal\nsignal.signal(signal.SIGALRM, lambda *_: signal.alarm(1))\nsignal.alarm(1)\nwhile True: pass",
        "timeout",
    ),
    "stopping itself": ("import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)", "timeout"),
    "os._exit": ("import os\nos._exit(0)", "exited"),
    "os._exit in a call": ("import os\ndef solve(n): os._exit(0)", "exited"),
    "sys.exit": ("import sys\nsys.exit(0)", "exited"),
    "killing itself": ("import os\nos.kill(os.getpid(), 9)", "crashed"),
    "abort": ("import os\nos.abort()", "crashed"),
    "segmentation fault": ("import ctypes\nctypes.string_at(0)", "crashed"),
    "corrupting the interpreter": ("import ctypes\nctypes.memset(id(None), 0, 64)", "crashed error exited"),
    "tracing": (
        "import sys\ndef trace(*a):\n    while True: pass\nsys.settrace(trace)\ndef solve(n): return 2 * n",
        "timeout",
    ),
    "profiling": ("import sys\nsys.setprofile(lambda *a: sys.exit(0))\ndef solve(n): return 0", "ok exited error"),
    "reading the users": ("open('/etc/passwd').read()", "error"),
    "reading the home": (
        "import os\nassert os.listdir(os.path.expanduser('~')) or os.listdir('/home') or os.listdir('/root')",
        "error",
    ),
    "reading the environment": ("import os\nos.environ['SECRET_TOKEN']", "error"),
    "reading the environment by /proc": ("open('/proc/self/environ').read()", "error"),
    "reading memory by /proc": ("open('/proc/1/mem', 'rb').read(1)", "error"),
    "another root by /proc": ("import os\nos.listdir('/proc/1/root/etc')", "error"),
    "a symbolic link outside": ("import os\nos.symlink('/etc', 'e')\nprint(open('e/passwd').read())", "error"),
    "a way up": ("open('../../../../../../etc/shadow').read()", "error"),
    "connecting": ("import socket\nsocket.create_connection(('127.0.0.1', 22), 1)", "error"),
    "a datagram": ("import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM)", "error"),
    "a local socket": ("import socket\nsocket.socket(socket.AF_UNIX).connect('\\0x')", "error"),
    "a raw socket": ("import socket\nsocket.socket(socket.AF_PACKET, socket.SOCK_RAW)", "error"),
    "a web page": ("import urllib.request\nurllib.request.urlopen('http://example.com', timeout=1)", "error"),
    "writing outside": ("open('/tmp/mark', 'w').write('x')", "error"),
    "writing to the root": ("open('/mark', 'w').write('x')", "error"),
    "changing the library": ("import os\nopen(os.__file__, 'a').write('#')", "error"),
    "mounting": (
        "import ctypes\nassert ctypes.CDLL(None).mount(b't', b'/work', b'tmpfs', 0, None) == 0, 'refused'",
        "error",
    ),
    "a namespace of its own": ("import ctypes\nassert ctypes.CDLL(None).unshare(0x10000000) == 0, 'refused'", "error"),
    "another root folder": ("import os\nos.chroot('.')", "error"),
    "debugging the tests": ("import ctypes\nassert ctypes.CDLL(None).ptrace(16, 1, 0, 0) == 0, 'refused'", "error"),
    "another user": ("import os\nos.setuid(0)", "error"),
    "another limit": (
        "import resource as r\nr.setrlimit(r.RLIMIT_CPU, (99, 99))",
        "error",
    ),
    "the limits of the tests": ("import resource as r\nr.prlimit(1, r.RLIMIT_CPU, (1, 1))", "error"),
    "killing the first process": (
        "import os, time\nos.kill(1, 9); os.kill(1, 15); os.kill(1, 2)\ntime.sleep(.2)\nraise ValueError",
        "error",
    ),
    "killing the parent": (
        "import os\nfor s in (1, 2, 3, 9, 15): os.kill(os.getppid(), s)\nraise ValueError",
        "error",
    ),
    "killing everybody": ("import os\nos.kill(-1, 9)\nraise ValueError", "error"),
    "killing the group": ("import os\nos.killpg(0, 9)\nraise ValueError", "error crashed"),
    "stopping the parent": ("import os, signal\nos.kill(os.getppid(), signal.SIGSTOP)\nraise ValueError", "error"),
    "running a shell": ("import os\nassert os.system('true') == 0", "error"),
    "running a program": ("import subprocess, sys\nsubprocess.run([sys.executable, '-c', ''])", "error"),
    "import hooks": (
        """
        import builtins, sys
        class Finder:
            def find_spec(self, *a): raise SystemExit
        sys.meta_path[:] = [Finder()]
        sys.modules.clear()
        builtins.__import__ = None
        def solve(n): return 0
        """,
        "ok error exited crashed",
    ),
    "emptying builtins": ("import builtins\nbuiltins.__dict__.clear()", "exited error crashed"),
    "deep recursion": ("def f(n): return f(n + 1)\nf(0)", "error"),
    "recursion without a limit": (
        "import sys\nsys.setrecursionlimit(10**9)\nclass A:\n    def __repr__(self): return repr(self)\nrepr(A())",
        "error crashed timeout",
    ),
    "a deep value": ("def solve(n):\n    x = []\n    for _ in range(10**5): x = [x]\n    return x", "ok crashed"),
    "a value that holds itself": ("x = []\nx.append(x)\ndef solve(n): return x", "ok crashed"),
    "a huge value": ("def solve(n): return 'x' * (40 * 10**6)", "exited ok exited crashed error"),
    "huge literal": ("x = " + "9" * 10**5, "error"),
    "huge list": ("x = [" + "0," * 10**6 + "]", "ok error crashed timeout"),
    "nested parentheses": ("x = " + "(" * 10**5 + ")" * 10**5, "error crashed"),
    "nested operators": ("x = " + "-" * 10**5 + "1", "error crashed"),
    "null characters": ("x = '\0'", "error"),
    "lone surrogates": ("print('\\ud800')", "error"),
    "a surrogate in the source": ("x = '\ud800'\nraise ValueError", "error"),
    "look-alike letters": ("def s\u043elve(n): return 2 * n", "ok"),
    "thread bomb": (
        "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(99,), daemon=True).start()",
        "error",
    ),
    "threads that go on": (
        "import threading\ndef f():\n    while True: pass\nthreading.Thread(target=f).start()\ndef solve(n):\n    f()",
        "timeout",
    ),
    "descriptors": ("import os\nwhile True: os.dup(0)", "error"),
    "closing everything": ("import os\nos.closerange(0, 100)\ndef solve(n): return 2 * n", "crashed exited error"),
    "a poisoned exception": (
        "class E(Exception):\n    def __str__(self): import os; os._exit(0)\ndef solve(n): raise E",
        "ok exited",
    ),
    "exit handlers": ("import atexit, os\natexit.register(os._exit, 0)\ndef solve(n): return 0", "ok"),
}
# Where programs may start processes.
FORKING: dict[str, tuple[str, str]] = {
    "fork bomb": ("import os\nwhile True: os.fork()", "error timeout crashed"),
    "fork bomb that keeps silent": (
        "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
        "timeout",
    ),
    "zombies": ("import os\nfor _ in range(99):\n    if os.fork() == 0: os._exit(0)", "error"),
    "daemons": (
        """
        import os, signal, time
        for _ in range(3):
            if os.fork() == 0:
                os.setsid()
                if os.fork(): os._exit(0)
                for s in (1, 2, 15): signal.signal(s, signal.SIG_IGN)
                time.sleep(1000)
        def solve(n): return 0
        """,
        "ok",
    ),
    "a child that answers": ("import os\nos.fork()\ndef solve(n): return 0", "ok crashed"),
    "leaving a child behind": (
        "import os, time\nif os.fork(): os._exit(0)\ntime.sleep(1000)",
        "exited",
    ),
}


def descendants(process: int) -> set[int]:
    """Processes below one, by the system's list."""
    parents = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found = {process}
    while True:
        more = {child for child, parent in parents.items() if parent in found} - found
        if not more:
            return found - {process}
        found |= more


def attack(pool: Sandbox, program: str, statuses: str) -> None:
    os.environ["SECRET_TOKEN"] = "hidden"
    assert pool.run(GOOD, TESTS, entry_point="solve").fraction == 1.0
    before = descendants(os.getpid())
    begin = time.monotonic()
    result = pool.run(textwrap.dedent(program), TESTS, entry_point="solve")
    assert time.monotonic() - begin < 20
    assert result.status in statuses.split(), result
    assert result.fraction == 0.0, result
    assert len(result.stdout) <= 64 * 1024
    assert len(result.tests) == len(TESTS)
    assert descendants(os.getpid()) == before, "a process is left, or a worker had to be replaced"
    assert pool.run(GOOD, TESTS, entry_point="solve").tests == (True, True)


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_costs_one_score(request: pytest.FixtureRequest, name: str) -> None:
    program, statuses = ATTACKS[name]
    attack(request.getfixturevalue("hasty" if statuses == "timeout" else "sandbox"), program, statuses)


@pytest.mark.parametrize("name", FORKING)
def test_an_attack_by_processes_costs_one_score(forking: Sandbox, name: str) -> None:
    attack(forking, *FORKING[name])
    assert not Path("/tmp/mark").exists()
    assert not Path("/mark").exists()
