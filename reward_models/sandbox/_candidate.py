"""The process that runs what a model wrote. It holds the program and arguments of calls, never an expected value."""

from __future__ import annotations

import io
import json
import random
import sys
import types
from collections import deque
from collections.abc import Callable
from typing import Any

from reward_models.sandbox._wire import decode, encode, read_frame, send

_MAX_CAPTURED = 2**16  # characters of what a call prints that go back for doctests
_MUTABLE = (list, dict, set, bytearray, deque)


class _Tee(io.TextIOBase):
    """Writes on, and keeps what is written."""

    def __init__(self, below: Any) -> None:
        self.below, self.kept = below, ""

    def write(self, text: str) -> int:
        """Write text to both places."""
        if len(self.kept) < _MAX_CAPTURED:
            self.kept += text
        return int(self.below.write(text))

    def flush(self) -> None:
        """Flush the place below."""
        self.below.flush()


class _Objects:
    """Objects that the tests hold by a number, and what may be done with them."""

    def __init__(self, namespace: dict[str, Any]) -> None:
        self.namespace = namespace
        self.known: dict[int, Any] = {}
        self.operations: dict[str, Callable[..., Any]] = {
            "get": self.get,
            "call": lambda function, args, kwargs: function(*args, **kwargs),
            "attribute": getattr,
            "item": lambda container, key: container[key],
            "iterate": iter,
            "next": next,
            "length": len,
            "text": str,
            "form": repr,
        }

    def get(self, name: str) -> Any:
        """A name of the program."""
        if name not in self.namespace:
            raise NameError(f"name '{name}' is not defined")
        return self.namespace[name]

    def handle(self, value: Any) -> int:
        """Keep an object and give it a number."""
        self.known[id(value)] = value
        return id(value)


def serve(program: str, name: str, requests: int, responses: int) -> None:
    """Run a program, then answer the tests' requests until they end.

    Args:
        program: Python source.
        name: the program's `__name__`.
        requests: descriptor that they come from.
        responses: descriptor for the answers.
    """
    module = types.ModuleType(name)
    sys.modules[name] = module
    sys.argv = ["program.py"]
    random.seed(0)  # the same text gets the same reward in every worker
    answer = _attempt(lambda: exec(compile(program, "<program>", "exec"), module.__dict__))
    send(responses, answer)
    objects = _Objects(module.__dict__)
    while True:
        try:
            request = json.loads(read_frame(requests))
        except EOFError:
            sys.stdout.flush()
            return
        try:
            answer = _answer(objects, request)
        except BaseException as error:
            answer = _described(error)
        send(responses, answer)


def _answer(objects: _Objects, request: dict[str, Any]) -> dict[str, Any]:
    operation = objects.operations[request["operation"]]
    operands = decode(request["operands"], objects.known.__getitem__)
    below, sys.stdout = sys.stdout, _Tee(sys.stdout)
    tee = sys.stdout
    try:
        value: Any = None

        def run() -> None:
            nonlocal value
            value = operation(*operands)

        answer = _attempt(run)
    finally:
        sys.stdout = below
    if "raised" not in answer:
        answer["value"] = encode(value, objects.handle)
        # What works in place returns nothing; what returns something has no business with the tests' own lists.
        if request["operation"] == "call" and value is None:
            changed = [(i, arg) for i, arg in enumerate(operands[1]) if isinstance(arg, _MUTABLE)]
            answer["changed"] = [[index, encode(arg, objects.handle)] for index, arg in changed]
    if tee.kept:
        answer["printed"] = tee.kept[:_MAX_CAPTURED]
    return answer


def _attempt(action: Callable[[], Any]) -> dict[str, Any]:
    try:
        action()
    except BaseException as error:
        return _described(error)
    finally:
        sys.stdout.flush()
    return {}


def _described(error: BaseException) -> dict[str, Any]:
    try:
        text = str(error)[:500]
    except BaseException:
        text = ""
    if isinstance(error, SyntaxError):
        text = f"{error.msg} (line {error.lineno})"
    return {"raised": type(error).__name__, "text": text.encode("utf-8", "replace").decode()}
