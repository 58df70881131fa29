"""A source text as the summarization rewards read it: its words, what is salient in it, its names and numbers."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence

from reward_models._prose import clean_characters, ramp, sentences, words
from reward_models._text import DETERMINERS, FUNCTION_WORDS, PREPOSITIONS, stem

OPENING_SENTENCES = 2  # where a text says what it is about
OPENING_BONUS = 1.5
NAME_BONUS = 1.5
ENGLISH_GLUE = 0.25  # share of function words from which a text counts as English prose

_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_NAME = re.compile(r"[^\W\d_a-z][\w’'&-]*")
_COUNTED = re.compile(r"[A-Za-z]+")
_UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
# "one" is more often a pronoun than a number.
_NUMBER_WORDS = {word: str(value) for value, word in enumerate(_UNITS) if value > 1}
_NUMBER_WORDS |= {word: str(10 * value) for value, word in enumerate(_TENS, start=2)}
_NUMBER_STEMS = {stem(word): value for word, value in _NUMBER_WORDS.items()}


@dataclasses.dataclass(frozen=True)
class Source:
    """What a source text offers to a summary."""

    words: tuple[str, ...]
    content_words: tuple[str, ...]
    stems: frozenset[str]
    beginnings: frozenset[str]
    salience: Mapping[str, float]
    numbers: frozenset[str]
    acronyms: frozenset[str]
    glue: float

    def content(self, said: Sequence[str]) -> list[str]:
        """Stems of the words that carry meaning."""
        return [stem(word) for word in said if (len(word) > 2 or not word.isascii()) and word not in FUNCTION_WORDS]

    def supports(self, root: str) -> bool:
        """Whether the source has a word with this stem, or one with the same first five letters."""
        return root in self.stems or _NUMBER_STEMS.get(root) in self.numbers or root[:5] in self.beginnings

    def has_name(self, name: str) -> bool:
        """Whether the source has a name, written out or, for an acronym, as the names that it abbreviates."""
        parts = words(name)
        return all(stem(part) in self.stems or part in FUNCTION_WORDS for part in parts) or name in self.acronyms


@functools.lru_cache(maxsize=2048)
def read_source(text: str) -> Source:
    """Read a source text once for all its summaries."""
    said = words(text)
    stems = [stem(word) for word in said]
    names = {stem(part) for name in names_of(text) for part in words(name)}
    opening = {stem(word) for word in words(" ".join(sentences(text)[:OPENING_SENTENCES]))}
    counts = Counter(
        root
        for word, root in zip(said, stems, strict=True)
        if (len(word) > 2 or not word.isascii()) and word not in FUNCTION_WORDS
    )
    return Source(
        words=said,
        content_words=tuple(word for word in said if word not in FUNCTION_WORDS),
        stems=frozenset(stems),
        beginnings=frozenset(root[:5] for root in stems if len(root) >= 5),
        salience={
            root: math.sqrt(count)
            * (OPENING_BONUS if root in opening else 1.0)
            * (NAME_BONUS if root in names or root[0].isdigit() else 1.0)
            for root, count in counts.items()
        },
        numbers=numbers_of(text),
        acronyms=_acronyms(text),
        glue=_glue_share(said),
    )


def names_of(text: str) -> set[str]:
    """Capitalized words that don't merely open a sentence ("I" and function words left out)."""
    found = set()
    for sentence in sentences(text):
        parts = [part.strip("\"'“”‘’()[]{}.,;:!?*`—–") for part in sentence.split()]
        for place, part in enumerate(parts):
            name = part.removesuffix("'s").removesuffix("’s")
            if not _NAME.fullmatch(name) or name.casefold() in FUNCTION_WORDS or not name[0].isupper():
                continue
            follows = place + 1 < len(parts) and parts[place + 1][:1].isupper() and len(parts[place + 1]) > 1
            if place > 0 or follows or name[1:] != name[1:].lower():
                found.add(name)
    return found


def numbers_of(text: str) -> frozenset[str]:
    """Numbers by value: "1,000" and "1000" are one, "twelve" is 12."""
    found = {_value(match) for match in _NUMBER.findall(text)}
    lowered = (match.lower() for match in _COUNTED.findall(text))
    return frozenset(found | {_NUMBER_WORDS[word] for word in lowered if word in _NUMBER_WORDS})


def _value(number: str) -> str:
    number = re.sub(r",(?=\d{3}\b)", "", number).replace(",", ".")
    return re.sub(r"\.0+$", "", number).lstrip("0") or "0"


def _acronyms(text: str) -> frozenset[str]:
    """Initials of each run of capitalized words, "of" and "the" inside it left out."""
    found = set()
    run = ""
    for part in re.findall(r"[^\W\d_]+|[.;:]", text):
        if part[0].isupper():
            run += part[0]
            if len(run) >= 2:
                found |= {run[start:] for start in range(len(run) - 1)}
        elif part not in ("of", "the", "for", "and"):
            run = ""
    return frozenset(found)


def _glue_share(said: Sequence[str]) -> float:
    return sum(word in FUNCTION_WORDS for word in said) / max(1, len(said))


def _impossible_neighbors(said: Sequence[str]) -> int:
    """Count articles before words that cannot follow one, and at the end: words in no order have many."""
    barred = (PREPOSITIONS | DETERMINERS | {"is", "are", "was", "were", "has", "have"}) - {"such", "about", "over"}
    return sum(
        left in ("a", "an", "the") and (right in barred or not right)
        for left, right in zip(said, [*said[1:], ""], strict=True)
    )


@functools.lru_cache(maxsize=8192)
def _readability(text: str, english: bool) -> float:
    said = words(text)
    count = len(said)
    score = clean_characters(text)
    closed = text.rstrip("\"'”’»)]")
    score *= 1.0 if closed.endswith((".", "!", "?", "。", "！", "？", "।", "؟")) else 0.6
    opener = next(character for character in text if character.isalnum())
    score *= 0.8 if opener.islower() else 1.0
    if english and count >= 6:
        glue = _glue_share(said)
        score *= 0.2 + 0.8 * min(ramp(glue, 0.08, 0.28), ramp(glue, 0.9, 0.65))
        score *= 0.7 ** _impossible_neighbors(said)
        content = [word for word in said if word not in FUNCTION_WORDS]
        score *= ramp(len(set(content)) / max(1, len(content)), 0.4, 0.8)
        piles = "".join("|" if word in FUNCTION_WORDS else "x" for word in said).split("|")
        score *= max(0.2, 1.0 - 0.15 * max(0, max(map(len, piles)) - 6))
    per_sentence = count / max(1, len(sentences(text)))
    score *= ramp(per_sentence, 0.0, 3.0) * ramp(per_sentence, 120.0, 50.0)
    score *= ramp(sum(text.count(mark) for mark in ",;|/•*#") / count, 0.6, 0.25)
    if count >= 3:
        score *= ramp(len(set(said)) / count, 0.15, 0.3) * 0.7 ** sum(a == b for a, b in itertools.pairwise(said))
        pairs = list(itertools.pairwise(said))  # keywords glued by "of the" repeat it
        score *= ramp(len(set(pairs)) / len(pairs), 0.6, 0.85)
    return score


def readability(text: str, source: Source) -> float:
    """How far a text reads like prose, in [0, 1]; function words are asked for where the source has them.

    Args:
        text: at least one word.
        source: the text that it summarizes, whose language it is held to.
    """
    return _readability(text, source.glue >= ENGLISH_GLUE)
