"""Few-shot prompts: which examples, in which form."""

from __future__ import annotations

import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from rlgen.data import conversational
from rlgen.errors import ConfigError, DataError
from rlgen.templates import Shots, choose_examples, split_shots, with_examples

ROWS = Dataset.from_list(
    [
        {"prompt": conversational(f"Say {n}."), "completion": [{"role": "assistant", "content": f"It is {n}."}]}
        for n in range(12)
    ]
)


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("embedded", ("embedded", None)),
        ("runs/a@b", ("runs/a@b", None)),
        ("embedded@4shot", ("embedded", Shots(4))),
        ("runs/a@b@1shots-plain", ("runs/a@b", Shots(1, "plain"))),
        ("x/y@0shot-plain", ("x/y", Shots(0, "plain"))),
        ("x/y@8shot-seed3", ("x/y", Shots(8, "chat", 3))),
    ],
)
def test_what_stands_after_the_path(path: str, wanted: tuple[str, Shots | None]) -> None:
    assert split_shots(path) == wanted


@pytest.mark.parametrize(
    "path", ["x@fourshot", "x@4shot-prose", "@4shot", "x@0shot", "x@-1shot", "x@4shot-plain-seed"]
)
def test_malformed_endings_are_refused(path: str) -> None:
    with pytest.raises(ConfigError, match="shot"):
        split_shots(path)


@given(st.integers(1, 99), st.sampled_from(("chat", "plain")), st.integers(0, 9))
def test_shots_are_read_as_they_are_written(number: int, style: str, seed: int) -> None:
    shots = Shots(number, style, seed)
    assert split_shots(f"a/b@{shots}") == ("a/b", shots)


def test_examples_are_chosen_by_seed_and_never_held_out() -> None:
    chosen = choose_examples(ROWS, Shots(4))
    assert chosen == choose_examples(ROWS, Shots(4))
    assert chosen == choose_examples(ROWS, Shots(8))[:4]
    assert chosen != choose_examples(ROWS, Shots(4, seed=1))
    held_out = ROWS.select(range(6))
    texts = {answer for _, answer in choose_examples(ROWS, Shots(6), held_out)}
    assert texts == {f"It is {n}." for n in range(6, 12)}
    with pytest.raises(DataError, match="7 examples"):
        choose_examples(ROWS, Shots(7), held_out)


def test_a_chat_gets_earlier_turns_and_keeps_its_system_message() -> None:
    system = {"role": "system", "content": "Be brief."}
    question = conversational("Say 99.")
    examples = choose_examples(ROWS, Shots(2))
    plain, with_system = with_examples([question, [system, *question]], examples)
    assert [message["role"] for message in plain] == ["user", "assistant", "user", "assistant", "user"]
    assert plain[-1] == question[0]
    assert plain[1]["content"] == examples[0][1]
    assert with_system == [system, *plain]
    assert with_examples([question], []) == [question]


def test_plain_text_ends_where_the_answer_begins() -> None:
    examples = choose_examples(ROWS, Shots(2))
    (text,) = with_examples([conversational("Say 99.")], examples, "plain")
    assert text.endswith("---\n\nSay 99.\n\nAnswer:")
    assert text.count("Answer:") == 3
    assert all(f"Answer: {answer}\n" in text for _, answer in examples)
    assert with_examples(["Say 99."], examples) == [text]  # a prompt without turns gets none
