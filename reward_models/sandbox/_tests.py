"""The process that runs the tests. Names of the program stand for calls into the other process (`_candidate`).

What the program returns arrives as new values of Python's own types, so that nothing of the model's code runs where
the verdict is reached, and expected values never are where the model's code runs.
"""

from __future__ import annotations

import ast
import builtins
import doctest
import importlib
import io
import json
import os
import select
import signal
import sys
from collections import deque
from collections.abc import Iterator
from typing import Any

from reward_models.sandbox._wire import Unsendable, decode, encode, read_frame, send


class CandidateGone(BaseException):
    """The program's process has ended or talks nonsense."""


class Link:
    """The way to the program's process."""

    def __init__(self, requests: int, responses: int, process: int, cpu_seconds: float) -> None:
        self.requests, self.responses, self.process = requests, responses, process
        self.cpu_seconds = cpu_seconds
        self.gone: tuple[str, str] | None = None
        self._ended = os.pidfd_open(process) if hasattr(os, "pidfd_open") else responses

    def receive(self) -> dict[str, Any]:
        """Read one answer; `CandidateGone` if none comes."""
        if self.gone:
            raise CandidateGone
        try:
            ready, _, _ = select.select([self.responses, self._ended], [], [])
            if self.responses in ready:
                answer = json.loads(read_frame(self.responses))
                if isinstance(answer, dict):
                    return answer
        except (EOFError, ValueError, OSError, RecursionError, MemoryError):
            pass
        self.gone = self._cause()
        raise CandidateGone

    def ask(self, operation: str, *operands: Any) -> Any:
        """Have something done in the program's process; what is raised there is raised here, if it is Python's own."""
        if self.gone:
            raise CandidateGone
        try:
            message = {"operation": operation, "operands": encode(operands, _handle_of)}
            send(self.requests, message)
        except OSError:
            self.gone = self._cause()
            raise CandidateGone from None
        answer = self.receive()
        try:
            if answer.get("printed"):
                sys.stdout.write(str(answer["printed"]))
            if "raised" in answer:
                raise _exception(str(answer["raised"]), str(answer.get("text", "")))
            value = decode(answer["value"], self._object)
            if value is None and operation == "call":
                for index, content in answer.get("changed", ()):
                    _replace(operands[1][index], decode(content, self._object))
        except (ValueError, KeyError, TypeError, IndexError) as error:
            if "raised" in answer:
                raise
            raise _exception("ValueError", f"the program's answer cannot be read: {error}") from None
        return value

    def _object(self, name: Any) -> Object:
        return Object(self, int(name))

    def _cause(self) -> tuple[str, str]:
        os.kill(self.process, signal.SIGKILL)
        _, status, usage = os.wait4(self.process, 0)
        if os.WIFEXITED(status):
            return "exited", f"the program left with exit code {os.WEXITSTATUS(status)}"
        name = signal.Signals(os.WTERMSIG(status)).name
        if usage.ru_utime + usage.ru_stime >= 0.8 * self.cpu_seconds:  # the kernel counts in ticks
            return "timeout", f"the program used up its {self.cpu_seconds:g} s of processor time"
        return "crashed", f"the program was ended by {name}"


class Object:
    """An object in the program's process. It equals only itself, has no truth value, and shows itself as there."""

    __slots__ = ("_link", "_name")

    def __init__(self, link: Link, name: int) -> None:
        self._link, self._name = link, name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._link.ask("call", self, list(args), kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._link.ask("attribute", self, name)

    def __getitem__(self, key: Any) -> Any:
        return self._link.ask("item", self, key)

    def __iter__(self) -> Iterator[Any]:
        walk = self._link.ask("iterate", self)
        while True:
            try:
                yield self._link.ask("next", walk)
            except StopIteration:
                return

    def __next__(self) -> Any:
        return self._link.ask("next", self)

    def __len__(self) -> int:
        return int(self._link.ask("length", self))

    def __bool__(self) -> bool:
        raise TypeError("the program returned an object where a plain value was expected")

    def __str__(self) -> str:
        return str(self._link.ask("text", self))

    def __repr__(self) -> str:
        return str(self._link.ask("form", self))


def _handle_of(value: Any) -> int:
    if isinstance(value, Object):
        return value._name
    raise Unsendable(f"a {type(value).__name__} cannot be given to the program")


def _exception(name: str, text: str) -> Exception:
    kind = vars(builtins).get(name)
    if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, (UnicodeError, SyntaxError)):
        return kind(text)
    made = type(name if name.isidentifier() else "Error", (Exception,), {})
    error: Exception = made(text)
    return error


def _replace(old: Any, new: Any) -> None:
    if type(old) is not type(new) or old == new:
        return
    if isinstance(old, (list, bytearray)):
        old[:] = new
    elif isinstance(old, (dict, set)):
        old.clear()
        old.update(new)
    elif isinstance(old, deque):
        old.clear()
        old.extend(new)


class _Examples(doctest.DocTestRunner):
    """Counts examples that expect something; the others prepare."""

    def __init__(self) -> None:
        super().__init__(verbose=False, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.IGNORE_EXCEPTION_DETAIL)
        self.verdicts: list[tuple[bool, str]] = []

    def report_start(self, out: Any, test: Any, example: Any) -> None:
        """Say nothing."""

    def report_success(self, out: Any, test: Any, example: Any, got: str) -> None:
        """Count a success."""
        if _expects(example):
            self.verdicts.append((True, ""))

    def report_failure(self, out: Any, test: Any, example: Any, got: str) -> None:
        """Count a failure."""
        if _expects(example):
            self.verdicts.append((False, f"expected {example.want.strip()[:200]}, got {got.strip()[:200]}"))

    def report_unexpected_exception(self, out: Any, test: Any, example: Any, exc_info: Any) -> None:
        """Count an example that raised."""
        if isinstance(exc_info[1], Unsendable):
            raise exc_info[1]
        if _expects(example):
            self.verdicts.append((False, f"{exc_info[0].__name__}: {exc_info[1]}"[:400]))


def _expects(example: doctest.Example) -> bool:
    return bool(example.want) or example.exc_msg is not None


def run_tests(job: dict[str, Any], link: Link, result: int) -> None:
    """Run setup, calls and tests of a job, and write one frame for each verdict.

    Args:
        job: `setup`, `tests`, `calls` and `entry_point`, as `Sandbox.run` has them.
        link: to the program, which has been loaded.
        result: descriptor that the verdicts go to; the program's process does not have it.
    """

    def report(**verdict: Any) -> None:
        send(result, verdict)

    sys.stdout = sys.stderr = io.StringIO()
    tests, calls, entry_point = job["tests"], job["calls"], job["entry_point"]
    names: dict[str, Any] = {"__name__": "tests"}
    broken = "the setup of the tests fails"
    try:
        exec(compile(job["setup"], "<setup>", "exec"), names)
        broken = "tests or calls are no valid Python"
        _provide(names, [*tests, *calls], entry_point, link)
    except CandidateGone:
        return
    except BaseException as error:
        report(broken=f"{broken}: {type(error).__name__}: {error}"[:400])
        return
    for call in calls:
        try:
            value = eval(compile(call, "<call>", "eval"), names)
            report(value=encode(str(value) if isinstance(value, Object) else value))
        except BaseException as error:
            report(failed=_shown(error, link))
    for number, test in enumerate(tests):
        try:
            for passed, detail in _verdicts(test, names, entry_point):
                report(test=number, passed=passed, detail=detail)
        except Unsendable as error:
            report(test=number, passed=None, detail=str(error))
        except BaseException as error:
            report(test=number, passed=False, detail=_shown(error, link))


def _shown(error: BaseException, link: Link) -> str:
    if isinstance(error, CandidateGone) and link.gone:
        return link.gone[1]
    try:
        return f"{type(error).__name__}: {error}"[:400]
    except BaseException:
        return type(error).__name__


def _verdicts(test: str, names: dict[str, Any], entry_point: str | None) -> list[tuple[bool, str]]:
    if is_doctest(test):
        runner = _Examples()
        runner.run(doctest.DocTestParser().get_doctest(test, names, "tests", None, None), clear_globs=False)
        return runner.verdicts
    exec(compile(test, "<test>", "exec"), names)
    if defines_check(test) and entry_point:
        names["check"](names[entry_point])
    return [(True, "")]


def is_doctest(test: str) -> bool:
    """Whether a test is doctest examples, and not statements."""
    return test.lstrip().startswith(">>>") or "\n>>> " in test


def defines_check(test: str) -> bool:
    """Whether a test is HumanEval's: a function `check` that takes the candidate and is not called yet."""
    return "def check(" in test and "\ncheck(" not in test


def expected_verdicts(test: str) -> int:
    """How many verdicts a test gives: one, or one for each doctest example that expects something."""
    if not is_doctest(test):
        return 1
    return sum(map(_expects, doctest.DocTestParser().get_examples(test)))


def _provide(names: dict[str, Any], sources: list[str], entry_point: str | None, link: Link) -> None:
    """Add the names that the tests read and don't make: modules of the library, and names of the program.

    Never builtins and what the setup defines: a program could otherwise replace `abs` or a checker by its own.
    """
    read: set[str] = set()
    made: set[str] = set()
    modules: set[str] = set()
    for source in sources:
        for node in ast.walk(ast.parse(_plain(source))):
            if isinstance(node, ast.Name):
                (read if isinstance(node.ctx, ast.Load) else made).add(node.id)
            elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                made.add(node.name)
            elif isinstance(node, ast.arg):
                made.add(node.arg)
            elif isinstance(node, ast.alias):
                made.add((node.asname or node.name).split(".")[0])
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                modules.add(node.value.id)
    wanted = read - made - set(names) - set(vars(builtins))
    for name in sorted(wanted & modules & sys.stdlib_module_names - {entry_point}):
        names[name] = importlib.import_module(name)
    for name in sorted((wanted - set(names)) | ({entry_point} if entry_point else set())):
        try:
            names[name] = link.ask("get", name)
        except Exception:  # whatever the program raises at this: to the tests it has no such name
            names.pop(name, None)


def _plain(source: str) -> str:
    if not is_doctest(source):
        return source
    return "".join(example.source for example in doctest.DocTestParser().get_examples(source))
