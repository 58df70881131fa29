"""Nobody runs the benchmarks daily, so each must at least load after every change."""

import importlib.util
import sys
from pathlib import Path

import pytest

SCRIPTS = sorted(file for file in Path(__file__).parent.glob("*.py") if not file.name.startswith("test_"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda file: file.stem)
def test_every_benchmark_loads(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location(f"benchmark_{script.stem}", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look their module up
    monkeypatch.syspath_prepend(str(script.parent))
    spec.loader.exec_module(module)
    assert callable(module.main)
