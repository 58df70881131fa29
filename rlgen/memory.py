"""Memory that is free inside the process goes back to the system.

Batches of ever new lengths leave glibc's heap full of holes that no later tensor fits into, so that a long run seems
to need more and more memory. Trimming gives the holes back.
"""

import contextlib
import ctypes
import gc


def release_memory() -> None:
    """Collect garbage and, where there is glibc, give the heap's free pages back to the system."""
    gc.collect()
    trim_heap()


def trim_heap() -> None:
    """Give the free pages of glibc's heap back to the system; elsewhere do nothing."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
