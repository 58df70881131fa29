"""What the dialogue, control, reasoning and augmentation rewards share: rarity, overlap, prose, turns, sentiment."""

from __future__ import annotations

import difflib
import functools
import itertools
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from reward_models._text import DETERMINERS, FUNCTION_WORDS, PREPOSITIONS, stem

Scores = list[float | None]

MAX_READ = 8000  # characters of a text that are read at all; longer ones have lost long before
MAX_COMPARED = 200  # words that an alignment looks at, for its cost grows with their square

_TOKEN = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
_SENTENCE = re.compile(r"[^.!?\n]*[^\W_][^.!?\n]*[.!?]*")
# Characters nobody sees: a text that needs them hides something from the reader or from the reward.
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\U000e0000-\U000e007f]")
_SPEAKER = re.compile(r"^(user|human|customer|assistant|bot|ai|system)\s*:\s*", re.IGNORECASE | re.MULTILINE)
_ASSISTANT = ("assistant", "bot", "ai")
_CASED = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*|[.!?:\n\"“”*<>()]")
_STOPS = frozenset('.!?:\n"“”*<>()')
_NEVER_LAST = frozenset("a an the and or because if my your their into very".split())
_BEING = "is are was were has have had will would can".split()
_SUBJECTS = "i he she we they".split()
# Pairs of words that hardly ever stand side by side: any of the first before any of the second.
_UNLIKELY = tuple(
    (frozenset(before), frozenset(then))
    for before, then in (
        (
            ("a", "an", "the"),
            (PREPOSITIONS | DETERMINERS | {*_BEING, *_SUBJECTS, "you", "it", "do", "did"})
            - {"other", "such", "above", "all", "each", "over", "under", "via", "per", "i"},
        ),
        (_SUBJECTS, "the a an of my your his their is".split()),
        ("of to with from at into for by".split(), [*_BEING, *_SUBJECTS]),
        ("of with from into is are was were am be".split(), ("and", "or", "but")),
        ("my your his our their its".split(), ["the", "a", "of", "and", "to", "in", *_BEING, *_SUBJECTS]),
        ("and or but".split(), ("of", "and", "or", "but")),
        ("is are was were".split(), ("is", "are", "was", "were", "had", "has", "i", "we", "they")),
    )
)
# Short words that carry a sentence although they are missing from the shared list of function words.
_GLUE = FUNCTION_WORDS | frozenset(
    "i'm i'd i'll i've it's that's there's what's let's don't doesn't didn't can't won't isn't aren't wasn't "
    "you're you'd you'll you've we're we'll we've they're he's she's am him himself herself itself myself yourself "
    "themselves mine yours ours please yes no".split()
)


def tokens(text: str) -> list[str]:
    """Split prose of any script into lower-case words; look-alike forms such as full width are made plain."""
    return _TOKEN.findall(unicodedata.normalize("NFKC", text[:MAX_READ]).casefold().replace("’", "'"))


def sentences(text: str) -> list[str]:
    """Split prose at final punctuation and line ends; pieces without a letter or digit fall away."""
    return [piece.strip() for piece in _SENTENCE.findall(text[:MAX_READ])]


def content(text: str) -> list[str]:
    """Distinct stems that carry meaning, in the order of the text."""
    return list(dict.fromkeys(stem(word) for word in tokens(text) if word not in _GLUE and len(word) > 1))


@functools.lru_cache(maxsize=1 << 16)
def rarity(word: str) -> float:
    """Weight of a word or stem in [0.15, 1]: 1 for one of the rarest, like an inverse document frequency.

    Source: Zipf frequencies of wordfreq (Speer 2022), decades of occurrences per billion words.
    """
    return min(1.0, max(0.15, (7.0 - zipf(word)) / 4.0))


@functools.lru_cache(maxsize=1 << 16)
def zipf(word: str) -> float:
    """Frequency of an English word, in decades per billion: 0 for an unknown one, near 8 for "the"."""
    import wordfreq

    return float(wordfreq.zipf_frequency(word, "en"))


def weight(stems: Iterable[str]) -> float:
    """Sum of rarities."""
    return sum(map(rarity, stems))


@functools.lru_cache(maxsize=4096)
def alike(first: str, second: str) -> float:
    """Share of the words of two texts that stand in the same order in both, in [0, 1]; 1 for equal word sequences."""
    left, right = tokens(first)[:MAX_COMPARED], tokens(second)[:MAX_COMPARED]
    if not left or not right:
        return float(left == right)
    return difflib.SequenceMatcher(None, left, right, autojunk=False).ratio()


def copied(text: str, source: str, size: int = 4) -> float:
    """Share of the text's word n-grams that the source has too, in [0, 1]; 0 for texts shorter than that."""
    grams = _grams(tokens(text), size)
    known = set(_grams(tokens(source), size))
    return sum(gram in known for gram in grams) / len(grams) if grams else 0.0


def varied(text: str) -> float:
    """How little a text repeats itself, in [0, 1]: 1 while at most a tenth of its word pairs are repeats."""
    words = tokens(text)
    if len(words) < 2:
        return float(bool(words))
    pairs = list(itertools.pairwise(words))
    repeats = 1.0 - len(set(pairs)) / len(pairs)
    # Long honest texts reuse words; fewer distinct words than a third of the square-root law's is a loop.
    lawful = min(1.0, len(set(words)) / (2.5 * math.sqrt(len(words)))) if len(words) > 12 else 1.0
    return min(1.0, max(0.0, (0.6 - repeats) / 0.5)) * lawful


def clean(text: str) -> float:
    """1 for text without Unicode tricks, in [0, 1]: invisible characters, look-alikes, mixed scripts, odd letters."""
    read = text[:MAX_READ]
    if read.isascii():
        return 1.0
    score = 0.5 ** min(6, len(_INVISIBLE.findall(read)))
    score *= 0.5 ** min(6, sum(_mixed(word) for word in set(_TOKEN.findall(read))))
    letters = [character for character in read if character.isalpha()]
    strange = sum(_script(character) != "LATIN" for character in letters)
    marks = sum(unicodedata.combining(character) > 0 for character in read)
    return score * (1.0 - strange / max(1, len(letters))) ** 3 / (1.0 + marks)


def ordered(text: str) -> float:
    """How far the words stand in a possible order, in [0, 1]: 0.7 for each fault, a few in a long text forgiven.

    Faults are neighbors that English hardly has ("the of", "I the", "of is", "were and"), doubled words, a sentence
    that ends with an article or conjunction, a capital on a function word within a sentence, and none at the start of
    a sentence in a text that has capitals. Most disorder of nouns and verbs is not seen.
    """
    words = _CASED.findall(text[:MAX_READ])
    faults = 0
    cased = any(word[0].isupper() for word in words)
    for left, right in itertools.pairwise([".", *words, "."]):
        low, after = left.lower(), right.lower()
        stop = right in _STOPS
        faults += any(low in before and after in then for before, then in _UNLIKELY)
        faults += stop and low in _NEVER_LAST
        faults += low == after and low not in ("had", "that", "so", "very", "no", "ha", "bye") and not stop
        faults += left[0].islower() and after in _GLUE and right.istitle() and right not in ("I", "A")
        faults += cased and left in (".", "?", "!") and right[0].islower()
    return float(0.7 ** max(0.0, faults - 0.5 - len(words) / 25) if words else 1.0)


@functools.lru_cache(maxsize=8192)
def prose(text: str) -> float:
    """How far a text reads like English prose, in [0, 1], by proxies that no single trick satisfies.

    The product of: known English words, the usual share of function words, no long run without any, words in a
    possible order, little repetition, letters rather than symbols, and `clean`. It sees neither grammar nor sense.
    """
    words = tokens(text)
    if not words:
        return 0.0
    count = len(words)
    known = sum(word in _GLUE or zipf(word) >= 1.5 for word in words) / count
    score = clean(text) * varied(text) * ordered(text) * min(1.0, max(0.0, (known - 0.4) / 0.4))
    if count >= 4:
        share = sum(word in _GLUE for word in words) / count
        low, high = (0.2, 0.8) if count < 8 else (0.3, 0.75)
        score *= min(1.0, share / low) ** 2 if share < low else min(1.0, max(0.1, 1.0 - 3.0 * (share - high)))
        longest = (
            max(len(list(run)) for plain, run in itertools.groupby(words, key=_GLUE.__contains__) if not plain)
            if share < 1.0
            else 0
        )
        score *= max(0.1, 1.0 - 0.15 * max(0, longest - 6))
    visible = [character for character in text[:MAX_READ] if not character.isspace()]
    letters = sum(character.isalpha() or unicodedata.combining(character) > 0 for character in visible)
    score *= min(1.0, letters / (0.75 * len(visible)))
    if count >= 5 and text.rstrip()[-1:].isalnum():
        score *= 0.85  # no final mark
    return score * 0.5 ** min(4, sum(len(word) > 25 for word in words))


def turns(prompt: str | Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Read a prompt as (role, text) pairs; a string may mark its speakers ("User: ...", "Assistant: ...").

    Roles are "user", "assistant" and "system"; a string without marks is one turn of the user.
    """
    if not isinstance(prompt, str):
        return [(str(message.get("role") or "user"), _content(message)) for message in prompt]
    marks = list(_SPEAKER.finditer(prompt))
    if not marks:
        return [("user", prompt)]
    ends = [*(mark.start() for mark in marks[1:]), len(prompt)]
    spoken = [(mark.group(1).lower(), prompt[mark.end() : end].strip()) for mark, end in zip(marks, ends, strict=True)]
    return [
        ("assistant" if who in _ASSISTANT else "system" if who == "system" else "user", said)
        for who, said in spoken
        if said
    ]


def said_by(role: str, prompt: str | Sequence[Mapping[str, Any]] | None) -> list[str]:
    """The turns of one role, oldest first."""
    return [text for who, text in turns(prompt or "") if who == role and text.strip()]


@functools.lru_cache(maxsize=8192)
def polarity(text: str) -> float:
    """Sentiment of a sentence in [-1, 1]: VADER's compound score.

    Source: Hutto and Gilbert 2014, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis".
    """
    return float(_vader().polarity_scores(text[:MAX_READ])["compound"]) if tokens(text) else 0.0


def mood(text: str) -> float:
    """Sentiment of a text in [-1, 1]: the mean over its sentences, for the compound of a long text saturates."""
    pieces = sentences(text)
    return math.fsum(map(polarity, pieces)) / len(pieces) if pieces else 0.0


def valence(word: str) -> float:
    """VADER's rating of a single lower-case word, in [-4, 4]; 0 for words without one."""
    return float(_vader().lexicon.get(word, 0.0))


def weighted(parts: Mapping[str, float | None], weights: Mapping[str, float]) -> float | None:
    """Weighted mean of the parts that apply; None if none does."""
    graded = {name: score for name, score in parts.items() if score is not None}
    total = sum(weights[name] for name in graded)
    return sum(weights[name] * score for name, score in graded.items()) / total if graded else None


def geometric(parts: Mapping[str, float | None], weights: Mapping[str, float]) -> float | None:
    """Weighted geometric mean of the parts that apply, each raised to at least 0.05; None if none applies.

    A weak part pulls everything down, yet no part at nought hides what the others have to say.
    """
    graded = {name: max(0.05, score) for name in weights if (score := parts[name]) is not None}
    total = sum(weights[name] for name in graded)
    return math.exp(sum(weights[name] * math.log(score) for name, score in graded.items()) / total) if graded else None


def _grams(words: Sequence[str], size: int) -> list[tuple[str, ...]]:
    return [tuple(words[start : start + size]) for start in range(len(words) - size + 1)]


@functools.lru_cache(maxsize=4096)
def _script(character: str) -> str:
    return unicodedata.name(character, "UNKNOWN").split(" ")[0]


def _mixed(word: str) -> bool:
    """Whether Latin letters and letters that look like them stand in one word."""
    scripts = {_script(character) for character in word if character.isalpha()}
    return "LATIN" in scripts and len(scripts) > 1


def _content(message: Mapping[str, Any]) -> str:
    found = message.get("content")
    if isinstance(found, str):
        return found
    return "".join(str(block.get("text") or "") for block in found or ())


@functools.cache
def _vader() -> Any:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()
