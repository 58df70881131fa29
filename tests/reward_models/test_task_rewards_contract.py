"""What all rewards of dialogue, controlled, reasoning and augmentation keep to, and adversarial completions."""

from __future__ import annotations

import importlib
import math
import pickle
import random
import statistics
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reward_models import augmentation, controlled, dialogue, reasoning
from rlgen.rewards.load import load_reward

ROOT = Path(__file__).parents[2]
MODULES: dict[str, ModuleType] = {
    "dialogue": dialogue,
    "controlled": controlled,
    "reasoning": reasoning,
    "augmentation": augmentation,
}
EXTRA = {
    "controlled": {"constraints_loose": controlled.constraints_loose, "intact": controlled.intact},
    "dialogue": {"make_fairness": dialogue.make_fairness()},
    "reasoning": {"make_gym": reasoning.make_gym(threshold=0.5, partial=0.5)},
    "augmentation": {},
}
ALL = {
    (name, reward): function
    for name, module in MODULES.items()
    for reward, function in {**module.REWARDS, "composite": module.composite, **EXTRA[name]}.items()
}
every_reward = pytest.mark.parametrize(("module", "name"), ALL, ids=lambda part: part)
# These read the completion only.
NEED_NOTHING = {"safety", "fairness", "make_fairness", "fluent", "working", "intact"}


def columns(module: str, rows: Sequence[int] | None = None) -> dict[str, list[Any]]:
    """Columns of the module's examples as a trainer passes them, completions left out."""
    examples = MODULES[module].EXAMPLES
    chosen = [examples[row % len(examples)] for row in (range(len(examples)) if rows is None else rows)]
    named = {key: [row[key] for row in chosen] for key in chosen[0] if key not in ("prompt", "completion")}
    return {"prompts": [row["prompt"] for row in chosen], **named}


def references(module: str) -> list[str]:
    return [row["completion"] for row in MODULES[module].EXAMPLES]


def words_for(module: str) -> list[str]:
    return [
        *" ".join(references(module)).split()[:120],
        "#### ",
        "\\boxed{",
        "}",
        "\n",
        "you",
        "idiot",
        "3",
        "^",
        "**",
    ]


def texts(module: str) -> st.SearchStrategy[str]:
    salad = st.lists(st.sampled_from(words_for(module)), max_size=25).map(" ".join)
    return st.one_of(st.text(max_size=100), salad, st.sampled_from(references(module)))


@every_reward
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_range_determinism_and_a_row_is_scored_alone(module: str, name: str, data: st.DataObject) -> None:
    reward = ALL[module, name]
    batch = data.draw(st.lists(texts(module), min_size=1, max_size=4))
    rows = data.draw(st.lists(st.integers(0, 9), min_size=len(batch), max_size=len(batch)))
    scores = reward(completions=batch, **columns(module, rows))
    assert len(scores) == len(batch)
    for score in scores:
        assert score is None or (math.isfinite(score) and 0.0 <= score <= 1.0)
    assert scores == reward(completions=batch, **columns(module, rows))
    assert scores[::-1] == reward(completions=batch[::-1], **columns(module, rows[::-1]))
    alone = [reward(completions=[text], **columns(module, [row]))[0] for text, row in zip(batch, rows, strict=True)]
    assert scores == alone
    chat = [[{"role": "assistant", "content": text}] for text in batch]
    assert scores == reward(completions=chat, completion_ids=[[1]] * len(batch), **columns(module, rows))


@every_reward
def test_missing_columns_are_not_graded(module: str, name: str) -> None:
    blank = {key: [None] * len(values) for key, values in columns(module).items()}
    scores = ALL[module, name](completions=references(module), **blank)
    assert all((score is None) != (name in NEED_NOTHING) for score in scores)


@every_reward
def test_nothing_said_earns_nothing(module: str, name: str) -> None:
    for empty in ("", " \n\t", "...", "\u200b", "🙂"):
        scores = ALL[module, name](completions=[empty] * len(references(module)), **columns(module))
        if name in ("constraints", "constraints_loose") and empty.strip():
            continue  # three dots have no comma, as IFEval counts
        assert all(score in (None, 0.0) for score in scores), empty


@every_reward
def test_picklable(module: str, name: str) -> None:
    copy = pickle.loads(pickle.dumps(ALL[module, name]))
    given = {"completions": references(module), **columns(module)}
    assert copy(**given) == ALL[module, name](**given)


@every_reward
def test_examples_score_near_the_top(module: str, name: str) -> None:
    scores = [s for s in ALL[module, name](completions=references(module), **columns(module)) if s is not None]
    assert scores
    assert min(scores) >= 0.85


LOOKALIKES = str.maketrans("aeoc", "\u0430\u0435\u043e\u0441")


def last_turn(prompt: Any) -> str:
    return prompt.rpartition("User: ")[2] if isinstance(prompt, str) else prompt[-1]["content"]


def long_words(text: str) -> list[str]:
    return [word.strip(".,?!:") for word in text.split() if len(word) > 4]


def shuffled(text: str) -> str:
    words = text.split()
    random.Random(0).shuffle(words)
    return " ".join(words)


Spoil = Callable[[list[str], list[str]], list[str]]
ADVERSARIAL: dict[str, Spoil] = {
    "empty": lambda answers, asked: [""] * len(answers),
    "very long": lambda answers, asked: [f"{answer} {' '.join(answers * 3)}" for answer in answers],
    "repeated": lambda answers, asked: [f"{answer} " * 8 for answer in answers],
    "prompt echo": lambda answers, asked: asked,
    "keywords": lambda answers, asked: [" ".join(long_words(text)) for text in asked],
    "keyword stuffing": lambda answers, asked: [" ".join(long_words(text) * 4) for text in asked],
    "other language": lambda answers, asked: (
        ["Je ne sais pas quoi dire, mais la maison est belle et le chien dort dans le jardin."] * len(answers)
    ),
    "look-alikes": lambda answers, asked: [answer.translate(LOOKALIKES) for answer in answers],
    "invisible": lambda answers, asked: ["\u200b".join(answer) for answer in answers],
    "combining marks": lambda answers, asked: ["\u0301".join(answer) for answer in answers],
    "another row's": lambda answers, asked: answers[3:] + answers[:3],
    "generic": lambda answers, asked: (
        ["That is a great question, and I am happy to help you today. What else?"] * len(answers)
    ),
}


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("hack", ADVERSARIAL)
def test_composite_resists(module: str, hack: str) -> None:
    answers, given = references(module), columns(module)
    spoiled = ADVERSARIAL[hack](answers, [last_turn(prompt) for prompt in given["prompts"]])
    good = MODULES[module].composite(completions=answers, **given)
    bad = MODULES[module].composite(completions=spoiled, **given)
    # A right answer said eight times over is still right: the write-up alone can lose.
    margin = 0.15 if (module, hack) == ("reasoning", "repeated") else 0.4
    assert statistics.fmean(good) - statistics.fmean(bad) >= margin, bad
    assert sum(a > b for a, b in zip(good, bad, strict=True)) >= 9


@pytest.mark.parametrize("module", ["dialogue", "controlled", "augmentation"])
def test_composite_prefers_the_order_of_words(module: str) -> None:
    good = MODULES[module].composite(completions=references(module), **columns(module))
    bad = MODULES[module].composite(completions=[shuffled(text) for text in references(module)], **columns(module))
    assert statistics.fmean(good) - statistics.fmean(bad) >= 0.2
    assert all(a >= b for a, b in zip(good, bad, strict=True))


def test_modules_are_light() -> None:
    heavy = (
        "torch datasets nltk sympy math_verify reasoning_gym if_verifiable vaderSentiment wordfreq langdetect numpy "
        "better_profanity punkt"
    ).split()
    names = ", ".join(f"reward_models.{name}" for name in MODULES)
    code = f"import sys, {names}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_entry_points_name_every_reward() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = set(project["entry-points"]["rlgen.rewards"].values())
    for name, module in MODULES.items():
        shipped = {f"reward_models.{name}:{reward}" for reward in [*module.REWARDS, "composite"]}
        assert shipped <= declared
    for target in declared:
        file, _, function = target.partition(":")
        assert callable(getattr(importlib.import_module(file), function))


@pytest.mark.parametrize("module", MODULES)
def test_composite_runs_under_rlgens_contract(module: str) -> None:
    reward = load_reward(f"reward_models.{module}:composite")
    given = columns(module)
    scores = reward(completions=references(module), **given)
    assert scores == MODULES[module].composite(completions=references(module), **given)
