"""Ordered examples, IFEval's constraints and documented hacks of the rewards for controlled generation."""

from __future__ import annotations

import itertools
import json
import logging
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward_models import controlled as rewards


def constraints(text: str, name: str, **options: Any) -> float:
    (score,) = rewards.constraints([text], [[name]], [[options]][0:1])
    assert score is not None
    return score


# Column, what is asked, and completions from best to worst, strictly.
ORDERED: list[tuple[str, Any, list[str]]] = [
    (
        "sentiment",
        "positive",
        ["We love this wonderful garden.", "We walked through the garden.", "We hate this awful garden."],
    ),
    ("sentiment", "negative", ["The soup was awful and cold.", "The soup was in a pot.", "The soup was delicious."]),
    (
        "sentiment",
        "neutral",
        ["The train leaves at nine.", "The train is nice.", "I love this wonderful, great train!"],
    ),
    ("keywords", ["snow", "old fire"], ["Snow fell on the old fire.", "Snow fell on it.", "Rain fell on the fire."]),
    ("words", 10, ["We took the bus to town and came home late.", "We took the bus to town.", "We left."]),
    ("sentences", 3, ["It is cold. It is dark. It is late.", "It is cold. It is dark.", "It is cold and dark."]),
]


@pytest.mark.parametrize(("column", "asked", "texts"), ORDERED)
def test_better_texts_score_higher(column: str, asked: Any, texts: list[str]) -> None:
    reward = rewards.length if column in ("words", "sentences") else rewards.REWARDS[column]
    scores = [score or 0.0 for score in reward(completions=texts, **{column: [asked] * len(texts)})]
    assert scores[0] == 1.0
    assert all(better > worse for better, worse in itertools.pairwise(scores)), scores
    whole = [score or 0.0 for score in rewards.composite(completions=texts, **{column: [asked] * len(texts)})]
    assert whole[0] > max(whole[1:])


def test_sentiment_saturates_and_charges_lists_of_praise() -> None:
    honest, gushing, stuffed = rewards.sentiment(
        completions=[
            "The room was lovely and we enjoyed the view of the lake.",
            "The room was absolutely lovely and fantastic and we loved and enjoyed the wonderful view of the lake.",
            "great wonderful lovely happy perfect best love joy",
        ],
        sentiment=["positive"] * 3,
    )
    assert honest == 1.0
    assert gushing is not None
    assert gushing <= honest
    assert stuffed == 0.0


def test_keywords_once_each_and_no_stuffing() -> None:
    natural = "The snow lay on the fields until the fire in the valley went out."
    asked = [["snow", "fire"]] * 4
    scores = rewards.keywords(
        completions=[natural, "snow fire", "snow " * 8 + natural, "The snowman fired him."], keywords=asked
    )
    assert scores[0] == 1.0
    assert scores[1] == 0.0
    assert (scores[2] or 0.0) < 0.4
    assert scores[3] == 0.0
    assert rewards.keywords(completions=["a", "b"], keywords=[[], ["  "]]) == [None, None]
    assert rewards.keywords(completions=["Two dogs."], keywords=[["dog"]]) == [1.0]


@given(st.integers(1, 200), st.integers(1, 200))
def test_length_is_symmetric_on_the_logarithmic_scale(count: int, target: int) -> None:
    (score,) = rewards.length(completions=["word " * count], words=[target])
    (mirrored,) = rewards.length(completions=["word " * target], words=[count])
    assert score == pytest.approx(mirrored)
    assert (score == 1.0) == (max(count, target) / min(count, target) <= 1.1 + 1e-12)
    assert rewards.length(completions=["word " * count], words=[target], sentences=[1])[0] == score


def test_bad_columns_are_named() -> None:
    with pytest.raises(ValueError, match="sentiment must hold one of positive, negative, neutral"):
        rewards.sentiment(completions=["a"], sentiment=["happy"])
    with pytest.raises(ValueError, match="words and sentences must hold numbers from 1"):
        rewards.length(completions=["a"], words=[0])
    with pytest.raises(ValueError, match="unknown constraint 'no:such'; known are: change_case"):
        rewards.constraints(["a"], [["no:such"]], [[{}]])
    with pytest.raises(ValueError, match=r"needs the options \['num_bullets'\], but kwargs has \[\]"):
        rewards.constraints(["a"], [["detectable_format:number_bullet_lists"]], [[{}]])
    with pytest.raises(ValueError, match="kwargs has 1 entries for 2 constraints"):
        rewards.constraints(["a"], [["punctuation:no_comma", "startend:quotation"]], [[{}]])


FOLLOWED: list[tuple[str, dict[str, Any], str, str]] = [
    ("keywords:existence", {"keywords": ["owl"]}, "An owl sat there.", "A hawk sat there."),
    ("keywords:frequency", {"keyword": "owl", "frequency": 2, "relation": "at least"}, "Owl and owl.", "One owl."),
    ("keywords:forbidden_words", {"forbidden_words": ["owl"]}, "A hawk.", "An owl."),
    ("keywords:letter_frequency", {"letter": "z", "let_frequency": 2, "let_relation": "at least"}, "Fizz.", "Fiz."),
    ("language:response_language", {"language": "de"}, "Das ist ein schönes altes Haus am Fluss.", "It is a house."),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 2, "relation": "at least"},
        "Dr. Smith met Mr. Jones. They talked.",
        "Dr. Smith met Mr. Jones at 5 p.m. yesterday",
    ),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "One.\n\n***\n\nTwo.", "One. Two."),
    ("length_constraints:number_words", {"num_words": 3, "relation": "at least"}, "One two three.", "One two."),
    ("detectable_content:number_placeholders", {"num_placeholders": 1}, "Dear [name], hi.", "Dear Ann, hi."),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Bye.\nP.S. Call me.", "Bye. Call me."),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* One\n* Two", "* One"),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 1}, "A *bright* day.", "A bright day."),
    ("detectable_format:json_format", {}, '{"a": 1}', '{"a": 1'),
    ("detectable_format:title", {}, "<<Owls>>\nThey fly.", "Owls\nThey fly."),
    ("startend:end_checker", {"end_phrase": "The end."}, "They slept. The end.", "The end. They slept."),
    ("startend:quotation", {}, '"They fly."', "They fly."),
    ("change_case:english_capital", {}, "THE OWLS FLY OVER THE OLD HOUSE.", "The owls fly over the old house."),
    ("change_case:english_lowercase", {}, "the owls fly over the old house.", "The owls fly over the old house."),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "at least"},
        "The OWL saw a MOUSE.",
        "The owl saw a MOUSE.",
    ),
    ("punctuation:no_comma", {}, "They fly and sleep.", "They fly, sleep."),
    ("combination:two_responses", {}, "One.\n******\nTwo.", "One. Two."),
]


@pytest.mark.parametrize(("name", "options", "good", "bad"), FOLLOWED, ids=[row[0] for row in FOLLOWED])
def test_constraints_are_checked_without_a_network(name: str, options: dict[str, Any], good: str, bad: str) -> None:
    assert rewards.constraints([good, bad], [[name]] * 2, [[options]] * 2) == [1.0, 0.0]


def test_constraint_on_the_prompt_reads_it() -> None:
    asked = {"instruction_id_list": [["combination:repeat_prompt"]], "kwargs": [[{}]]}
    assert rewards.constraints(["Name an owl. The barn owl."], prompts=["Name an owl."], **asked) == [1.0]
    assert rewards.constraints(["The barn owl."], prompts=["Name an owl."], **asked) == [0.0]


def test_share_strict_loose_and_all_or_nothing() -> None:
    ids = [["punctuation:no_comma", "startend:quotation", "change_case:english_lowercase"]]
    options = [[{}, {"num_bullets": None}, None]]  # Arrow fills in keys of other rows with None
    text = ['Sure, here is the answer:\n"the owls fly over the old house."']
    assert rewards.constraints(text, ids, options) == [0.0]
    assert rewards.constraints_loose(text, ids, options) == [1.0]
    assert rewards.constraints(text, ids, [json.dumps(options[0])]) == [0.0]
    half = ['"They fly."']
    assert rewards.constraints(half, ids, options) == [pytest.approx(2 / 3)]
    assert rewards.make_constraints(all_or_nothing=True)(half, ids, options) == [0.0]
    assert rewards.make_constraints(loose=True, all_or_nothing=True)(text, ids, options) == [1.0]
    assert rewards.make_constraints(loose=True, all_or_nothing=True).__name__ == "constraints_loose_all"
    assert rewards.constraints(["a", "a"], [None, []], [None, None]) == [None, None]


def test_constraints_leave_the_random_state_the_log_and_the_output_alone(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    state = random.getstate()
    with caplog.at_level(logging.DEBUG):
        rewards.constraints(["123", "ok"], [["change_case:english_lowercase"]] * 2, [[{}]] * 2)
    assert random.getstate() == state
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_constraints_alone_are_gamed_by_form_and_intact_answers() -> None:
    asked: dict[str, Any] = {
        "instruction_id_list": [["length_constraints:number_words", "punctuation:no_comma"]] * 2,
        "kwargs": [[{"num_words": 20, "relation": "at least"}, {}]] * 2,
    }
    loop = "owl " * 20
    honest = "The owls live in the barn behind our house and fly out at night when the mice come to the field."
    assert rewards.constraints([loop, honest], **asked) == [1.0, 1.0]
    bad, good = rewards.composite(completions=[loop, honest], **asked)
    assert (bad, good) == (0.0, 1.0)


def test_intact_leaves_out_what_a_constraint_contradicts() -> None:
    german = "Das ist ein schönes altes Haus am Fluss, und der Hund schläft."
    ids = [["language:response_language"]]
    assert rewards.intact([german], instruction_id_list=ids)[0] == 1.0
    assert (rewards.intact([german])[0] or 0.0) < 0.5
    repeat = [["combination:repeat_prompt"]]
    question = "Name the bird that lives in our barn."
    assert rewards.intact([question], prompts=[question])[0] == 0.0
    assert rewards.intact([question], prompts=[question], instruction_id_list=repeat)[0] == 1.0


def test_composite_weighs_what_is_asked() -> None:
    text = "We love this wonderful garden."
    one = rewards.composite(completions=[text], sentiment=["positive"])
    both = rewards.composite(completions=[text], sentiment=["positive"], keywords=[["garden", "snow"]])
    assert one == [1.0]
    mean = (rewards.WEIGHTS["sentiment"] + 0.5 * rewards.WEIGHTS["keywords"]) / 0.5
    assert both == [pytest.approx(mean * 0.75)]
    assert rewards.composite(completions=[text]) == [None]
    assert set(rewards.WEIGHTS) == set(rewards.REWARDS)
