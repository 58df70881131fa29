"""Packages that only some rewards need."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def needs_extra() -> Iterator[None]:
    """Wrap an import of a package from the extra `rewards`, so that its absence says what to do.

    Raises:
        ModuleNotFoundError: the package is missing; names it and the command that installs it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"this reward needs the package {error.name}; install it with: pip install 'rlgen[rewards]'",
            name=error.name,
        ) from error
