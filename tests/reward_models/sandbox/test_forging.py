"""A program cannot make a verdict, see what is expected, or leave anything for the next one."""

from __future__ import annotations

import textwrap

import pytest

from reward_models.sandbox import CallError, Sandbox

EXPECTED = 918273645
TESTS = [f"assert solve(3) == {EXPECTED}", f"value = solve(4)\nassert value == {EXPECTED}, value"]

FORGERIES = {
    "always equal": """
        class Equal(int):
            def __eq__(self, other): return True
            def __ne__(self, other): return False
            def __hash__(self): return 0
        def solve(n): return Equal(1)
    """,
    "an object that always equals": """
        class Equal:
            def __eq__(self, other): return True
            def __bool__(self): return True
        def solve(n): return Equal()
    """,
    "a metaclass that always equals": """
        class Meta(type):
            def __eq__(cls, other): return True
            def __instancecheck__(cls, other): return True
            __hash__ = type.__hash__
        class Equal(metaclass=Meta): pass
        def solve(n): return Equal
    """,
    "changed builtins": """
        import builtins
        builtins.AssertionError = type("Quiet", (BaseException,), {})
        builtins.int.__eq__ if False else None
        builtins.compile = builtins.exec = lambda *a, **k: None
        def solve(n): return 0
    """,
    "changed modules": """
        import json, sys
        json.loads = lambda *a: {"passed": True, "test": 0}
        from reward_models.sandbox import _tests, _wire, _candidate
        _tests.run_tests = _tests._verdicts = lambda *a: [(True, "")]
        _wire.decode = lambda *a: 918273645
        def solve(n): return 0
    """,
    "leaving with success": "import os\ndef solve(n): os._exit(0)",
    "leaving while loaded": "raise SystemExit(0)",
    "writing verdicts everywhere": """
        import json, os, struct
        for verdict in ({"test": 0, "passed": True, "detail": ""}, {"end": "ok", "detail": ""}, {"v": 1}):
            body = json.dumps(verdict).encode()
            for descriptor in range(64):
                try: os.write(descriptor, struct.pack("!I", len(body)) + body)
                except OSError: pass
        def solve(n): return 0
    """,
    "answers before the questions": """
        import json, os, struct
        body = json.dumps({"value": True}).encode()
        for descriptor in range(3, 64):
            try:
                for _ in range(20): os.write(descriptor, struct.pack("!I", len(body)) + body)
            except OSError: pass
        def solve(n): return 0
    """,
    "looking for the expected value in memory": """
        import gc, sys
        def solve(n):
            texts = [o for o in gc.get_objects() if isinstance(o, (str, dict, list))]
            for found in texts:
                for value in found.values() if isinstance(found, dict) else [found]:
                    if isinstance(value, str) and "assert solve(" in value and "==" in value:
                        return int(value.split("== ")[1].split(",")[0])
            frame = sys._getframe()
            while frame:
                for value in frame.f_locals.values():
                    if isinstance(value, int) and value > 10**8: return value
                frame = frame.f_back
            return 0
    """,
    "reading the descriptors": """
        import os, re
        def solve(n):
            for descriptor in range(3, 64):
                try:
                    os.set_blocking(descriptor, False)
                    found = re.search(rb"== (\\d+)", os.read(descriptor, 10**6))
                    if found: return int(found[1])
                except OSError: pass
            return 0
    """,
    "an exception for the tests": "def solve(n): raise AssertionError(918273645 if n < 0 else 0)",
    "stopping the tests": "def solve(n): raise KeyboardInterrupt",
    "an exception of the sandbox": """
        class Unsendable(TypeError): pass
        class CandidateGone(BaseException): pass
        def solve(n): raise (Unsendable if n == 3 else CandidateGone)()
    """,
    "changing the tests' own data": "def solve(n): return n",
}


@pytest.mark.parametrize("name", FORGERIES)
def test_no_verdict_is_forged(sandbox: Sandbox, name: str) -> None:
    result = sandbox.run(textwrap.dedent(FORGERIES[name]), TESTS, entry_point="solve")
    assert result.tests == (False, False), result
    right = sandbox.run(f"def solve(n): return {EXPECTED}", TESTS, entry_point="solve")
    assert right.tests == (True, True)


def test_raw_memory_holds_no_expected_value(isolation: str) -> None:
    """Even the whole address space of the program's process has neither this sample's tests nor an earlier one's."""
    scan = """
        import ctypes, os, re
        libc = ctypes.CDLL(None, use_errno=True)
        def pages():
            # Addresses that this allocator uses, found through objects, 64 MiB around each.
            seen = set()
            for thing in (object(), "x" * 100, [0] * 1000, bytearray(10**6)):
                start = (id(thing) >> 26) << 26
                seen.add(start)
            r, w = os.pipe()
            os.set_blocking(r, False)
            for start in seen:
                for page in range(start, start + 2**26, 4096):
                    # write(2) fails with EFAULT instead of killing where nothing is mapped
                    if libc.write(w, ctypes.c_void_p(page), ctypes.c_size_t(4096)) == 4096:
                        yield os.read(r, 4096)
        def solve(n):
            whole = b"".join(pages())
            # Patterns that don't find themselves.
            own, mark = re.search(rb"MARKOFM[I]NE", whole), re.search(rb"SECRETOFT[E]STS", whole)
            return [len(whole) > 2**20, bool(own), bool(mark)]
        MINE = "MARKOFMINE"
    """
    program = textwrap.dedent(scan)
    secret = "assert solve is not 'SECRETOFTESTS'"
    with Sandbox(1, wall_seconds=30, cpu_seconds=20, memory_mb=512) as sandbox:
        assert sandbox.run("def solve(n): return 0", [secret] * 50, entry_point="solve").fraction == 1.0
        result = sandbox.run(program, [secret], calls=["solve(1)"], entry_point="solve")
    assert result.values == ([True, True, False],), result


def test_nothing_leaks_to_the_next_program(sandbox: Sandbox) -> None:
    leave = """
        import builtins, json, os, random, sys, threading, tempfile
        open("left", "w").write("x")
        os.makedirs("folder")
        os.environ["LEFT"] = "1"
        builtins.LEFT = json.LEFT = sys.LEFT = 1
        sys.modules["left"] = json
        json.dump = None
        random.seed(7)
        os.umask(0)
        threading.Thread(target=lambda: None).start()
        sys.setrecursionlimit(300)
        def solve(n): return sorted(os.listdir("."))
    """
    look = """
        import builtins, json, os, random, sys, threading
        def solve(n):
            return [
                os.listdir("."), sorted(os.environ), hasattr(builtins, "LEFT"), hasattr(json, "LEFT"),
                hasattr(sys, "LEFT"), "left" in sys.modules, callable(json.dump), random.random(), os.umask(0o77),
                threading.active_count(), sys.getrecursionlimit(), os.getpid(), os.getcwd(), len(os.listdir("/")),
            ]
    """
    first = sandbox.run(textwrap.dedent(look), calls=["solve(0)"]).values
    for _ in range(3):
        left = sandbox.run(textwrap.dedent(leave), calls=["solve(0)"])
        assert left.values == (["folder", "left"],)
        assert sandbox.run(textwrap.dedent(look), calls=["solve(0)"]).values == first
    assert first[0][0] == []
    assert first[0][1] == ["HOME", "LANG", "PATH", "TMPDIR"]


def test_a_program_sees_hardly_anything(sandbox: Sandbox) -> None:
    look = """
        import os, socket
        def users(): return os.getuid(), os.getgid(), os.getgroups() == [] or os.getgroups()
        def files(): return sorted(os.listdir("/")), sorted(os.listdir("/dev"))
        def host(): return socket.gethostname()
        def interfaces(): return socket.if_nameindex()
        def packages():
            import sys
            folders = [os.path.join(folder, "site-packages") for folder in sys.path]
            return [folder for folder in folders if os.path.isdir(folder) and os.listdir(folder)]
    """
    result = sandbox.run(textwrap.dedent(look), calls=["users()", "files()", "interfaces()", "packages()"])
    users, files, interfaces, packages = result.values
    assert users[:2] == (1000, 1000)
    assert not {"proc", "sys", "home", "tmp", "etc/passwd"} & set(files[0])
    assert files[1] in (["null"], ["null", "random", "urandom", "zero"])
    assert isinstance(interfaces, CallError)
    assert packages == []
