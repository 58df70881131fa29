"""What passes between the processes: values come back as they went, and nonsense is an error and nothing more."""

from __future__ import annotations

import json
import os
import re
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reward_models.sandbox import _linux
from reward_models.sandbox._wire import Unsendable, decode, encode, frame, frames, read_frame, send

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(st.characters()), st.binary()
)
hashable = st.recursive(
    scalars, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3), max_leaves=5
)
values = st.recursive(
    hashable,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(hashable, inner, max_size=3) | st.tuples(inner),
    max_leaves=12,
)
documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["list", "dict", "set", "type", "hex", "range", "bytes", "handle", "Decimal", "Fraction"]),
            inner,
            max_size=1,
        )
    ),
    max_leaves=8,
)


@settings(max_examples=50)
@given(values)
def test_values_come_back(value: object) -> None:
    back = decode(json.loads(json.dumps(encode(value))))
    assert back == value
    assert type(back) is type(value)


@settings(max_examples=50)
@given(documents)
def test_nonsense_is_a_value_or_an_error(document: object) -> None:
    try:
        value = decode(document)
    except ValueError:
        return
    encode(value)


def test_subclasses_arrive_as_their_base() -> None:
    class Liar(int):
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = int.__hash__

    class Text(str):
        def __str__(self) -> str:
            return "other"

    assert type(decode(encode(Liar(3)))) is int
    assert decode(encode(Text("text"))) == "text"
    assert decode(encode([Liar(3)])) != [4]


def test_what_has_no_plain_form() -> None:
    with pytest.raises(Unsendable, match="function cannot be sent"):
        encode(lambda: None)
    assert encode(len, id) == {"handle": id(len)}
    with pytest.raises(ValueError, match="unknown kind"):
        decode({"handle": 3})
    with pytest.raises(ValueError, match="no value"):
        decode({"type": "no_such"})
    with pytest.raises(ValueError, match="unknown kind"):
        decode({"type": "print"})


def test_frames() -> None:
    read, write = os.pipe()
    send(write, {"a": [1]})
    assert json.loads(read_frame(read)) == {"a": [1]}
    os.write(write, struct.pack("!I", 2**31))
    with pytest.raises(ValueError, match="at most"):
        read_frame(read)
    os.close(write)
    with pytest.raises(EOFError):
        read_frame(read)
    os.close(read)
    whole = frame(1) + frame("two")
    assert list(frames(whole)) == [1, "two"]
    assert list(frames(whole[:-1])) == [1]


def run_filter(program: bytes, machine: int, number: int, first: int = 0) -> int:
    """A slow interpreter of the filter's instructions, written from the kernel's documentation."""
    architecture = (0xC000003E, 0xC00000B7)[machine]
    data = {0: number, 4: architecture, 16: first & 0xFFFFFFFF}
    code = [struct.unpack_from("HBBI", program, at) for at in range(0, len(program), 8)]
    at, accumulator = 0, 0
    while True:
        operation, if_true, if_false, constant = code[at]
        at += 1
        if operation == 0x06:
            return constant
        if operation == 0x20:
            accumulator = data[constant]
            continue
        holds = {0x15: accumulator == constant, 0x35: accumulator >= constant, 0x45: bool(accumulator & constant)}
        at += if_true if holds[operation] else if_false


ALLOW, EPERM, ENOSYS = 0x7FFF0000, 0x00050001, 0x00050026


@pytest.mark.parametrize("machine", [0, 1])
@pytest.mark.parametrize("processes", [False, True])
def test_the_filter_refuses_what_is_listed_and_nothing_else(machine: int, processes: bool) -> None:
    program = _linux.filter_program(processes, machine)
    refused = {numbers[machine] for numbers in _linux._DENIED.values()} - {None}
    special = {numbers[machine] for numbers in (_linux._FORK, _linux._CLONE, _linux._CLONE3)}
    special |= {_linux._PRLIMIT64[machine], _linux._SOCKETPAIR[machine]}
    for number in range(470):
        if number not in special:
            assert run_filter(program, machine, number) == (EPERM if number in refused else ALLOW), number
    clone = _linux._CLONE[machine]
    thread, process = 0x3D0F00, 0x1200011
    assert run_filter(program, machine, clone, thread) == ALLOW
    assert run_filter(program, machine, clone, process) == (ALLOW if processes else EPERM)
    for flag in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert run_filter(program, machine, clone, flag | thread) == EPERM
    assert run_filter(program, machine, _linux._CLONE3[machine]) == ENOSYS
    assert run_filter(program, machine, _linux._PRLIMIT64[machine], 0) == ALLOW
    assert run_filter(program, machine, _linux._PRLIMIT64[machine], 1) == EPERM
    assert run_filter(program, machine, _linux._SOCKETPAIR[machine], 1) == ALLOW
    assert run_filter(program, machine, _linux._SOCKETPAIR[machine], 2) == EPERM
    if machine == 0:
        assert run_filter(program, 0, 0x40000000 + 41) == EPERM
        assert run_filter(program, 0, _linux._FORK[0]) == (ALLOW if processes else EPERM)


@pytest.mark.parametrize(("column", "pattern"), [(0, "*/asm/unistd_64.h"), (1, "asm-generic/unistd.h")])
def test_the_numbers_are_the_kernels(column: int, pattern: str) -> None:
    headers = sorted(Path("/usr/include").glob(pattern))
    if not headers:
        pytest.skip("the kernel's headers are not installed")
    kernel = dict(re.findall(r"#define __NR_(\w+)\s+(\d+)", headers[0].read_text()))
    for name, numbers in _linux._DENIED.items():
        if numbers[column] is not None and name in kernel:
            assert numbers[column] == int(kernel[name]), name
