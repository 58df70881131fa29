"""Ordered examples, options and known hacks of the translation rewards."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st

from reward_models import translation
from reward_models.translation import EXAMPLES, REWARDS, WEIGHTS, LengthRatio

ROW = EXAMPLES[1]
NEAR = "Veuillez sauvegarder votre travail avant de fermer la fenêtre."

METRIC_ORDER = [ROW["completion"], NEAR, "Veuillez fermer la fenêtre.", "Bonjour à tous."]
# Each list goes from best to worst, strictly.
ORDERED: dict[str, list[str]] = {
    "chrf": METRIC_ORDER,
    "chrf_plus": METRIC_ORDER,
    "bleu": METRIC_ORDER,
    "ter": METRIC_ORDER,
    "target_language": [NEAR, "Enregistrer please your work", ROW["source"]],
    "no_copy": [NEAR, f"Veuillez {ROW['source'][7:22]} avant de fermer.", ROW["source"]],
    "length_ratio": [NEAR, f"{NEAR} Merci beaucoup à vous et bonne journée.", NEAR * 3],
    "composite": [
        ROW["completion"],
        NEAR,
        "Veuillez fermer la fenêtre.",
        ROW["source"],
        "",
    ],
}


def score(name: str, text: str, row: dict[str, Any] = ROW) -> float:
    columns = {key: [row[key]] for key in ("source", "reference", "target_language")}
    (value,) = getattr(translation, name)(completions=[text], **columns)
    assert value is not None
    return float(value)


@pytest.mark.parametrize("name", ORDERED)
def test_better_text_scores_higher(name: str) -> None:
    scores = [score(name, text) for text in ORDERED[name]]
    assert all(better > worse for better, worse in itertools.pairwise(scores)), scores


words = st.lists(st.sampled_from([*NEAR.split(), *ROW["source"].split(), "été", "."]), min_size=1, max_size=20)


@given(text=words.map(" ".join), reference=words.map(" ".join))
def test_metrics_are_those_of_sacrebleu(text: str, reference: str) -> None:
    row = {**ROW, "reference": reference}
    assert score("chrf", text, row) == pytest.approx(sacrebleu.sentence_chrf(text, [reference]).score / 100)
    plus = sacrebleu.sentence_chrf(text, [reference], word_order=2).score / 100
    assert score("chrf_plus", text, row) == pytest.approx(plus)
    assert score("bleu", text, row) == pytest.approx(min(1.0, sacrebleu.sentence_bleu(text, [reference]).score / 100))
    edits = 1.0 - sacrebleu.sentence_ter(text, [reference]).score / 100
    assert score("ter", text, row) == pytest.approx(max(0.0, edits))


def test_of_several_references_the_best_counts() -> None:
    row = {**ROW, "reference": ["Tout autre chose.", NEAR]}
    for name in ("chrf", "chrf_plus", "bleu", "ter", "length_ratio"):
        assert score(name, NEAR, row) == pytest.approx(1.0)
    (value,) = translation.composite(
        completions=[NEAR], source=[ROW["source"]], reference=[[]], target_language=["fr"]
    )
    assert value is None


def test_scripts_without_spaces_are_compared_by_characters() -> None:
    row = EXAMPLES[8]
    near, far = "图书馆每天上午九点开门。", "我喜欢在公园里散步。"
    assert score("bleu", near, row) > 0.5 > 0.1 > score("bleu", far, row)
    assert score("chrf_plus", near, row) == score("chrf", near, row) > score("chrf", far, row)
    without = translation.bleu(completions=[near], reference=[row["reference"]])
    assert (without[0] or 0.0) < score("bleu", near, row)


@pytest.mark.parametrize("row", EXAMPLES, ids=lambda row: row["target_language"])
def test_the_detector_knows_reference_from_source(row: dict[str, Any]) -> None:
    assert score("target_language", row["reference"], row) >= 0.79
    assert score("target_language", row["source"], row) <= 0.1


def test_numbers_need_no_language_where_the_source_has_none() -> None:
    row = {**ROW, "source": "12:30", "reference": "12:30"}
    assert score("target_language", "12:30", row) == 1.0
    assert score("target_language", "12:30") == 0.0
    assert score("no_copy", "12:30", row) == 1.0  # the reference copies it, too


def test_passages_left_untranslated_are_copies_and_names_are_not() -> None:
    row = {**ROW, "source": "Ada Lovelace met Charles Babbage in London in 1833.", "reference": None}
    assert score("no_copy", "Ada Lovelace rencontra Charles Babbage à Londres en 1833.", row) == 1.0
    assert score("no_copy", "Ada Lovelace met Charles Babbage à Londres en 1833.", row) < 0.6
    assert score("no_copy", row["source"], row) == 0.0
    assert score("no_copy", "London", {**row, "source": "London"}) == 0.0
    assert score("no_copy", "London", {**row, "source": "London", "reference": "London"}) == 1.0


@pytest.mark.parametrize(
    ("source", "text", "expected"),
    [
        ("Hello {name}!", "Bonjour {name} !", 1.0),
        ("Hello {name}!", "Bonjour {nom} !", 0.0),
        ("%s files, 100%", "%s fichiers, 100 %", 1.0),
        ("<b>Bold</b> text", "Texte <b>gras</b>", 1.0),
        ("<b>Bold</b> text", "Texte gras", 0.0),
        ("1,234.5 km in 12 h", "1.234,5 km en 12 h", 1.0),
        ("1,234.5 km in 12 h", "1.234,5 km en 13 h", 0.5),
        ("See https://example.org/a.", "Voir https://example.org/a.", 1.0),
        ("Mail a.b@example.org", "Écrivez à c@example.org", 0.0),
        ("No such things", "Rien de tel", 1.0),
        ("No such things", "Rien de tel 42", 0.0),
    ],
)
def test_what_needs_no_translation_is_preserved(source: str, text: str, expected: float) -> None:
    assert score("preserved", text, {**ROW, "source": source}) == pytest.approx(expected)


@given(length=st.integers(1, 300))
def test_length_ratio_rises_stays_and_falls(length: int) -> None:
    (value,) = LengthRatio(low=0.8, high=1.2, slack=0.0)(["x" * length], ["y" * 100], ["z" * 100])
    ratio = length / 100
    expected = (ratio - 0.4) / 0.4 if ratio < 0.8 else 1.0 if ratio <= 1.2 else (1.56 - ratio) / 0.36
    assert value == pytest.approx(min(1.0, max(0.0, expected)))


def test_length_ratio_without_reference_compares_with_the_source() -> None:
    lengths = translation.length_ratio(
        completions=["图书馆每天早上九点开门。", "图"], source=[EXAMPLES[8]["source"]] * 2
    )
    assert lengths[0] == 1.0
    assert (lengths[1] or 0.0) < 0.5
    with pytest.raises(ValueError, match=r"low 1\.5"):
        LengthRatio(low=1.5)


def test_composite_is_the_weighted_sum_where_the_metrics_are_high() -> None:
    assert set(WEIGHTS) == set(REWARDS)
    expected = sum(weight * score(name, NEAR) for name, weight in WEIGHTS.items())
    assert score("composite", NEAR) == pytest.approx(expected)
    without = translation.composite(completions=[NEAR], source=[ROW["source"]], reference=[ROW["reference"]])
    spared = sum(weight * score(name, NEAR) for name, weight in WEIGHTS.items() if name != "target_language")
    assert without == [pytest.approx(spared / (1.0 - WEIGHTS["target_language"]))]


def test_endless_texts_take_no_endless_time() -> None:
    start = time.process_time()
    for text in ("a.b-" * 20_000, "<a" * 20_000, "https://" * 10_000, "1,1." * 10_000, "x " * 10_000):
        score("composite", text)
        score("ter", text)
    assert time.process_time() - start < 10.0


# The documented ways to game single rewards: the composite must see through each.
LOOPHOLES: list[tuple[str, str, float]] = [
    ("target_language", "travail fenêtre fermer votre enregistrer", 0.9),
    ("no_copy", "Le chat dort sur la chaise.", 1.0),
    ("length_ratio", "x" * 60, 1.0),
    ("preserved", "Rien.", 1.0),
    ("chrf", f"{NEAR} {NEAR}", 0.6),
    ("chrf", "fenêtre la fermer de avant travail votre sauvegarder Veuillez.", 0.45),
]


@pytest.mark.parametrize(("name", "text", "at_least"), LOOPHOLES)
def test_a_loophole_of_one_reward_is_closed_by_the_composite(name: str, text: str, at_least: float) -> None:
    assert score(name, text) >= at_least
    assert score("composite", text) <= score("composite", NEAR) - 0.1


HACKS: dict[str, Callable[[int], str]] = {
    "empty": lambda index: "",
    "source": lambda index: EXAMPLES[index]["source"],
    "prompt echo": lambda index: EXAMPLES[index]["prompt"],
    "very long": lambda index: f"{EXAMPLES[index]['reference']} " * 30,
    "said twice": lambda index: f"{EXAMPLES[index]['reference']} {EXAMPLES[index]['reference']}",
    "all references": lambda index: " ".join(row["reference"] for row in EXAMPLES),
    "one word": lambda index: "the " * 12,
    "keywords": lambda index: " ".join(word for word in EXAMPLES[index]["source"].split() if len(word) > 4),
    "another row's": lambda index: EXAMPLES[index - 1]["reference"],
    "Latin": lambda index: "Gallia est omnis divisa in partes tres, quarum unam incolunt Belgae.",
    "the rest untranslated": lambda index: f"{EXAMPLES[index]['reference'][:12]}{EXAMPLES[index]['source'][12:]}",
    "translation and source": lambda index: f"{EXAMPLES[index]['reference']} ({EXAMPLES[index]['source']})",
    "invisible characters": lambda index: "\u200b".join(EXAMPLES[index]["reference"]),
    "first words": lambda index: EXAMPLES[index]["reference"][: len(EXAMPLES[index]["reference"]) // 3],
}


@pytest.mark.parametrize("hack", HACKS)
def test_composite_prefers_the_reference_to_each_hack(hack: str) -> None:
    rows = range(len(EXAMPLES))
    best = [score("composite", EXAMPLES[index]["reference"], EXAMPLES[index]) for index in rows]
    hacked = [score("composite", HACKS[hack](index), EXAMPLES[index]) for index in rows]
    assert all(a > b + 0.1 for a, b in zip(best, hacked, strict=True)), list(zip(best, hacked, strict=True))
    assert statistics.fmean(best) - statistics.fmean(hacked) >= 0.25, statistics.fmean(hacked)
