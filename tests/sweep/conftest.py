"""A plan whose trials are runs of a recipe without torch."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("optuna")

from rlgen.sweep.space import Bounds, Space
from rlgen.sweep.study import Plan

SUPPORT = Path(__file__).parents[1] / "support"


@pytest.fixture
def make_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Plan]:
    monkeypatch.setattr("rlgen.sweep.process.CHILD", "fake_recipe")
    monkeypatch.setattr("rlgen.sweep.process.POLL_SECONDS", 0.02)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(SUPPORT), os.environ.get("PYTHONPATH", "")]))
    folder = tmp_path / "sweep"
    folder.mkdir()

    def make(varied: Any = None, fixed: Any = None, **options: Any) -> Plan:
        space = Space(varied or {"learning_rate": Bounds(1e-5, 1e-1, log=True)}, fixed or {})
        settings = {"pruner": "none", "direction": "maximize", "metric": "score", "trials": 4, **options}
        return Plan(folder=folder, recipe="fake", base={}, space=space, **settings)

    return make
