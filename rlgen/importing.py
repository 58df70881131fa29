"""Python files of users as modules: their tasks and rewards."""

import hashlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType


def import_file(file: Path, kind: str) -> ModuleType:
    """Import a file under a name of its own, once per content; modules beside it can be imported by it.

    Args:
        file: existing Python file.
        kind: what it holds, a part of the module's name.

    Raises:
        ImportError: it is not Python; and whatever running it raises.
    """
    file = file.resolve()
    digest = hashlib.sha256(str(file).encode() + file.read_bytes()).hexdigest()[:12]
    name = f"rlgen_{kind}_{file.stem}_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} cannot be imported as Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before running it: dataclasses and pickle look the module up
    with importable(file.parent):
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return module


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Put a folder first on the import path, as Python does for a script, and last afterwards for late imports."""
    entry = str(folder)
    known = entry in sys.path
    if not known:
        sys.path.insert(0, entry)
    try:
        yield
    finally:
        if not known:
            sys.path.remove(entry)
            sys.path.append(entry)
