"""Properties and ordered examples of the docstring rewards."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward_models import docstring as rewards
from reward_models._code import read_code
from reward_models._text import completion_text, imperative, stem, subwords, words_of

CODE = """def remove_folder(self, folder, force=False):
    path = os.path.join(self._path, folder)
    for entry in os.listdir(path):
        if not force and entry != ".sequences":
            raise NotEmptyError("Folder contains messages: %s" % self._path)
        os.remove(os.path.join(path, entry))
    os.rmdir(path)
"""
GOOD = "Delete the named folder and every file in it."
ALL = {**rewards.REWARDS, "composite": rewards.composite}

texts = st.one_of(
    st.text(max_size=120),
    st.lists(st.sampled_from([*CODE.split(), *GOOD.split(), ".", "\n", "the"]), max_size=20).map(" ".join),
)


@pytest.mark.parametrize("name", ALL)
@given(text=texts, code=st.one_of(st.just(CODE), st.text(max_size=80)))
def test_range_and_determinism(name: str, text: str, code: str) -> None:
    (score,) = ALL[name](completions=[text], code=[code])
    assert score is not None
    assert math.isfinite(score)
    assert 0.0 <= score <= 1.0
    assert ALL[name](completions=[text], code=[code]) == [score]


@pytest.mark.parametrize("name", ALL)
@given(batch=st.lists(texts, min_size=1, max_size=5))
def test_a_row_is_scored_alone_and_conversational_equals_plain(name: str, batch: list[str]) -> None:
    plain = ALL[name](completions=batch, code=[CODE] * len(batch))
    backward = ALL[name](completions=batch[::-1], code=[CODE] * len(batch))
    assert plain == backward[::-1]
    chat = [[{"role": "assistant", "content": text}] for text in batch]
    prompts = [[{"role": "user", "content": "x"}]] * len(batch)
    assert plain == ALL[name](
        prompts=prompts, completions=chat, completion_ids=[[1]] * len(batch), code=[CODE] * len(batch)
    )


@pytest.mark.parametrize("name", ALL)
def test_rows_without_code_are_not_graded_and_nothing_said_earns_nothing(name: str) -> None:
    assert ALL[name](completions=[GOOD, "", " \n", "...", "123"], code=[None, *[CODE] * 4]) == [
        None,
        0.0,
        0.0,
        0.0,
        0.0,
    ]


def test_weights_name_the_rewards_and_add_up_to_one() -> None:
    assert set(rewards.WEIGHTS) == set(rewards.REWARDS)
    assert sum(rewards.WEIGHTS.values()) == pytest.approx(1.0)
    parts = {name: reward(completions=[GOOD], code=[CODE])[0] for name, reward in rewards.REWARDS.items()}
    expected = sum(weight * (parts[name] or 0.0) for name, weight in rewards.WEIGHTS.items())
    assert rewards.composite(completions=[GOOD], code=[CODE]) == [pytest.approx(expected)]


# Each list goes from best to worst, strictly.
ORDERED = {
    "pep257": [
        GOOD,
        "Deletes the named folder and every file in it.",
        "Deletes the named folder and every file in it",
        "deletes the named folder\nand every file in it",
    ],
    "grounding": [GOOD, "Delete the messages of a server.", "Compute the square root of a matrix."],
    "no_echo": [
        GOOD,
        "Remove folder path entry force listdir.",
        "Call os.rmdir(path) on self._path.",
    ],
    "informative": [GOOD, "Remove the folder.", "Return the result."],
    "fluent": [
        GOOD,
        "Delete the the named folder of for every file in it.",
        "Folder path entry force remove listdir join sequences.",
    ],
    "composite": [
        GOOD,
        "Remove the folder.",
        "Return the result of the function.",
        "def remove_folder(self, folder)",
        "",
    ],
}


@pytest.mark.parametrize("name", ORDERED)
def test_better_text_scores_higher(name: str) -> None:
    ordered = ORDERED[name]
    scores = [score or 0.0 for score in ALL[name](completions=ordered, code=[CODE] * len(ordered))]
    assert all(better > worse for better, worse in itertools.pairwise(scores)), scores


@pytest.mark.parametrize(
    ("text", "below"),
    [
        ("This function deletes the named folder.", 0.6),
        ("`Delete the named folder.`", 0.6),
        ("Delete the folder. Delete the files.", 0.65),
        ("Delete " + "the named folder and " * 8 + "more.", 0.6),
        ("D\u0435lete the named folder.", 0.6),
    ],
)
def test_pep257_faults(text: str, below: float) -> None:
    (score,) = rewards.pep257(completions=[text], code=[CODE])
    assert score is not None
    assert score < below


def test_grounding_saturates() -> None:
    """Naming more identifiers earns nothing more."""
    few, many = "Remove the folder and all messages.", "Remove the folder path with force and all entry sequences."
    scores = rewards.grounding(completions=[few, many], code=[CODE] * 2)
    assert (scores[1] or 0.0) <= (scores[0] or 0.0)


def test_rouge_l_rewards_nothing_but_overlap() -> None:
    scores = rewards.rouge_l(
        completions=[GOOD, "Deleting named folders.", "x", GOOD], reference=[GOOD, GOOD, GOOD, None]
    )
    assert scores[0] == 1.0
    assert 0.0 < (scores[1] or 0.0) < 1.0
    assert scores[2:] == [0.0, None]


def test_module_is_light() -> None:
    """Neither torch nor the scorer is imported until it is needed."""
    heavy = "('torch', 'rouge_score', 'datasets')"
    check = f"import sys, reward_models.docstring; sys.exit(any(name in sys.modules for name in {heavy}))"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_reading_code_as_words() -> None:
    code = read_code(CODE)
    assert code.name == ("remove", "folder")
    assert code.parameters == ("folder", "force")
    assert not code.returns
    assert all(
        code.supports(word) for word in ("delete", "folder", "directory", "files", "messages", "every", "error")
    )
    assert not any(code.supports(word) for word in ("square", "socket", "encode"))
    assert read_code("def isabs(s): return s.startswith('/')").name == ("is", "abs")
    assert read_code("not code at all").name == ()


def test_words() -> None:
    assert words_of("Don't read x1, twice!") == ["don't", "read", "x", "twice"]
    assert subwords("readAll_HTTPLines2") == ["read", "all", "http", "lines"]
    assert stem("removes") == stem("removed") == stem("removing") == stem("remove")
    assert [imperative(word) for word in ("returns", "copies", "matches", "this")] == [
        "return",
        "copy",
        "match",
        "this",
    ]


def test_completion_text() -> None:
    assert completion_text("a") == "a"
    assert completion_text([{"role": "assistant", "content": "a"}, {"role": "assistant", "content": None}]) == "a"
    assert completion_text([{"role": "assistant", "content": [{"type": "text", "text": "b"}]}]) == "b"
    assert completion_text([]) == ""
