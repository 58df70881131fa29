"""A time limit for a function of somebody else's that runs in this process."""

import contextvars
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")

REPEAT = 1.0  # seconds after which the alarm rings again, for code that swallowed the exception


class OverdueError(BaseException):
    """The time is up. Not an `Exception`, so that a broad `except Exception` in the function does not swallow it."""

    def __init__(self, seconds: float, frame: FrameType | None = None) -> None:
        super().__init__(f"took longer than {seconds:g} s")
        self.frame = frame
        """Where a function that goes on in its thread was; None where the exception passed through it."""


def call_within(seconds: float, function: Callable[[], T]) -> T:
    """Call a function and give up after a while.

    In the main thread an alarm signal interrupts it (pure Python, sleeping, waiting and regular expressions stop at
    once, other C code when it returns). A function that sets an alarm of its own takes ours away. Elsewhere, and on
    Windows, the function runs in a daemon thread that is left behind when the time is up.

    Args:
        seconds: the limit, above 0.
        function: without arguments.

    Raises:
        OverdueError: it took longer.
    """
    began = time.monotonic()
    alarms = hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()
    result = (_interrupted if alarms else _abandoned)(seconds, function)
    if time.monotonic() - began > seconds:  # it took our alarm away, or was in C code
        raise OverdueError(seconds)
    return result


def _interrupted(seconds: float, function: Callable[[], T]) -> T:
    def ring(*_: Any) -> None:
        raise OverdueError(seconds)

    began = time.monotonic()
    handler = signal.signal(signal.SIGALRM, ring)
    left, interval = signal.setitimer(signal.ITIMER_REAL, seconds, REPEAT)
    try:
        return function()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if left:  # somebody else's alarm, which we held up
            signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - began), 1e-3), interval)


def _abandoned(seconds: float, function: Callable[[], T]) -> T:
    outcome: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()
    context = contextvars.copy_context()

    def work() -> None:
        try:
            outcome.put((context.run(function), None))
        except BaseException as error:
            outcome.put((None, error))

    thread = threading.Thread(target=work, daemon=True, name="rlgen-reward")
    thread.start()
    try:
        result, error = outcome.get(timeout=seconds)
    except queue.Empty:
        raise OverdueError(seconds, sys._current_frames().get(thread.ident or 0)) from None
    if error is not None:
        raise error
    return result  # type: ignore[return-value]
