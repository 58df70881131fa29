"""The sandbox with honest programs, and as a pool: workers die, processes fork, threads share."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

import reward_models.sandbox._pool as pool_module
from reward_models.sandbox import CallError, Sandbox, SandboxUnavailable

ROOT = Path(__file__).parents[3]
DOUBLE = "def solve(n):\n    return n * 2\n"
TEST = "assert solve(3) == 6"

HONEST = {
    "standard library": (
        """
        import bisect, collections, datetime, decimal, functools, hashlib, heapq, itertools, json, math, re, statistics
        import string, sqlite3, zlib, bz2, lzma, csv, io, uuid, textwrap, struct, zoneinfo, xml.etree.ElementTree
        import asyncio, concurrent.futures, logging, unittest, typing, dataclasses, enum, abc, copy, pickle, tempfile
        def solve(n): return hashlib.sha256(b"x").hexdigest()[:2] + str(decimal.Decimal(n) / 4)
        """,
        ["assert solve(1) == '2d0.25'"],
    ),
    "threads": (
        """
        from concurrent.futures import ThreadPoolExecutor
        def solve(n):
            with ThreadPoolExecutor(4) as threads: return sum(threads.map(abs, range(-n, n)))
        """,
        ["assert solve(3) == 9"],
    ),
    "coroutines": (
        "import asyncio\nasync def f(n): return n\ndef solve(n): return asyncio.run(f(n))",
        ["assert solve(3) == 3"],
    ),
    "files": (
        """
        import tempfile
        def solve(text):
            with tempfile.TemporaryFile("w+") as file:
                file.write(text); file.seek(0)
                return file.read()
        """,
        ["assert solve('x') == 'x'"],
    ),
    "classes": (
        """
        class Stack:
            def __init__(self, items=()): self.items = list(items)
            def push(self, item): self.items.append(item); return self
            def pop(self): return self.items.pop()
            def __len__(self): return len(self.items)
            def __iter__(self): return iter(self.items)
            def __getitem__(self, index): return self.items[index]
            def __repr__(self): return f"Stack({self.items})"
        """,
        [
            "s = Stack([1])\ns.push(2).push(3)\nassert len(s) == 3 and s.pop() == 3 and s.items == [1, 2]",
            "s = Stack('ab')\nassert list(s) == ['a', 'b'] and s[1] == 'b' and str(s) == \"Stack(['a', 'b'])\"",
            ">>> Stack([1]).push(2)\nStack([1, 2])\n",
        ],
    ),
    "generators": (
        "def solve(n):\n    for i in range(n): yield i",
        ["assert list(solve(3)) == [0, 1, 2]", "g = solve(2)\nassert next(g) == 0 and next(g) == 1"],
    ),
    "exceptions": (
        "class Own(Exception): pass\ndef solve(n):\n    if n: raise Own('no')\n    raise KeyError('k')",
        [
            "try:\n    solve(0)\nexcept KeyError as error:\n    pass\nelse:\n    assert False",
            ">>> solve(0)\nTraceback (most recent call last):\nKeyError: 'k'\n",
            "try:\n    solve(1)\nexcept Exception as error:\n    assert type(error).__name__ == 'Own'",
        ],
    ),
    "many types": (
        "def solve(x): return x",
        [
            "from collections import Counter, OrderedDict, deque\n"
            "from decimal import Decimal\nfrom fractions import Fraction\n"
            "for x in (1, -1.5, 'é', b'b', None, True, 2j, [1, (2, {3})], {1: [2], 'k': (None,)}, frozenset('a'),\n"
            "          10**50, range(1, 9, 2), Decimal('1.10'), Fraction(1, 3), Counter('aab'), deque([1]),\n"
            "          OrderedDict(a=1)):\n"
            "    assert solve(x) == x and type(solve(x)) is type(x), x",
            "assert solve(float('nan')) != solve(float('nan')) and solve(float('inf')) == float('inf')",
            "assert solve(int) is int",
        ],
    ),
    "in place": ("def solve(x): x.sort()", ["x = [3, 1]\nassert solve(x) is None\nassert x == [1, 3]"]),
    "keywords": ("def solve(a, *, b=2): return a - b", ["assert solve(5, b=1) == 4", "assert solve(a=5) == 3"]),
    "a name like a builtin's": ("def solve(n): return sum([n, n])", ["assert solve(2) == sum((2, 2))"]),
    "printing": ("def solve(n): print('hello', n)", [">>> solve(3)\nhello 3\n"]),
    "a constant": ("LIMIT = 3", ["assert LIMIT == 3"]),
    "data classes": (
        "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\ndef solve(n): return P(n)",
        ["assert solve(3).x == 3"],
    ),
}


@pytest.mark.parametrize("name", HONEST)
def test_honest_programs_pass(sandbox: Sandbox, name: str) -> None:
    program, tests = HONEST[name]
    result = sandbox.run(textwrap.dedent(program), tests)
    assert result.status == "ok", result
    assert set(result.tests) == {True}, result


def test_calls_give_values_and_programs_print(sandbox: Sandbox) -> None:
    result = sandbox.run("print('loaded')\ndef f(x): return {x: [x]}", calls=["f(1)", "f([])", "g()"])
    assert result.values[0] == {1: [1]}
    assert [type(value) for value in result.values[1:]] == [CallError, CallError]
    script = sandbox.run("import sys\nif __name__ == '__main__': print('out'); print('err', file=sys.stderr)")
    assert (script.status, script.stdout, script.tests) == ("ok", "out\nerr\n", ())
    assert script.fraction is None


def test_setup_and_entry_point(sandbox: Sandbox) -> None:
    # A program's own version of what the setup defines, or of a builtin, is not what the tests use.
    cheat = "def close(a, b): return True\ndef abs(x): return 0\ndef solve(n): return 0"
    setup = "def close(a, b): return a == b"
    tests = [
        "assert close(solve(1), 5)",
        "assert abs(solve(1) - 5) < 1",
        "import math\nassert math.isclose(solve(1), 5)",
    ]
    assert sandbox.run(cheat, tests, setup=setup).tests == (False, False, False)
    check = "def check(candidate):\n    assert candidate(3) == 6\n"
    assert sandbox.run(DOUBLE, [check], entry_point="solve").tests == (True,)
    assert sandbox.run("def solve(n): return n", [check], entry_point="solve").tests == (False,)
    assert sandbox.run("def sum(x): return 7", ["assert sum([1]) == 7"], entry_point="sum").tests == (True,)
    assert sandbox.run("import math\nmath.pi = 3\nsolve = 1", ["assert math.pi > 3.1"]).tests == (True,)


def test_doctests_count_by_example(sandbox: Sandbox) -> None:
    examples = ">>> x = 3\n>>> solve(x)\n6\n>>> solve(1)\n5\n"
    result = sandbox.run(DOUBLE, [examples, TEST])
    assert result.tests == (True, False, True)
    assert result.reasons[1] == "expected 5, got 2"
    assert sandbox.run("raise ValueError('so')", [examples, TEST]).tests == (False, False, False)


def test_reasons(sandbox: Sandbox) -> None:
    assert sandbox.run("1 / 0", [TEST]).detail == "ZeroDivisionError: division by zero"
    assert "SyntaxError" in sandbox.run("def", [TEST]).detail
    missing = sandbox.run("x = 1", [TEST])
    assert (missing.status, missing.reasons) == ("ok", ("NameError: name 'solve' is not defined",))
    assert sandbox.run("def solve(n): return 7", ["assert solve(1) == 2, 'wrong'"]).reasons == (
        "AssertionError: wrong",
    )


def test_a_test_that_cannot_be_run_here_is_not_judged(sandbox: Sandbox) -> None:
    result = sandbox.run("def solve(f): return f(1)", ["assert solve(lambda x: x) == 1", "assert solve(int) == 1"])
    assert result.tests == (None, True)
    assert result.fraction == 1.0


@pytest.mark.parametrize(
    "job",
    [
        {"tests": ["assert ("]},
        {"tests": [TEST], "setup": "import no_such_module"},
        {"tests": [TEST], "setup": "def"},
    ],
)
def test_broken_tests_are_an_error_and_not_a_score(sandbox: Sandbox, job: dict) -> None:  # type: ignore[type-arg]
    with pytest.raises(ValueError, match="tests"):
        sandbox.run(DOUBLE, **job)
    assert sandbox.run(DOUBLE, [TEST]).fraction == 1.0


def test_processor_time_is_limited_whatever_the_wall_time(isolation: str) -> None:
    with Sandbox(1, wall_seconds=60, cpu_seconds=1) as pool:
        result = pool.run("import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass", [TEST])
    assert result.status == "timeout"
    assert "processor time" in result.detail


def test_verdicts_before_the_time_ran_out_count(hasty: Sandbox) -> None:
    program = "def solve(n):\n    while n == 4: pass\n    return n * 2\n"
    result = hasty.run(program, [TEST, "assert solve(4) == 8", TEST])
    assert (result.status, result.tests) == ("timeout", (True, False, False))


def test_many_run_in_order_and_threads_share(isolation: str) -> None:
    with Sandbox(2) as pool:
        jobs = [{"program": f"def solve(n): return {i}", "calls": ["solve(0)"]} for i in range(12)]
        assert [result.values for result in pool.run_many(jobs)] == [(i,) for i in range(12)]
        assert pool.run_many([]) == []
        found: Counter[object] = Counter()
        threads = [
            threading.Thread(target=lambda: found.update(pool.run(DOUBLE, calls=["solve(4)"]).values))
            for _ in range(6)
        ]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        assert found == {8: 6}
        assert len(pool._started) == 2


def test_a_dead_worker_is_replaced(isolation: str) -> None:
    with Sandbox(1) as pool:
        assert pool.run(DOUBLE, [TEST]).fraction == 1.0
        (first,) = pool._started
        os.kill(first.process.pid, signal.SIGKILL)
        first.process.wait()
        assert pool.run(DOUBLE, [TEST]).fraction == 1.0
        assert pool._started[-1] is not first


def test_close_and_use_again(isolation: str) -> None:
    pool = Sandbox(1)
    assert not pool._started, "workers start at the first use"
    for _ in range(2):
        assert pool.run(DOUBLE, [TEST]).fraction == 1.0
        (worker,) = pool._started
        pool.close()
        assert not worker.alive()


def test_pickled_and_forked_copies_have_workers_of_their_own(isolation: str) -> None:
    with Sandbox(1, memory_mb=128) as pool:
        pool.run(DOUBLE)
        copy = pickle.loads(pickle.dumps(pool))
        assert copy._settings == pool._settings
        assert not copy._started
        with copy:
            assert copy.run(DOUBLE, [TEST]).fraction == 1.0
        child = os.fork()
        if child == 0:
            code = 1
            try:
                code = 0 if pool.run(DOUBLE, [TEST]).fraction == 1.0 else 2
                pool.close()
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        assert pool.run(DOUBLE, [TEST]).fraction == 1.0


@pytest.mark.parametrize("end", ["pass", "os._exit(0)", "os.kill(os.getpid(), 9)"])
def test_workers_end_with_their_process(isolation: str, end: str) -> None:
    script = f"""
    import os
    from reward_models.sandbox import Sandbox
    pool = Sandbox(1)
    pool.run("x = 1")
    print(pool._started[0].process.pid, flush=True)
    {end}
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    worker = Path(f"/proc/{int(done.stdout)}")
    deadline = time.monotonic() + 10
    while worker.exists() and "Z" not in (worker / "stat").read_text().rpartition(")")[2][:3]:
        assert time.monotonic() < deadline, "the worker has outlived its process"
        time.sleep(0.05)


def test_packages_can_be_made_readable(isolation: str, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)  # a trainer that is root runs programs as another user
    (tmp_path / "helpful.py").write_text("VALUE = 7\n")
    (tmp_path / "helpful.py").chmod(0o666)
    program = "import helpful\ndef solve(n): return helpful.VALUE"
    with Sandbox(1, readable=[str(tmp_path)]) as pool:
        assert pool.run(program, calls=["solve(0)"]).values == (7,)
        stained = pool.run(f"open({str(tmp_path / 'helpful.py')!r}, 'a').write('#')")
        assert "Read-only" in stained.detail
    with Sandbox(1) as pool:
        assert "ModuleNotFoundError" in pool.run(program).detail


def test_a_strict_umask_does_no_harm(isolation: str) -> None:
    before = os.umask(0o077)
    try:
        with Sandbox(1) as pool:
            assert pool.run("import wave\nopen('f', 'w').write('x')").status == "ok"
    finally:
        os.umask(before)


def test_no_isolation_is_refused_in_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Worker:
        def __init__(self, settings: object) -> None:
            raise PermissionError(1, "unshare: Operation not permitted")

    monkeypatch.setattr(pool_module, "Worker", Worker)
    monkeypatch.delenv("RLGEN_SANDBOX_ISOLATION", raising=False)
    with pytest.raises(SandboxUnavailable) as caught:
        Sandbox().run(DOUBLE)
    message = str(caught.value)
    assert "\n" not in message
    for part in ("cannot be isolated", "namespaces: ", "bubblewrap: ", "not permitted", 'isolation="none"', "=none"):
        assert part in message


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs the program unshare")
def test_where_the_kernel_refuses_the_sandbox_refuses(tmp_path: Path) -> None:
    """In a user namespace that allows no further ones, as a hardened machine or a container does."""
    probe = ["unshare", "--user", "--map-root-user", "sh", "-c"]
    forbid = "echo 0 > /proc/sys/user/max_user_namespaces"
    if subprocess.run([*probe, forbid], capture_output=True).returncode:
        pytest.skip("user namespaces cannot be forbidden here")
    script = """
    import sys
    from reward_models.sandbox import Sandbox, SandboxUnavailable, available_isolation
    try:
        Sandbox(isolation="namespaces").run("open('/tmp/never', 'w')")
    except SandboxUnavailable as error:
        assert "unshare: No space left on device" in str(error), error
        sys.exit(33)
    """
    (tmp_path / "script.py").write_text(textwrap.dedent(script))
    python = f"PYTHONPATH={ROOT} {sys.executable} {tmp_path / 'script.py'}"
    done = subprocess.run([*probe, f"{forbid}; {python}"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 33, done.stderr


def test_no_isolation_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLGEN_SANDBOX_ISOLATION", "none")
    with Sandbox(1, wall_seconds=1.5, cpu_seconds=1, memory_mb=64) as pool:
        assert pool.isolation == "none"
        assert pool.run(DOUBLE, [TEST]).fraction == 1.0
        folder = pool.run("import os\ndef solve(n): return os.getcwd()", calls=["solve(0)"]).values[0]
        assert not Path(folder).exists(), "the working directory is removed"
        for program in ("while True: pass", "import os\nos._exit(0)", "x = bytearray(10**11)"):
            assert pool.run(program, [TEST]).fraction == 0.0
        assert pool.run(DOUBLE, [TEST]).fraction == 1.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"isolation": "chroot"}, "no isolation 'chroot'"),
        ({"workers": 0}, "workers must be above 0"),
        ({"memory_mb": -1}, "memory_mb must be above 0"),
        ({"wall_seconds": float("nan")}, "wall_seconds must be above 0"),
        ({"processes": -1}, "must not be below 0"),
        ({"readable": ["/no/such/folder"]}, "there is no /no/such/folder"),
    ],
)
def test_bad_options(options: dict, message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(ValueError, match=message):
        Sandbox(**options)


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
def test_bubblewrap_isolates_too() -> None:
    look = "import os\ndef solve(n): return os.getuid(), os.listdir('.'), os.path.exists('/etc/passwd')"
    with Sandbox(1, wall_seconds=5, isolation="bubblewrap") as pool:
        assert pool.run(DOUBLE, [TEST]).fraction == 1.0
        assert pool.run(look, calls=["solve(0)"]).values == ((1000, [], False),)
        assert pool.run("import os\nos.fork()", [TEST]).status == "error"
        assert pool.run("import os\nos._exit(0)", [TEST]).tests == (False,)
