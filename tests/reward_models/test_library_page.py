"""docs/rewards/library.md lists every reward that ships, what its docstring says first, and the columns it reads."""

import importlib
import inspect
import re
import tomllib
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from reward_models.sandbox import SandboxUnavailable

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "rewards" / "library.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SHIPPED = PROJECT["entry-points"]["rlgen.rewards"]
GIVEN = {"prompts", "completions", "completion_ids"}  # what every reward gets
LINES = {
    name: (function, columns, text)
    for name, function, columns, text in re.findall(r"^\| `(\w+)` \| `(\w+)` \|(.*?) ?\| (.+) \|$", PAGE, re.MULTILINE)
}


def listed(name: str) -> tuple[set[str], set[str]]:
    """The columns that a reward needs, and those that it reads where there are any, as the page says."""
    needed, _, read = LINES[name][1].partition("(")
    return set(re.findall(r"`(\w+)`", needed)), set(re.findall(r"`(\w+)`", read))


def own_columns(function: Callable[..., Any]) -> set[str]:
    parameters = inspect.signature(function).parameters.values()
    return {parameter.name for parameter in parameters if parameter.kind != parameter.VAR_KEYWORD} - GIVEN


def scores(
    function: Callable[..., Any], rows: Sequence[Mapping[str, Any]], columns: Collection[str]
) -> list[Sequence[float | None] | str]:
    """Of the references, of the next row's references, and of nothing, with some of the columns."""
    references = [row["completion"] for row in rows]
    found: list[Sequence[float | None] | str] = []
    for completions in (references, references[1:] + references[:1], [""] * len(rows)):
        given = {"prompts": [row["prompt"] for row in rows], "completion_ids": [[0]] * len(rows)}
        given |= {column: [row.get(column) for row in rows] for column in columns}
        try:
            found.append(function(completions=completions, **given))
        except TypeError:  # an argument is missing
            found.append([None] * len(rows))
        except SandboxUnavailable as error:
            pytest.skip(str(error))
        except ValueError as error:  # some columns explain each other
            found.append(str(error))
    return found


@pytest.mark.parametrize("name", SHIPPED)
def test_a_reward_has_its_line(name: str) -> None:
    module, _, function = SHIPPED[name].partition(":")
    first = (inspect.getdoc(getattr(importlib.import_module(module), function)) or "").splitlines()[0]
    assert LINES[name][::2] == (function, first)


def test_no_line_is_left_over() -> None:
    assert set(LINES) == set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_reward_reads_the_columns_that_its_line_names(name: str) -> None:
    module = importlib.import_module(SHIPPED[name].partition(":")[0])
    function = getattr(module, LINES[name][0])
    needed, read = listed(name)
    there = {key for row in module.EXAMPLES for key in row} - {"prompt", "completion"}
    everything = scores(function, module.EXAMPLES, there)
    assert scores(function, module.EXAMPLES, (needed | read) & there) == everything
    without = {column: scores(function, module.EXAMPLES, there - {column}) for column in there}
    useless = {
        column
        for column, found in without.items()
        if all(not isinstance(part, str) and set(part) == {None} for part in found)
    }
    assert useless == needed
    assert {column for column, found in without.items() if found != everything} <= needed | read
    # What shows in no example must be there to be read: by the reward, or by one that it hands its columns on to.
    assert own_columns(function) <= needed | read
    hands_on = "columns" in inspect.signature(function).parameters
    neighbors = [
        getattr(module, line[0]) for other, line in LINES.items() if SHIPPED[other].startswith(module.__name__)
    ]
    assert needed | read <= set().union(*map(own_columns, neighbors if hands_on else [function]))


def test_every_column_is_explained() -> None:
    explained = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| [^`|]", PAGE, re.MULTILINE)
    columns = [column for cell in explained for column in re.findall(r"`(\w+)`", cell)]
    assert sorted(columns) == sorted(set().union(*(set().union(*listed(name)) for name in LINES)))
