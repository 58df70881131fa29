"""Ordered examples, options and known hacks of the generic rewards."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward_models import _formats, generic
from reward_models.generic import EXAMPLES, JsonSchema, LengthBand, Matches, Overlong, Repetition, composite

PROSE = "The ferry leaves at noon. It takes an hour to reach the island, where a bus is waiting."
PROMPT = "Tell a visitor in two sentences how the ferry to the island and the bus from the harbor work together."

# Each list goes from best to worst, strictly.
ORDERED: dict[str, list[str]] = {
    "repetition": [PROSE, f"{PROSE} {PROSE[:25]}", f"{PROSE} {PROSE[:60]}", f"{PROSE} {PROSE}"],
    "length": [PROSE, "Leaves at noon.", "Noon.", ""],
    "ends_properly": [PROSE, f"{PROSE} It takes ...", PROSE[:-9]],
    "no_prompt_echo": [PROSE, f"{PROSE[:25]} {PROMPT[:60]}", f"It is so. {PROMPT}", PROMPT],
    "clean": [PROSE, PROSE.replace("noon", "n\u043eon"), PROSE.replace("e", "\u0435")],
    "composite": [PROSE, PROSE[:-9], PROMPT, f"{PROSE} {PROSE}", "noon " * 90, ""],
}


def single(reward: Callable[..., Any], text: Any, **columns: Any) -> float | None:
    (score,) = reward(prompts=[PROMPT], completions=[text], **{key: [value] for key, value in columns.items()})
    return score


@pytest.mark.parametrize("name", ORDERED)
def test_better_text_scores_higher(name: str) -> None:
    scores = [single(getattr(generic, name), text) for text in ORDERED[name]]
    assert all(better > worse for better, worse in itertools.pairwise(scores)), scores


def slow_repetition(words: list[str], size: int) -> float:
    size = max(1, min(size, len(words) // 2))
    grams = [words[start : start + size] for start in range(len(words) - size + 1)]
    repeated = sum(gram in grams[:place] for place, gram in enumerate(grams))
    return 1.0 - min(1.0, repeated / len(grams) / 0.5)


@given(words=st.lists(st.sampled_from("abcd"), min_size=1, max_size=25), size=st.integers(1, 4))
def test_repetition_counts_n_grams_that_stood_before(words: list[str], size: int) -> None:
    assert single(Repetition(size=size), " ".join(words)) == pytest.approx(slow_repetition(words, size))


@pytest.mark.parametrize(
    "text", ["no no no no", "a" * 500, "ha ha! " * 20, "我" * 30, f"{PROSE} {PROSE} {PROSE}", "!!!"]
)
def test_loops_of_any_kind_are_repetition(text: str) -> None:
    assert (single(generic.repetition, text) or 0.0) <= 0.2


def test_repetition_is_blind_to_lists_and_the_composite_is_held_by_its_row() -> None:
    """Documented hack: distinct keywords don't repeat; where the row asks for a form, the composite loses."""
    row = EXAMPLES[2]
    listed = " ".join(dict.fromkeys(row["prompt"].split()))
    assert single(generic.repetition, listed) == 1.0
    assert single(composite, listed, pattern=row["pattern"]) == 0.0


@given(count=st.integers(0, 60))
def test_length_band_rises_stays_and_falls(count: int) -> None:
    score = LengthBand(low=10, high=20, zero_low=2, zero_high=40)
    expected = 0.0 if count <= 2 or count >= 40 else (count - 2) / 8 if count < 10 else min(1.0, (40 - count) / 20)
    assert single(score, "word " * count) == pytest.approx(expected)


def test_length_units() -> None:
    assert single(LengthBand(low=2, high=2, zero_low=2, unit="sentences"), PROSE) == 1.0
    assert single(LengthBand(low=6, high=6, zero_low=6, unit="characters"), "abc def"[:6]) == 1.0
    assert single(LengthBand(low=3, high=3, zero_low=3), "图书馆") == 1.0
    in_tokens = LengthBand(low=2, high=2, zero_low=2, unit="tokens")
    assert in_tokens(["x", "x"], completion_ids=[[1, 2], [1, 2, 3, 4]]) == [1.0, 0.0]
    with pytest.raises(ValueError, match="completion_ids"):
        in_tokens(["x"])


def test_overlong_is_the_formula_of_dapo() -> None:
    lengths = [0, 80, 81, 90, 100, 101, 500]
    expected = [0.0, 0.0, -0.05, -0.5, -1.0, -1.0, -1.0]
    assert Overlong(max_tokens=100, ramp_tokens=20)([[7] * length for length in lengths]) == pytest.approx(expected)


def test_overlong_lets_nothing_pass_and_the_composite_does_not() -> None:
    """Documented hack: the empty completion is never too long."""
    assert generic.overlong([[]]) == [0.0]
    assert single(composite, "") == 0.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *[
            (text, 1.0)
            for text in ("Done.", 'He said "go!"', "Done (at last.)", "完了。", "Is it?*", "[1, 2]", '{"a": {}}')
        ],
        *[("```python\nx = 1\n```", 1.0), ("And then ...", 0.5), ("Und dann…", 0.5)],
        *[(text, 0.0) for text in ("And the", "first,", "...", ".", "", "x)", "```\nx = 1", "(see below", "[1, 2]]")],
    ],
)
def test_endings(text: str, expected: float) -> None:
    assert single(generic.ends_properly, text) == expected


def test_a_period_after_a_fragment_ends_it_and_costs_elsewhere() -> None:
    """Documented hack of ends_properly; a fragment with a period still loses to the whole text on length."""
    assert single(generic.ends_properly, "And the.") == 1.0
    assert (single(composite, "And the.") or 0.0) < (single(composite, PROSE) or 0.0)


def test_echo_reads_conversational_prompts_and_spares_short_quotes() -> None:
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": PROMPT}]
    assert generic.no_prompt_echo(prompts=[chat], completions=[PROMPT]) == [0.0]
    assert single(generic.no_prompt_echo, f"To go to the island, take the ferry to the island at noon. {PROSE}") == 1.0


@pytest.mark.parametrize(
    "text",
    [
        *[
            "p\u0430ypal is sаfe",
            "zero\u200bwidth in\u200bside",
            "ｆｕｌｌ width",
            "𝐛𝐨𝐥𝐝 text",
            "z\u0336\u0337\u0338a\u0336\u0337\u0338lgo it",
        ],
        *["\x07bell \x00nul", "\u202eright to left\u202c", "private \ue000 \ue001"],
    ],
)
def test_unicode_tricks_are_not_clean(text: str) -> None:
    assert (single(generic.clean, text) or 0.0) <= 0.5


@pytest.mark.parametrize(
    "text",
    [
        *[
            "Café naïve – “fine” … 20 °C, 5 €",
            "Мы встретимся завтра",
            "图书馆每天开门。",
            "مرحبا بكم\u200cها",
            "हिन्दी में\u200dलिखा",
            "Ελληνικά",
        ],
        *["👩\u200d🔬 works", "tab\tand\nline", "\N{GREEK SMALL LETTER ALPHA}-particles and β decay"],
    ],
)
def test_ordinary_text_of_many_languages_is_clean(text: str) -> None:
    assert single(generic.clean, text) == 1.0


@pytest.mark.parametrize("row", [row for row in EXAMPLES if row["language"]], ids=lambda row: row["prompt"][:20])
def test_language_tells_the_examples_apart(row: dict[str, Any]) -> None:
    for other in ("en", "fr", "de", "es"):
        score = single(generic.language, row["completion"], language=other) or 0.0
        assert score == 1.0 if other == row["language"] else score < 0.2


def test_language_codes() -> None:
    text = "Le musée est fermé le lundi, mais le jardin reste ouvert."
    assert single(generic.language, text, language="fr-CA") == single(generic.language, text, language="fr_FR") == 1.0
    with pytest.raises(ValueError, match="'French' is unknown to the detector"):
        single(generic.language, text, language="French")
    assert single(generic.language, "12 + 30 = 42", language="fr") == 0.0


def test_a_bag_of_the_languages_words_passes_as_documented() -> None:
    assert (single(generic.language, "musée fermé jardin ouvert lundi reste", language="fr") or 0.0) > 0.9


def test_patterns() -> None:
    assert single(generic.matches, " Answer: 42\n", pattern=r"Answer: \d+") == 1.0
    assert single(generic.matches, "The Answer: 42", pattern=r"Answer: \d+") == 0.0
    assert single(Matches(r"<think>.*</think>.+"), "<think>\na\n</think>\nb") == 1.0
    with pytest.raises(ValueError, match="no regular expression"):
        Matches("(")


def test_catastrophic_backtracking_ends_and_counts_as_no_match(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_formats, "MATCH_SECONDS", 0.1)
    start = time.process_time()
    assert single(generic.matches, "a" * 60 + "!", pattern=r"(a|a)*b|(a+)+$") == 0.0
    assert single(generic.matches, "a" * 5000 + "!", pattern=r"(.*)*(.*)*(.*)*[^!]") == 0.0
    assert time.process_time() - start < 5.0


def test_endless_texts_take_no_endless_time() -> None:
    start = time.process_time()
    for text in ("." * 100_000 + "x", '"' * 100_000, '."' * 50_000, "```json\n" * 20_000, "\u200b\u0430" * 20_000):
        single(composite, text, schema="{}", language="en", pattern=".*")
        single(generic.json_valid, text)
    assert time.process_time() - start < 5.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *[('{"a": [1, 2.5, null, true]}', 1.0), ("[]", 1.0), (' {"a": 1}\n', 1.0), ('```json\n{"a": 1}\n```', 0.3)],
        *[(text, 0.0) for text in ("", "42", '"a"', "{'a': 1}", '{"a": NaN}', '{"a": 1, "a": 2}', 'Here: {"a": 1}')],
        *[("[" * 100_000, 0.0), (f"[{'9' * 10_000}]", 0.0), ('{"a": 1}{"b": 2}', 0.0)],
    ],
)
def test_json_validity(text: str, expected: float) -> None:
    assert single(generic.json_valid, text) == expected


@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda v: st.lists(v) | st.dictionaries(st.text(), v),
        max_leaves=8,
    )
)
def test_json_is_what_json_writes(value: Any) -> None:
    assert single(generic.json_valid, json.dumps([value])) == 1.0


SCHEMA = json.loads(EXAMPLES[7]["schema"])


def test_schema_orders_valid_nearly_valid_wrong_and_no_json() -> None:
    answers = [
        '{"name": "Ann Lee", "city": "Rome", "age": 30}',
        '{"name": "Ann Lee", "city": "Rome", "age": "30"}',
        '{"name": "Ann Lee", "city": "", "age": "30"}',
        "Name: Ann Lee, city: Rome, age: 30",
    ]
    scores = [single(generic.json_schema, text, schema=SCHEMA) or 0.0 for text in answers]
    assert scores == [1.0, 0.5, 0.25, 0.0]
    assert [single(JsonSchema(SCHEMA), text) for text in answers] == scores
    assert single(generic.json_schema, answers[0], schema=json.dumps(SCHEMA)) == 1.0
    assert single(generic.json_schema, "42", schema={"type": "integer"}) == 1.0
    assert single(generic.json_schema, f"```\n{answers[0]}\n```", schema=SCHEMA) == pytest.approx(0.3)


@pytest.mark.parametrize("schema", ["{", "[]", '{"type": "strin"}', {"minimum": "x"}, "42"])
def test_what_is_no_schema_is_said_to_be_none(schema: Any) -> None:
    with pytest.raises(ValueError, match="no JSON schema"):
        single(generic.json_schema, "{}", schema=schema)


def test_remote_references_are_not_fetched() -> None:
    with pytest.raises(ValueError, match="not fetched"):
        single(generic.json_schema, "{}", schema={"$ref": "https://example.org/schema.json"})


def test_empty_json_is_valid_and_stopped_by_schema_and_composite() -> None:
    """Documented hack of json_valid; the emptiest valid value is the one of json_schema."""
    row = EXAMPLES[7]
    assert single(generic.json_valid, "{}") == 1.0
    assert (single(generic.json_schema, "{}", schema=row["schema"]) or 0.0) < 0.2
    assert (single(composite, "{}", schema=row["schema"]) or 0.0) < 0.1
    assert single(generic.json_schema, "{}", schema={"type": "object"}) == 1.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Repetition(size=0), "size 0"),
        (lambda: Repetition(worst=0.0), "worst 0.0"),
        (lambda: LengthBand(low=9, high=3), "low 9 <= high 3"),
        (lambda: LengthBand(unit="lines"), "'lines'"),  # type: ignore[arg-type]
        (lambda: Overlong(max_tokens=10, ramp_tokens=20), "ramp_tokens 20"),
    ],
)
def test_options_that_make_no_sense(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


HACKS: dict[str, Callable[[dict[str, Any], dict[str, Any]], str]] = {
    "empty": lambda row, other: "",
    "very long": lambda row, other: f"{row['completion']} " * 40,
    "said twice": lambda row, other: f"{row['completion']} {row['completion']}",
    "one word": lambda row, other: "the " * 40,
    "prompt echo": lambda row, other: row["prompt"],
    "invisible characters": lambda row, other: "\u200b".join(row["completion"]),
    "invisible words": lambda row, other: row["completion"].replace(" ", " \u2060"),
    "look-alikes": lambda row, other: row["completion"].translate(str.maketrans("aeoc", "\u0430\u0435\u043e\u0441")),
    "cut off": lambda row, other: row["completion"][: 2 * len(row["completion"]) // 3].rstrip(".!?"),
}


@pytest.mark.parametrize("hack", HACKS)
@pytest.mark.parametrize("row", EXAMPLES, ids=lambda row: row["prompt"][:20])
def test_composite_prefers_the_reference_to_each_hack(row: dict[str, Any], hack: str) -> None:
    columns = {key: row[key] for key in ("language", "pattern", "schema")}
    texts = [row["completion"], HACKS[hack](row, row)]
    best, hacked = (
        composite(prompts=[row["prompt"]], completions=[text], **{k: [v] for k, v in columns.items()})[0]
        for text in texts
    )
    assert best is not None
    assert hacked is not None
    assert best > 0.95
    assert hacked < best - 0.1, (hacked, best)


def test_another_rows_answer_is_caught_only_by_what_the_row_asks_for() -> None:
    """Documented limit: hygiene says nothing about the subject."""
    first, second, maths = EXAMPLES[0], EXAMPLES[1], EXAMPLES[6]
    assert single(composite, second["completion"], language="en") == pytest.approx(
        single(composite, first["completion"], language="en"), abs=0.05
    )
    assert single(composite, second["completion"], pattern=maths["pattern"]) == 0.0
