"""Ordered examples, slow reference versions and known hacks of the summarization rewards."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward_models import summarization
from reward_models._prose import fragment_lengths
from reward_models.summarization import EXAMPLES, REWARDS, WEIGHTS, Compression

SOURCE = EXAMPLES[0]["source"]
GOOD = EXAMPLES[0]["completion"]
LEAD = SOURCE.split(". ")[0] + "."

# Each list goes from best to worst, strictly.
ORDERED: dict[str, list[str]] = {
    "coverage": [
        GOOD,
        "Shopkeepers on the east bank are worried.",
        "A walk by the sea is good for the health of most people.",
    ],
    "compression": [GOOD, f"{GOOD} {LEAD}", f"{GOOD} {LEAD} {LEAD}", SOURCE],
    "entities": [
        GOOD,
        "The council of Ellerby will close Tower Bridge for eighteen months.",
        "The council of Whitby will close Tower Bridge for 6 months.",
    ],
    "grounding": [
        GOOD,
        "Ellerby council will close a famous crossing, which angers farmers, drivers and tourists.",
        "A walk by the sea is good for the health of most people.",
    ],
    "abstractive": [GOOD, "Ellerby will close Mill Bridge to cars for eighteen months, which worries many.", LEAD],
    "readable": [
        GOOD,
        GOOD[:-1],
        "Council, bridge, cars, engineers, piers, foundation, river, flood, repairs, county, walkway.",
    ],
    "composite": [
        GOOD,
        "The council of Ellerby will close Mill Bridge for repairs, and shopkeepers in Whitby protest.",
        LEAD,
        EXAMPLES[1]["completion"],
        "",
    ],
}


def score(name: str, text: str, source: str | None = SOURCE) -> float:
    (value,) = getattr(summarization, name)(completions=[text], source=[source])
    assert value is not None
    return float(value)


@pytest.mark.parametrize("name", ORDERED)
def test_better_text_scores_higher(name: str) -> None:
    scores = [score(name, text) for text in ORDERED[name]]
    assert all(better > worse for better, worse in itertools.pairwise(scores)), scores


def test_rouge_orders_texts_by_their_overlap_with_the_reference() -> None:
    near = "Ellerby closes Mill Bridge to cars for eighteen months to repair its piers."
    texts = [GOOD, near, "The council met on Tuesday to talk about a bridge.", "Quite another thing"]
    scores = summarization.rouge(completions=texts, reference=[GOOD] * 4)
    assert scores[0] == 1.0
    assert scores[-1] == 0.0
    assert all((better or 0) > (worse or 0) for better, worse in itertools.pairwise(scores)), scores


def test_rouge_is_the_mean_of_three_and_knows_other_letters() -> None:
    # Reference a b c, text a c: unigrams P 1, R 2/3 -> 0.8; bigrams 0; longest common subsequence as unigrams.
    (value,) = summarization.rouge(completions=["alpha gamma"], reference=["alpha beta gamma"])
    assert value == pytest.approx((0.8 + 0.0 + 0.8) / 3)
    assert summarization.rouge(completions=["Мы идём домой"], reference=["Мы идём домой"]) == [1.0]
    assert summarization.rouge(completions=["Они сидят"], reference=["Мы идём домой"]) == [0.0]


def test_rouge_gives_credit_for_words_in_no_order_as_documented() -> None:
    (value,) = summarization.rouge(completions=[" ".join(sorted(GOOD.split()))], reference=[GOOD])
    assert value is not None
    assert 1 / 3 < value < 0.6


def slow_fragments(text: list[str], source: list[str]) -> list[int]:
    """The procedure of Grusky et al. 2018, as printed."""
    found = []
    i = 0
    while i < len(text):
        best = 0
        j = 0
        while j < len(source):
            if text[i] != source[j]:
                j += 1
                continue
            k = 0
            while i + k < len(text) and j + k < len(source) and text[i + k] == source[j + k]:
                k += 1
            best = max(best, k)
            j += k
        if best:
            found.append(best)
        i += max(best, 1)
    return found


@given(text=st.lists(st.sampled_from("abcdef"), max_size=15), source=st.lists(st.sampled_from("abcd"), max_size=20))
def test_fragments_are_no_shorter_than_the_printed_procedure_finds(text: list[str], source: list[str]) -> None:
    """The printed one skips over matches that overlap one another; wherever none do, both find the same."""
    found, printed = fragment_lengths(text, source), slow_fragments(text, source)
    assert sum(found) == sum(printed) == sum(word in source for word in text)
    assert (found[0] if found else 0) >= (printed[0] if printed else 0)
    if len(set(source)) == len(source):
        assert found == printed


@given(count=st.integers(1, 150))
def test_compression_band(count: int) -> None:
    source = " ".join(f"word{place}" for place in range(100))
    (value,) = Compression(low=0.1, high=0.3)(["word " * count], [source])
    expected = count / 10 if count < 10 else 1.0 if count <= 30 else max(0.0, (60 - count) / 30)
    assert value == pytest.approx(expected)


def test_compression_of_very_short_and_very_long_sources() -> None:
    assert Compression()(["The shop is shut today."], ["The shop in Ellerby is shut today."]) == [1.0]
    assert Compression()(["word " * 60], ["word " * 100_000]) == [1.0]
    with pytest.raises(ValueError, match=r"low 0\.5 <= high 0\.3"):
        Compression(low=0.5, high=0.3)


@pytest.mark.parametrize(
    ("text", "strangers"),
    [
        ("Ellerby closes Mill Bridge.", 0),
        ("The work on the bridge costs 4.2 million pounds.", 0),
        ("The work on the bridge costs 4.3 million pounds.", 1),
        ("Two piers lost a third of their foundation.", 0),
        ("Nine piers lost a third of their foundation.", 1),
        ("The mayor of London and Harlow agreed.", 1),
        ("The MB is closed for twenty minutes.", 0),
        ("The USA closed it.", 1),
        ("The bridge of Paris, Rome and Oslo costs 99 pounds.", 4),
    ],
)
def test_each_name_or_number_that_the_source_lacks_halves_entities(text: str, strangers: int) -> None:
    assert score("entities", text) == pytest.approx(0.5**strangers)


def test_numbers_are_compared_by_value() -> None:
    source = "The firm sold 1,200 cars and 007 boats to twelve people at 3.50 euros."
    assert score("entities", "It sold 1200 cars, 7 boats, to 12 people.", source) == 1.0
    assert score("entities", "It sold 120 cars.", source) == 0.5


# The documented ways to game single rewards: what a text gets there, and that the composite sees through it.
LOOPHOLES: list[tuple[str, Callable[[dict[str, Any]], str]]] = [
    ("coverage", lambda row: row["source"].split(". ")[0] + "."),
    ("compression", lambda row: "word " * 20),
    ("entities", lambda row: "It is about something that happened to somebody."),
    ("grounding", lambda row: row["source"]),
    ("readable", lambda row: "This is a report about what people did, and it is quite interesting to read."),
]


@pytest.mark.parametrize(("name", "make"), LOOPHOLES, ids=[name for name, _ in LOOPHOLES])
def test_a_loophole_of_one_reward_is_closed_by_the_composite(name: str, make: Callable[[dict[str, Any]], str]) -> None:
    for row in EXAMPLES:
        hacked = make(row)
        floor = 0.45 if name == "coverage" else 0.9  # copies count half there
        assert score(name, hacked, row["source"]) >= floor
        assert score("composite", hacked, row["source"]) <= score("composite", row["completion"], row["source"]) - 0.3


def _with_strange_words(every: int) -> str:
    strange = "zebra lion tiger panda camel otter moose raven gecko llama whale shark".split()
    words = SOURCE.split()[:24]
    for place in range(every - 1, len(words), every):
        words[place] = strange[place // every]
    return " ".join(words) + "."


@pytest.mark.parametrize("every", [3, 4, 6])
def test_a_copy_with_single_words_changed_is_a_copy(every: int) -> None:
    assert score("abstractive", _with_strange_words(every)) == 0.0
    assert score("composite", _with_strange_words(every)) < score("composite", GOOD) - 0.3


def test_a_copy_with_every_other_word_changed_passes_as_abstractive_and_not_as_grounded() -> None:
    """Documented hack."""
    hacked = _with_strange_words(2)
    assert score("abstractive", hacked) > 0.3
    assert score("grounding", hacked) < 0.5
    assert score("composite", hacked) < score("composite", GOOD) - 0.2


def test_a_false_sentence_of_the_right_words_is_not_seen() -> None:
    """Documented limit of every reward here."""
    false = GOOD.replace("will close", "will never close")
    assert score("composite", false) >= score("composite", GOOD) - 0.05


HACKS: dict[str, Callable[[int], str]] = {
    "empty": lambda index: "",
    "lead copied": lambda index: ". ".join(EXAMPLES[index]["source"].split(". ")[:1]) + ".",
    "two sentences copied": lambda index: ". ".join(EXAMPLES[index]["source"].split(". ")[:2]) + ".",
    "last sentence copied": lambda index: EXAMPLES[index]["source"].split(". ")[-1],
    "source": lambda index: EXAMPLES[index]["source"],
    "prompt echo": lambda index: EXAMPLES[index]["prompt"],
    "keywords": lambda index: " ".join(_keywords(index)[:12]),
    "keywords as a sentence": lambda index: f"The {' '.join(_keywords(index)[:12])}.",
    "keywords with commas": lambda index: f"{', '.join(_keywords(index)[:10]).capitalize()}.",
    "keywords with glue": lambda index: f"The {' of the '.join(_keywords(index)[:8])}.",
    "very long": lambda index: f"{EXAMPLES[index]['completion']} " * 30,
    "said twice": lambda index: f"{EXAMPLES[index]['completion']} {EXAMPLES[index]['completion']}",
    "all summaries": lambda index: " ".join(row["completion"] for row in EXAMPLES),
    "one word": lambda index: "the " * 25,
    "another row's": lambda index: EXAMPLES[index - 1]["completion"],
    "generic": lambda index: "The report describes recent events and their consequences for the people involved.",
    "German": lambda index: "Der Bericht beschreibt, was geschehen ist und was die Leute davon halten.",
    "French": lambda index: "Le rapport décrit ce qui est arrivé et ce que les gens en pensent.",
    "invisible characters": lambda index: "\u200b".join(EXAMPLES[index]["completion"]),
    "look-alikes": lambda index: EXAMPLES[index]["completion"].translate(
        str.maketrans("aeoc", "\u0430\u0435\u043e\u0441")
    ),
    "sorted words": lambda index: " ".join(sorted(EXAMPLES[index]["completion"].split())),
}


def _keywords(index: int) -> list[str]:
    return list(dict.fromkeys(word.strip(".,") for word in EXAMPLES[index]["source"].split() if len(word) > 4))


@pytest.mark.parametrize("hack", HACKS)
def test_composite_prefers_the_reference_to_each_hack(hack: str) -> None:
    rows = range(len(EXAMPLES))
    best = [score("composite", EXAMPLES[index]["completion"], EXAMPLES[index]["source"]) for index in rows]
    hacked = [score("composite", HACKS[hack](index), EXAMPLES[index]["source"]) for index in rows]
    assert all(a > b + 0.05 for a, b in zip(best, hacked, strict=True)), list(zip(best, hacked, strict=True))
    assert statistics.fmean(best) - statistics.fmean(hacked) >= 0.3, statistics.fmean(hacked)


def test_endless_texts_take_no_endless_time() -> None:
    start = time.process_time()
    for text in ("the of " * 4000, "a." * 20_000, "A" * 100_000, f"{SOURCE} " * 20, '."' * 20_000):
        score("composite", text, "the of the a " * 500)
    assert time.process_time() - start < 5.0


def test_composite_is_the_weighted_sum() -> None:
    assert set(WEIGHTS) == set(REWARDS)
    expected = sum(weight * score(name, LEAD) for name, weight in WEIGHTS.items())
    assert score("composite", LEAD) == pytest.approx(expected)


def test_other_languages_are_judged_without_english_function_words() -> None:
    source = (
        "Der Stadtrat von Ellerby hat am Dienstag beschlossen, die Mühlbrücke für achtzehn Monate zu sperren. "
        "Ingenieure fanden im März heraus, dass zwei Pfeiler unterspült sind. Die Händler fürchten um ihre Kunden."
    )
    good = "Ellerby sperrt die Mühlbrücke, weil zwei ihrer Pfeiler unterspült sind, was die Händler sorgt."
    assert score("readable", good, source) == 1.0
    assert score("composite", good, source) > score("composite", source.split(". ")[0] + ".", source) + 0.1
