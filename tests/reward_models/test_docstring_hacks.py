"""The docstring rewards against the ways in which a policy could try to fool them."""

from __future__ import annotations

import hashlib
import re
import statistics
from collections.abc import Callable, Mapping, Sequence

import pytest

from reward_models import docstring as rewards
from reward_models._code import read_code
from rlgen.tasks import get_task

Rows = Sequence[Mapping[str, str]]


def _pick(items: Sequence[str], row: Mapping[str, str], salt: str = "") -> str:
    """Choose pseudo-randomly, but always the same for one row."""
    return items[int(hashlib.sha256((salt + row["code"]).encode()).hexdigest()[:8], 16) % len(items)]


def _words(row: Mapping[str, str]) -> list[str]:
    """Identifier subwords of a row's code, padded so that there are always some."""
    return [*list(dict.fromkeys(read_code(row["code"]).order)), "value", "name", "item", "data", "state", "index"]


def _name(row: Mapping[str, str]) -> str:
    return " ".join(read_code(row["code"]).name) or "call"


def _parameters(row: Mapping[str, str]) -> list[str]:
    return list(read_code(row["code"]).parameters) or ["self"]


def _neighbor(rows: Rows, index: int, same_module: bool) -> str:
    """Docstring of another function: the next one of the same module, or of any other module."""
    row = rows[index]
    for step in range(1, len(rows)):
        other = rows[(index + step) % len(rows)]
        if (other["module"] == row["module"]) == same_module and other["reference"] != row["reference"]:
            return other["reference"]
    return "Return the result."


def _per_row(make: Callable[[Mapping[str, str]], str]) -> Callable[[Rows], list[str]]:
    return lambda rows: [make(row) for row in rows]


HACKS: dict[str, Callable[[Rows], list[str]]] = {
    "empty": _per_row(lambda row: ""),
    "period only": _per_row(lambda row: "."),
    "generic": _per_row(lambda row: "Return the result of the function."),
    "generic long": _per_row(
        lambda row: "Return the appropriate value for the given object based on the specified data."
    ),
    "generic lead": _per_row(lambda row: f"This function is used to {_name(row)} the given value."),
    "name restated": _per_row(lambda row: f"{_name(row).capitalize()}."),
    "name as function": _per_row(lambda row: f"Return the {_name(row)} of the object."),
    "name and parameters": _per_row(lambda row: f"{_name(row).capitalize()} {', '.join(_parameters(row))}."),
    "name with parameters": _per_row(
        lambda row: f"{_name(row).capitalize()} with the given {' and '.join(_parameters(row))}."
    ),
    "signature": _per_row(lambda row: row["code"].splitlines()[0].removeprefix("def ").rstrip(":") + "."),
    "code echo": _per_row(lambda row: row["code"]),
    "code line echo": _per_row(lambda row: row["code"].splitlines()[-1].strip()),
    "code line as sentence": _per_row(lambda row: " ".join(re.findall("[a-z]+", row["code"].splitlines()[-1])) + "."),
    "prompt echo": _per_row(lambda row: "Write the one-line docstring of this Python function in plain English."),
    "identifier salad": _per_row(lambda row: " ".join(_words(row)[:10]).capitalize() + "."),
    "keyword stuffing": _per_row(lambda row: f"Return {' '.join(_words(row)[:8])}."),
    "raw identifiers": _per_row(lambda row: f"Return {', '.join(re.findall('[A-Za-z_]{4,}', row['code'])[:6])}."),
    "template one": _per_row(lambda row: f"Return {_words(row)[0]}."),
    "template of": _per_row(lambda row: "Return the {} of the {} for the {}.".format(*_words(row)[1:4])),
    "template chain": _per_row(
        lambda row: "Return the {} of the {} and the {} of the {} with the {}.".format(*_words(row)[:5])
    ),
    "template verb": _per_row(lambda row: "Set the {} {} to the {} of the {}.".format(*_words(row)[:4])),
    "repeated sentence": _per_row(lambda row: f"{row['reference']} {row['reference']}"),
    "repeated words": _per_row(lambda row: f"Return the {' the '.join([_words(row)[0]] * 6)}."),
    "very long": _per_row(lambda row: row["reference"][:-1] + " and" + row["reference"].lower()[:-1] * 8 + "."),
    "run-on": lambda rows: [f"{row['reference']} {_neighbor(rows, index, True)}" for index, row in enumerate(rows)],
    "several lines": _per_row(lambda row: f"{row['reference']}\n\nArgs:\n    x: The value.\n"),
    "fenced": _per_row(lambda row: f"```python\n{row['reference']}\n```"),
    "quoted": _per_row(lambda row: f'"""{row["reference"]}"""'),
    "identifiers appended": _per_row(
        lambda row: f"{row['reference'][:-1]} {' '.join(_words(row)[-12:-6] or _words(row)[:6])}."
    ),
    "raw tokens appended": _per_row(lambda row: f"{row['reference'][:-1]} self.{_words(row)[0]}()."),
    "parameters appended": _per_row(
        lambda row: f"{row['reference'][:-1]} with {', '.join([*_parameters(row), *_words(row)[:3]])}."
    ),
    "look-alikes": _per_row(lambda row: row["reference"].translate(str.maketrans("aeoc", "\u0430\u0435\u043e\u0441"))),
    "shuffled": _per_row(
        lambda row: (
            " ".join(
                sorted(row["reference"][:-1].lower().split(), key=lambda w: _pick("abcdefgh", row, w))
            ).capitalize()
            + "."
        )
    ),
    "other module's": lambda rows: [_neighbor(rows, index, False) for index in range(len(rows))],
    "same module's": lambda rows: [_neighbor(rows, index, True) for index in range(len(rows))],
}

# Appending to, or re-typesetting, a good docstring leaves most of it good: these must lose, but cannot lose by much.
NEARLY_HUMAN = {"several lines", "quoted", "raw tokens appended", "parameters appended", "identifiers appended"}
COPYING = {
    *("signature", "code echo", "code line echo", "identifier salad", "keyword stuffing", "raw identifiers"),
    *("name and parameters", "repeated words", "code line as sentence"),
}


def _human_and(rows: Rows, texts: Sequence[str]) -> tuple[list[float], list[float]]:
    code = [row["code"] for row in rows]
    human = rewards.composite(completions=[row["reference"] for row in rows], code=code)
    other = rewards.composite(completions=texts, code=code)
    return [score or 0.0 for score in human], [score or 0.0 for score in other]


def _wins(first: Sequence[float], second: Sequence[float]) -> float:
    """Share of rows that the first wins; a tie counts half."""
    return statistics.fmean((a > b) + 0.5 * (a == b) for a, b in zip(first, second, strict=True))


@pytest.fixture(scope="module", params=["heldout", "rl"])
def rows(request: pytest.FixtureRequest) -> Rows:
    loaded: Rows = list(get_task("docstring").split(request.param, max_rows=400))
    assert len(loaded) >= 200
    return loaded


def test_human_docstrings_score_high(rows: Rows) -> None:
    human, _ = _human_and(rows, [""] * len(rows))
    assert statistics.fmean(human) >= 0.82


@pytest.mark.parametrize("hack", HACKS)
def test_hack_loses_to_the_human_docstring(rows: Rows, hack: str) -> None:
    human, hacked = _human_and(rows, HACKS[hack](rows))
    margin = statistics.fmean(human) - statistics.fmean(hacked)
    assert margin >= (0.08 if hack in NEARLY_HUMAN else 0.12), f"{hack}: margin {margin:.3f}"
    wanted = 0.9 if hack in COPYING else 0.8
    assert _wins(human, hacked) >= wanted, f"{hack}: wins {_wins(human, hacked):.3f}"


def test_grounding_and_composite_tell_functions_of_one_module_apart(rows: Rows) -> None:
    modules: dict[str, list[Mapping[str, str]]] = {}
    for row in rows:
        modules.setdefault(row["module"], []).append(row)
    pairs = [
        (row, group[(index + step) % len(group)])
        for group in modules.values()
        for index, row in enumerate(group)
        for step in (1, 2, 3)
        if group[(index + step) % len(group)]["reference"] != row["reference"]
    ]
    code = [row["code"] for row, _ in pairs]
    right, wrong = ([pair[side]["reference"] for pair in pairs] for side in (0, 1))
    grounded = (rewards.grounding(completions=texts, code=code) for texts in (right, wrong))
    scored = (rewards.composite(completions=texts, code=code) for texts in (right, wrong))
    assert _wins(*[[score or 0.0 for score in scores] for scores in grounded]) >= 0.87
    assert _wins(*[[score or 0.0 for score in scores] for scores in scored]) >= 0.85


def test_rewards_are_graded_enough_to_learn_from(rows: Rows) -> None:
    """Different sentences about one function rarely tie."""
    code = [row["code"] for row in rows]
    candidates = [HACKS[name](rows) for name in ("same module's", "other module's", "template of", "name as function")]
    candidates.append([row["reference"] for row in rows])
    scores = [rewards.composite(completions=texts, code=code) for texts in candidates]
    distinct = [len({round(column[index] or 0.0, 3) for column in scores}) for index in range(len(rows))]
    assert statistics.fmean(distinct) >= 4.0
