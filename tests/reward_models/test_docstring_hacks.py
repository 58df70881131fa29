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
    return list(dict.fromkeys(read_code(row["code"]).order)) + ["value", "name", "item", "data", "state", "index"]


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
    "generic long": _per_row(lambda row: "Return the appropriate value for the given object based on the specified data."),
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
    "raw identifiers": _per_row(
        lambda row: f"Return {', '.join(re.findall('[A-Za-z_]{4,}', row['code'])[:6])}."
    ),
    "template one": _per_row(lambda row: f"Return {_words(row)[0]}."),
    "template of": _per_row(lambda row: "Return the {} of the {} for the {}.".format(*_words(row)[1:4])),
    "template chain": _per_row(
        lambda row: "Return the {} of the {} and the {} of the {} with the {}.".format(*_words(row)[:5])
    ),
    "template verb": _per_row(lambda row: "Set the {} {} to the {} of the {}.".format(*_words(row)[:4])),
    "repeated sentence": _per_row(lambda row: f"{row['reference']} {row['reference']}"),
    "repeated words": _per_row(lambda row: f"Return the {' the '.join([_words(row)[0]] * 6)}."),
    "very long": _per_row(lambda row: row["reference"][:-1] + " and" + row["reference"].lower()[:-1] * 8 + "."),
    "run-on": lambda rows: [
        f"{row['reference']} {_neighbor(rows, index, True)}" for index, row in enumerate(rows)
    ],
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
        lambda row: " ".join(sorted(row["reference"][:-1].lower().split(), key=lambda w: _pick("abcdefgh", row, w)))
        .capitalize() + "."
    ),
    "other module's": lambda rows: [_neighbor(rows, index, False) for index in range(len(rows))],
    "same module's": lambda rows: [_neighbor(rows, index, True) for index in range(len(rows))],
}
