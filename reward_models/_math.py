"""Whether two answers are the same mathematics: cheaply where they are numbers, through math-verify otherwise."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import select
import subprocess
import sys
import threading
import unicodedata
from fractions import Fraction
from pathlib import Path

TIMEOUT = 5.0  # seconds a comparison may take
START_TIMEOUT = 120.0  # seconds the worker may take to import its libraries on a busy machine
MAX_ANSWER = 200  # characters; a longer "answer" is no answer

_NUMBER = re.compile(r"([+-]?)(\d{1,3}(?:,\d{3})+|\d+)?(\.\d+)?")
_FRACTION = re.compile(r"([+-]?)\\[dt]?frac\{?(\d+)\}?\{?(\d+)\}?|([+-]?\d+)/(\d+)")
# Texts that would keep a computer algebra system busy rather than state an answer.
_BOMB = re.compile(r"(?:\*\*|\^)\s*\{?\(?\s*-?\d{4,}|(?:(?:\*\*|\^)[^+\-]*){3}|\d{4,}\)?\s*!|\d{60,}|!\s*!")
_SEVERAL = re.compile(r",(?!\d{3}\b)|;|\b(?:or|and)\b", re.IGNORECASE)
_UNITS = re.compile(r"(?<=\d)\s*[A-Za-z]{2}[A-Za-z ./]*$")  # one letter alone may be a variable


@functools.lru_cache(maxsize=1 << 14)
def equivalent(answer: str, gold: str) -> bool:
    """Whether an answer equals the gold answer as mathematics.

    Args:
        answer: what was extracted from a completion: a number, an expression, LaTeX or not, with or without a unit.
        gold: the right answer in any such form; units are not compared.
    """
    left, right = normalized(answer), normalized(gold)
    if not left or not right or len(left) > MAX_ANSWER or len(right) > 10 * MAX_ANSWER:
        return False
    if left.casefold() == right.casefold():
        return True
    first, second = number(left), number(right)
    if first is not None and second is not None:
        return first == second or _rounded(left, right, first, second)
    # Words are compared as words, and a lone number is never worth asking about a sentence.
    if not re.search(r"\d|\\|[=^+*/()]|^[a-z]$", right) or not re.search(r"\d|\\|[=^+*/()]|^[a-z]$", left):
        return False
    # math-verify reads the last of several numbers, so that a list of guesses would equal any of its ends.
    if bool(_SEVERAL.search(left)) != bool(_SEVERAL.search(right)) or _BOMB.search(left):
        return False
    return _WORKER.compare(right, left)


def normalized(text: str) -> str:
    """An answer without the decoration around it: dollars, final period, spaces, currency, Unicode signs."""
    text = unicodedata.normalize("NFKC", text).strip().translate(str.maketrans("−–×÷", "--*/"))
    text = re.sub(r"\\(?:text|mathrm|textbf|mathbf)\{([^{}]*)\}", r"\1", text)
    text = re.sub(r"(?<!\\)\\[!,;: ]|\\left|\\right|\\displaystyle", "", text)
    text = text.strip().strip("*`").removesuffix(".").strip()
    text = re.sub(r"^(?:\\\(|\\\[|\$)\s*|\s*(?:\\\)|\\\]|(?<!\\)\$)$", "", text)
    return re.sub(r"\s+", " ", re.sub(r"^(?:\\?[$€£])\s*", "", text)).strip().removesuffix(".")


def number(text: str) -> Fraction | None:
    """The exact value of a plain number, a simple fraction or a percentage, with or without a unit, else None."""
    bare = _UNITS.sub("", text).strip()
    percent = bare.endswith("%")
    bare = bare.removesuffix("%").removesuffix("\\").strip()
    if found := _FRACTION.fullmatch(bare):
        sign, top, bottom, plain_top, plain_bottom = found.groups()
        below = int(bottom or plain_bottom)
        if not below:
            return None
        value = Fraction(int(top or plain_top), below) * (-1 if sign == "-" else 1)
    elif (found := _NUMBER.fullmatch(bare)) and (found.group(2) or found.group(3)):
        value = Fraction(bare.replace(",", ""))
    else:
        return None
    return value / 100 if percent else value


def _rounded(left: str, right: str, first: Fraction, second: Fraction) -> bool:
    """Whether a decimal stands for a fraction: equal to six significant digits, with one side not a decimal."""
    if ("/" in left or "frac" in left) == ("/" in right or "frac" in right):
        return False
    return abs(first - second) <= max(abs(first), abs(second)) / 10**6


class Worker:
    """A process that compares, started when first needed, once per process that asks, replaced when it hangs."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)

    def compare(self, gold: str, answer: str) -> bool:
        """Ask whether two expressions are equal; False where that cannot be found out in time."""
        with self._lock:
            for _ in range(2):  # a worker that died between two questions is replaced once
                process = self._running()
                try:
                    assert process.stdin is not None
                    process.stdin.write(json.dumps([gold, answer]).encode() + b"\n")
                    process.stdin.flush()
                except OSError:
                    self.stop()
                    continue
                reply = self._line(process, TIMEOUT)
                if not reply:
                    self.stop()
                return reply == b"1"
        return False

    def stop(self) -> None:
        """End the process; the next question starts another."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    if stream is not None:
                        stream.close()

    def _forget(self) -> None:
        """Leave the worker to the parent process: two askers on one pipe would read each other's answers."""
        self._lock = threading.Lock()
        self._process = None

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self.stop()
            script = Path(__file__).with_name("_math_worker.py")
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(script)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
            )
            if self._line(self._process, START_TIMEOUT) != b"ready":
                self.stop()
                raise RuntimeError("math-verify cannot be started; pip install 'rlgen[rewards]'")
        return self._process

    @staticmethod
    def _line(process: subprocess.Popen[bytes], timeout: float) -> bytes:
        """One line of the worker's output, b"" if none comes in time. The worker sends one line at a time, whole."""
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], timeout)
        return process.stdout.readline().strip() if ready else b""


_WORKER = Worker()
