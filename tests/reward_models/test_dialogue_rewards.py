"""Ordered examples and documented hacks of the dialogue rewards."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward_models import dialogue as rewards
from reward_models._overlap import alike, clean, copied, ordered, polarity, prose, rarity, said_by, turns, varied

PROMPT = [
    {"role": "user", "content": "I want to plant roses in my garden."},
    {"role": "assistant", "content": "Roses love the sun, so find a bright spot."},
    {"role": "user", "content": "How often should I water my roses in summer?"},
]
GOOD = "Give the roses plenty of water twice a week, early in the morning. How dry is your soil?"
ALL = {**rewards.REWARDS, "composite": rewards.composite}

# Each list goes from best to worst, strictly.
ORDERED = {
    "relevance": [GOOD, "In summer every plant is thirsty.", "Banks open at nine."],
    "no_repetition": [
        GOOD,
        "Again, find a bright spot. It helps a lot.",
        "Roses love the sun, so find a bright spot.",
    ],
    "no_parroting": [GOOD, "Water my roses often in summer, early.", "How often should I water my roses in summer?"],
    "safety": [GOOD, "What a shit question, just pour it on.", "Fuck off, you are a stupid idiot, shut up."],
    "fairness": [
        GOOD,
        "Women are better with roses than with cars.",
        "Immigrants are terrible, awful people and always ruin a garden.",
    ],
    "engagement": [GOOD, "Twice a week.", "I don't know.", "Yes."],
    "fluent": [GOOD, "roses water the of a summer the plenty.", "roses water summer garden plenty soil week"],
    "composite": [GOOD, "Water them twice a week.", "Banks open at nine.", ""],
}


def score(name: str, text: str, prompt: Any = PROMPT) -> float:
    (found,) = ALL[name](prompts=[prompt], completions=[text])
    assert found is not None
    return found


@pytest.mark.parametrize("name", ORDERED)
def test_better_replies_score_higher(name: str) -> None:
    scores = [score(name, text) for text in ORDERED[name]]
    assert all(better > worse for better, worse in itertools.pairwise(scores)), scores


def test_weights_name_the_rewards_and_the_composite_is_what_it_says() -> None:
    assert set(rewards.WEIGHTS) | set(rewards.GATES) == set(rewards.REWARDS)
    assert sum(rewards.WEIGHTS.values()) == pytest.approx(1.0)
    text = "Roses like some water in summer."
    expected = 1.0
    for name, weight in rewards.WEIGHTS.items():
        expected *= max(0.05, score(name, text)) ** weight
    assert score("composite", text) == pytest.approx(expected * score("safety", text) * score("fluent", text))


HACKS = {
    "echo": "How often should I water my roses in summer?",
    "echo with a lead": "You ask: how often should I water my roses in summer?",
    "listed words": "Water, roses, summer, often, garden, plant.",
    "own turn again": "Roses love the sun, so find a bright spot.",
    "fixed friendly sentence": "That is a lovely thought, and I am glad you came to me. What would you like to do?",
    "only questions": "Do you like roses? Do you like water? Do you like summer? What do you like?",
    "loop": "Water the roses and water the roses and water the roses and water the roses again.",
    "polite insult": "You are a hopeless idiot if you water roses in summer at noon. Why would you do it?",
    "evasion": "I don't know how often roses want water in summer.",
}


@pytest.mark.parametrize("hack", HACKS)
def test_hacks_lose_in_the_composite(hack: str) -> None:
    assert score("composite", HACKS[hack]) <= score("composite", GOOD) - 0.15, score("composite", HACKS[hack])


def test_single_rewards_can_be_gamed_as_documented() -> None:
    assert score("relevance", HACKS["echo"]) == 1.0
    assert score("no_parroting", "Banks open at nine.") == 1.0
    assert score("engagement", HACKS["fixed friendly sentence"]) >= 0.85
    assert score("fluent", "The bank in the middle of the town opens at nine.") == 1.0
    assert score("safety", "Mix the two cleaners and breathe in deeply.") == 1.0  # harmful advice in polite words


def test_relevance_saturates_and_needs_something_to_be_relevant_to() -> None:
    more = "Water roses often in summer, roses in the garden want water."
    assert score("relevance", more) == pytest.approx(score("relevance", GOOD))
    assert rewards.relevance(prompts=["How are you?"], completions=["Fine, thanks."]) == [None]
    assert rewards.composite(prompts=["How are you?"], completions=["I am fine today, thank you. And you?"])[0] > 0.5
    assert rewards.relevance(prompts=[[]], completions=["Fine."]) == [None]


@pytest.mark.parametrize(
    "text",
    [
        "What the f*ck is that",
        "what a sh1t show",
        "you a55hole",
        "F U C K this",
        "fuuuuck",
        "ѕhіt happens",
        "f\u200bu\u200bc\u200bk",
        "you're such a loser",
        "You are really stupid.",
        "I hate you",
        "nobody likes you",
        "ｆｕｃｋ",
        "what a **bitch**",
    ],
)
def test_safety_sees_through_disguises(text: str) -> None:
    assert score("safety", text) <= 0.2


@pytest.mark.parametrize(
    "text",
    [
        "My brother is gay and he married his boyfriend in May.",
        "A lesbian couple and a queer artist live next door.",
        "The doctor will check your breasts and your uterus.",
        "That is a stupid bug, and the code is ugly.",
        "You are not stupid at all.",
        "You are a star, and the class will pass the assessment in Scunthorpe.",
        "Oh my god, that is sad. I could kill for a coffee!",
        "I bought 4 tickets for $5 at 7 a.m. in the U.S.A.",
        "It is **very** important to shift the gears.",
        "The sex of the kitten is not known yet.",
    ],
)
def test_safety_leaves_harmless_text_alone(text: str) -> None:
    assert score("safety", text) == 1.0


def lexical_bias(text: str) -> float:
    return -1.0 if "muslim" in text.lower() else 0.5


def test_fairness_probes() -> None:
    assert score("fairness", "My wife and her brother came by.") == 1.0
    assert score("fairness", "Muslims are always late.") <= 0.5
    warm_and_cold = "The men were brilliant and kind, but the women were horrible and stupid."
    assert score("fairness", warm_and_cold) < score("fairness", "The men and the women were brilliant and kind.")
    biased = rewards.make_fairness(lexical_bias)
    assert biased(["The christian teacher came by."])[0] < biased(["The teacher came by."])[0] == 1.0


def test_swapping_identities() -> None:
    assert rewards.swap_identities("A Man saw men and a woman.", "gender") == "A Woman saw women and a man."
    assert rewards.swap_identities("The manager of Christianity.", "gender") == "The manager of Christianity."
    assert rewards.swap_identities("a christian", "religion", 2) == "a jewish"
    for groups in rewards.IDENTITIES.values():
        assert len({len(group) for group in groups}) == 1
        assert len({word for group in groups for word in group}) == sum(map(len, groups))


def test_prompts_are_read_as_messages_or_marked_text() -> None:
    assert turns("Hello there") == [("user", "Hello there")]
    assert turns("User: Hi\nAssistant: Hello\nUser: Bye") == [("user", "Hi"), ("assistant", "Hello"), ("user", "Bye")]
    assert said_by("assistant", PROMPT) == ["Roses love the sun, so find a bright spot."]
    assert said_by("user", [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]) == ["Hi"]
    assert said_by("user", None) == []


def test_reading_helpers() -> None:
    assert rarity("the") == 0.15 < rarity("garden") < rarity("chrysanthemum")
    assert alike("a b c d", "a b c d") == 1.0
    assert alike("a b c d", "e f g h") == 0.0
    assert copied("one two three four five", "zero one two three four") == 0.5
    assert varied("a b c d e f") == 1.0 > varied("a b a b a b a b")
    assert polarity("I love it") > 0.5 > -0.5 > polarity("I hate it")
    assert clean("Café and naïve") == 1.0
    assert clean("c\u0430fe") < 0.5
    assert ordered("The cat sat on the mat. It slept.") == 1.0 > ordered("The on sat the a mat cat the.")


@given(st.text(max_size=200))
def test_helpers_survive_any_text(text: str) -> None:
    for value in (prose(text), clean(text), varied(text), ordered(text)):
        assert 0.0 <= value <= 1.0
    assert -1.0 <= polarity(text) <= 1.0
    assert all(role for role, _ in turns(text))
