"""Ordered examples and documented hacks of the data augmentation rewards."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reward_models import augmentation as rewards

SEED = "The hotel room was clean and the staff were wonderful."
GOOD = "I loved how friendly everybody at the hotel was, and our room looked great every day."
ROW: dict[str, list[Any]] = {
    "seed": [SEED],
    "label": ["positive"],
    "others": [["What a great hotel, with kind people at the desk!"]],
}
TOPICS = [
    {"text": "The team won the match.", "label": "sports"},
    {"text": "A late goal decided the game.", "label": "sports"},
    {"text": "Fry the onions in butter.", "label": "cooking"},
    {"text": "Bake the bread in the oven.", "label": "cooking"},
]
ALL = {**rewards.REWARDS, "composite": rewards.composite}

# Each list goes from best to worst, strictly.
ORDERED = {
    "label_kept": [GOOD, "The hotel had a room.", "The hotel was dirty and the staff were horrible."],
    "similarity": [GOOD, "The hotel room was clean and the staff were kind and nice.", SEED],
    "diversity": [GOOD, "What a great hotel, with nice people at the bar!", ROW["others"][0][0]],
    "fluent": [GOOD, "hotel I the loved was room of the great a day.", "hotel room clean staff great love day"],
    "composite": [GOOD, "Our hotel staff helped.", SEED + " " + SEED, ""],
}


def score(name: str, text: str, **columns: Any) -> float:
    (found,) = ALL[name](completions=[text], **{**ROW, **columns})
    assert found is not None
    return found


@pytest.mark.parametrize("name", ORDERED)
def test_better_variants_score_higher(name: str) -> None:
    scores = [score(name, text) for text in ORDERED[name]]
    assert all(better > worse for better, worse in itertools.pairwise(scores)), scores


HACKS = {
    "copy": SEED,
    "copy with a word changed": "The hotel room was clean and the staff were lovely.",
    "copy with a tail": f"{SEED} I also liked the breakfast and the garden behind it.",
    "copy in capitals": SEED.upper(),
    "copy of another variant": ROW["others"][0][0],
    "label given away": "Great, wonderful, excellent, lovely, perfect, best.",
    "unrelated": "I love the wonderful music that the band played at the party.",
    "seed's words in disorder": "staff the of wonderful and clean were is room the a hotel was the",
    "other label": "The hotel room was filthy and I hated the rude people at the desk.",
    "much too long": " ".join(
        f"I loved the {word} of the hotel, and we were happy to stay there for {index + 2} days."
        for index, word in enumerate("garden food bar pool view lobby music beds light doors rooms walls".split())
    ),
}


@pytest.mark.parametrize("hack", HACKS)
def test_hacks_lose_in_the_composite(hack: str) -> None:
    assert score("composite", HACKS[hack]) <= score("composite", GOOD) - 0.3, score("composite", HACKS[hack])


def test_single_rewards_can_be_gamed_as_documented() -> None:
    assert score("label_kept", HACKS["label given away"]) == 1.0
    assert score("similarity", HACKS["seed's words in disorder"]) > 0.5
    assert score("diversity", "zzz qqq") == 1.0
    assert score("fluent", HACKS["unrelated"]) == 1.0
    assert score("similarity", "Our suite looked spotless.") == 0.0  # a paraphrase without a common word is missed


def test_labels_from_labeled_rows() -> None:
    given_rows: dict[str, Any] = {"label": ["sports"], "labeled": [TOPICS]}
    assert score("label_kept", "The team scored a late goal in the match.", **given_rows) == 1.0
    assert score("label_kept", "Bake the onions in the oven.", **given_rows) < 0.2
    assert score("label_kept", "Nothing that is known.", **given_rows) == pytest.approx(0.5 / 0.8)
    with pytest.raises(ValueError, match="label 'politics' is none of the labels of labeled: cooking, sports"):
        score("label_kept", "A vote.", label=["politics"], labeled=[TOPICS])
    unknown = rewards.label_kept(completions=["a"], label=["politics"], labeled=[None])
    assert unknown == [None]  # no judge for that label
    assert rewards.label_kept(completions=["a"], label=["politics"], labeled=[TOPICS[:2]]) == [None]


@settings(max_examples=30)
@given(st.lists(st.sampled_from(" ".join(row["text"] for row in TOPICS).split()), max_size=8).map(" ".join))
def test_naive_bayes_against_a_slow_reference(text: str) -> None:
    said = rewards.content(text)
    counts = {
        label: [w for r in TOPICS if r["label"] == label for w in rewards.content(r["text"])]
        for label in ("sports", "cooking")
    }
    vocabulary = {word for words in counts.values() for word in words}
    joint = {}
    for label, words in counts.items():
        joint[label] = 0.5
        for word in said:
            if word in vocabulary:
                joint[label] *= (words.count(word) + 0.5) / (len(words) + 0.5 * (len(vocabulary) + 1))
    expected = joint["sports"] / sum(joint.values())
    model = rewards._bayes(tuple((row["text"], row["label"]) for row in TOPICS))
    assert math.isclose(rewards._posterior(model, text, "sports"), expected, rel_tol=1e-9)


def test_diversity_is_a_function_of_the_row() -> None:
    others = [["Completely different words."], [GOOD], [], None]
    scores = rewards.diversity(completions=[GOOD] * 4, others=others)
    assert scores == [1.0, 0.0, None, None]


def test_composite_is_what_it_says() -> None:
    text = "The hotel was fine and our staff guide was happy, although the room had no light."
    expected = score("fluent", text)
    for name, weight in rewards.WEIGHTS.items():
        expected *= max(0.05, score(name, text)) ** weight
    assert score("composite", text) == pytest.approx(expected)
    assert sum(rewards.WEIGHTS.values()) == pytest.approx(1.0)
    assert set(rewards.WEIGHTS) | {"fluent"} == set(rewards.REWARDS)
    assert rewards.composite(completions=[text], **{**ROW, "seed": [None]}) == [None]
