"""The adversarial completions: what each is made of, and that all of them are texts nobody wants."""

import functools
import re
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlgen.rewards import checked
from rlgen.rewards.hacks import HACKS, completions, hacks_for, vocabulary

ROWS = [
    {"prompt": "Name the capital of France.", "completion": "The capital of France is Paris.", "code": "x"},
    {"prompt": [{"role": "user", "content": "Say hello."}], "completion": [{"role": "assistant", "content": "Hi!"}]},
    {"prompt": "Add two and three.", "reference": "The sum of both numbers is five."},
]
BY_NAME = {hack.name: hack for hack in HACKS}


def texts(name, rows=ROWS):
    return completions(BY_NAME[name], rows)


def test_names_are_unique_and_every_kind_is_there():
    assert len(BY_NAME) == len(HACKS)
    assert {
        *("empty", "whitespace", "very_long", "repeated_token", "repeated_sentence", "prompt_echo"),
        *("reference_keywords", "prompt_keywords", "other_language", "look_alikes", "zero_width"),
        *("right_to_left", "combining", "other_row", "other_task", "markup", "json", "refusal"),
    } <= BY_NAME.keys()


@pytest.mark.parametrize("hack", HACKS, ids=lambda hack: hack.name)
def test_every_hack_is_deterministic_and_is_not_the_reference(hack):
    first = completions(hack, ROWS)
    assert first == completions(hack, [dict(row) for row in ROWS])
    assert len(first) == len(ROWS)
    assert all(text is None or isinstance(text, str) for text in first)
    references = ["The capital of France is Paris.", "Hi!", "The sum of both numbers is five."]
    assert all(text != reference for text, reference in zip(first, references, strict=True))


def test_what_some_are_made_of():
    assert texts("empty") == ["", "", ""]
    assert not "".join(texts("whitespace")).strip()
    assert texts("prompt_echo") == ["Name the capital of France.", "Say hello.", "Add two and three."]
    assert texts("other_row") == ["Hi!", "The sum of both numbers is five.", "The capital of France is Paris."]
    assert texts("repeated_sentence")[1] == " ".join(["Hi!"] * 8)
    assert set(texts("repeated_token")[0].split()) == {"capital"}
    assert len(texts("very_long")[0]) == 4000
    assert texts("reference_keywords")[0] == "Paris France capital"


def test_disguises_look_like_the_reference_but_are_another_text():
    reference = "The capital of France is Paris."
    assert len(texts("look_alikes")[0]) == len(reference)
    assert re.search("[а-яА-Я]", texts("look_alikes")[0])
    assert texts("zero_width")[0].replace("\u200b", "") == reference
    assert "".join(letter for letter in texts("combining")[0] if not unicodedata.combining(letter)) == reference
    assert texts("right_to_left")[0].strip("\u202e\u202c")[::-1] == reference


def test_a_hack_that_has_nothing_to_work_on_leaves_the_row_out():
    rows = [{"prompt": "q", "completion": ""}, {"prompt": "q", "completion": ""}]
    assert texts("repeated_token", rows) == [None, None]
    assert texts("other_row", rows) == [None, None]
    assert texts("empty", rows) == [None, None], "it is the reference itself"


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.text(), st.text()), min_size=1, max_size=4))
def test_any_rows_will_do(pairs):
    rows = [{"prompt": prompt, "completion": completion} for prompt, completion in pairs]
    for hack in HACKS:
        for text, row in zip(completions(hack, rows), rows, strict=True):
            assert text != row["completion"]


COURTESIES = {"thanks", "welcome"}
PATTERN = re.compile(r"\bsincerely\b|\w+ regards")


def helper(text):
    return any(word in text for word in COURTESIES)


def courteous(completions, **_):
    """Never mind this docstring."""
    return [float("please" in text) + helper(text) + bool(PATTERN.search(text)) for text in completions]


class Courtesy:
    def __call__(self, completions, **_):
        return [float("gladly" in text) for text in completions]


def test_the_words_of_a_rewards_own_code_are_read():
    assert {"please", "thanks", "welcome", "sincerely", "regards"} == set(vocabulary(courteous))
    assert vocabulary(functools.partial(courteous)) == vocabulary(checked(courteous)) == vocabulary(courteous)
    assert vocabulary(Courtesy()) == ["gladly"]
    assert vocabulary(len) == []
    hack = hacks_for(courteous)[-1]
    assert hack.name == "reward_keywords"
    assert completions(hack, ROWS)[0].split().count("please") == 3
    assert len(hacks_for(len)) == len(HACKS)


def test_closures_are_read():
    words = ["cordially"]

    def inner(completions, **_):
        return [float(any(word in text for word in words)) for text in completions]

    assert vocabulary(inner) == ["cordially"]
