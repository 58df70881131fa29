"""docs/rewards/library.md lists every reward that ships, with what its docstring says first."""

import importlib
import inspect
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "rewards" / "library.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SHIPPED = PROJECT["entry-points"]["rlgen.rewards"]


@pytest.mark.parametrize("name", SHIPPED)
def test_a_reward_has_its_line(name: str) -> None:
    module, _, function = SHIPPED[name].partition(":")
    first = (inspect.getdoc(getattr(importlib.import_module(module), function)) or "").splitlines()[0]
    assert f"| `{name}` | `{function}` | {first} |" in PAGE


def test_no_line_is_left_over() -> None:
    assert PAGE.count("\n| `") == len(SHIPPED)
