"""Values between processes that don't trust each other: JSON with types, decoded to plain Python without running code.

Subclasses arrive as their base (a named tuple as a tuple), so that no `__eq__` of the other side comes along.
"""

from __future__ import annotations

import builtins
import json
import os
import struct
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Any

MAX_MESSAGE = 16 * 2**20  # bytes
_SMALL = 2**53  # integers up to here are written as they are, larger ones as hexadecimal digits
_HEADER = struct.Struct("!I")


class Unsendable(TypeError):
    """A value that has no plain form."""


def encode(value: Any, handle: Callable[[Any], Any] | None = None) -> Any:
    """Turn a value into what JSON can carry.

    Args:
        value: built of Python's plain types, or anything that `handle` can name.
        handle: gives an object of another type a name that the other side can use; without it they are refused.

    Raises:
        Unsendable: the value has no plain form.
        RecursionError: it is nested too deeply, or holds itself.
    """
    if value is None or isinstance(value, (bool, float)):
        return float(value) if isinstance(value, float) else value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int(value) if -_SMALL < value < _SMALL else {"hex": hex(value)}
    if isinstance(value, dict):
        kind = {Counter: "Counter", OrderedDict: "OrderedDict"}.get(type(value), "dict")
        return {kind: [[encode(key, handle), encode(item, handle)] for key, item in dict.items(value)]}
    for kind_of, name in ((list, "list"), (tuple, "tuple"), (set, "set"), (frozenset, "frozenset"), (deque, "deque")):
        if isinstance(value, kind_of):
            return {name: [encode(item, handle) for item in value]}
    if isinstance(value, (bytes, bytearray)):
        return {"bytes" if isinstance(value, bytes) else "bytearray": value.hex()}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, range):
        return {"range": [encode(part) for part in (value.start, value.stop, value.step)]}
    if isinstance(value, Decimal):
        return {"Decimal": str(value)}
    if isinstance(value, Fraction):
        return {"Fraction": [encode(value.numerator), encode(value.denominator)]}
    if isinstance(value, type) and value in vars(builtins).values():
        return {"type": value.__name__}
    if handle is None:
        raise Unsendable(f"a {type(value).__name__} cannot be sent to another process")
    return {"handle": handle(value)}


def decode(data: Any, handle: Callable[[Any], Any] | None = None) -> Any:
    """Turn what `encode` wrote into values of exactly Python's own types.

    Args:
        data: from JSON, and from anyone.
        handle: makes an object of the name of a handle; without it handles are refused.

    Raises:
        ValueError: the data are none of `encode`'s, or too deep.
    """
    try:
        return _decode(data, handle)
    except (TypeError, KeyError, AttributeError, ArithmeticError, RecursionError) as error:
        raise ValueError(f"no value: {type(error).__name__}") from error


def _decode(data: Any, handle: Callable[[Any], Any] | None) -> Any:
    if not isinstance(data, dict):
        if isinstance(data, list):
            raise ValueError("a bare list")
        return data
    ((kind, content),) = data.items()
    if kind in ("list", "tuple", "set", "frozenset", "deque", "range", "Fraction", "complex"):
        items = [_decode(item, handle) for item in content]
        many: dict[str, Callable[..., Any]] = {
            "list": list, "tuple": tuple, "set": set, "frozenset": frozenset, "deque": deque
        }  # fmt: skip
        several: dict[str, Callable[..., Any]] = {"range": range, "Fraction": Fraction, "complex": complex}
        return many[kind](items) if kind in many else several[kind](*items)
    if kind in ("dict", "OrderedDict", "Counter"):
        pairs = {_decode(key, handle): _decode(item, handle) for key, item in content}
        return {"dict": dict, "OrderedDict": OrderedDict, "Counter": Counter}[kind](pairs)
    if kind in ("bytes", "bytearray"):
        return bytes.fromhex(content) if kind == "bytes" else bytearray.fromhex(content)
    if kind == "hex":
        return int(content, 16)
    if kind == "Decimal":
        return Decimal(content)
    if kind == "type" and isinstance(vars(builtins)[content], type):
        return vars(builtins)[content]
    if kind == "handle" and handle is not None:
        return handle(content)
    raise ValueError(f"an unknown kind of value: {kind}")


def read_frame(descriptor: int) -> bytes:
    """Read the bytes that `send` wrote after their length.

    Raises:
        EOFError: the other side is gone.
        ValueError: it announces more than `MAX_MESSAGE` bytes.
    """
    (size,) = _HEADER.unpack(_read(descriptor, _HEADER.size))
    if size > MAX_MESSAGE:
        raise ValueError(f"a message of {size} bytes; at most {MAX_MESSAGE} are read")
    return _read(descriptor, size)


def _read(descriptor: int, size: int) -> bytes:
    parts = []
    while size:
        part = os.read(descriptor, min(size, 2**20))
        if not part:
            raise EOFError
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def frame(data: Any) -> bytes:
    """What JSON can carry, as a length and its bytes."""
    body = json.dumps(data).encode()
    return _HEADER.pack(len(body)) + body


def send(descriptor: int, data: Any) -> None:
    """Write what JSON can carry as one frame."""
    rest = memoryview(frame(data))
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def frames(data: bytes) -> Iterator[Any]:
    """What the whole frames in some bytes hold.

    Raises:
        ValueError: a frame holds no JSON.
    """
    start = 0
    while start + _HEADER.size <= len(data):
        (size,) = _HEADER.unpack_from(data, start)
        start += _HEADER.size
        if start + size <= len(data):
            yield json.loads(data[start : start + size])
        start += size
