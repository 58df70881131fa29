"""Sentences of movie reviews with the mean of twenty people's ratings, for the tasks about sentiment."""

from __future__ import annotations

import functools
import html
import io
import re
import tarfile
from dataclasses import dataclass

from rlgen import human_pairs

MEMBER = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
_TOKENIZED = re.compile(r"\s+(?=[,.;:!?)\]])|(?<=[(\[])\s+|\s+(?=(?:n't|'(?:s|re|ve|ll|d|m))\b)")


@dataclass(frozen=True)
class Rated:
    """A sentence, and its mean rating from -4 (negative) to 4 (positive)."""

    text: str
    rating: float

    @property
    def label(self) -> str:
        """The sentiment that people see in it; neutral up to 0.5 on either side."""
        return "neutral" if abs(self.rating) <= 0.5 else "positive" if self.rating > 0 else "negative"


@functools.cache
def rated_sentences(shortest: int = 6, longest: int = 26) -> tuple[Rated, ...]:
    """All complete sentences of a length, in the order of the file: each is from a review of its own.

    Args:
        shortest: Fewest words.
        longest: Most words.

    Raises:
        ModelError: The package (3 MB) cannot be fetched.

    Source: Hutto and Gilbert 2014, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis"; the sentences are
        those of Pang and Lee 2004.
    """
    with tarfile.open(human_pairs.rated_sentences()) as opened:
        member = opened.extractfile(MEMBER)
        assert member is not None
        lines = io.TextIOWrapper(member, encoding="latin-1").read().splitlines()
    found: dict[str, Rated] = {}
    for line in lines:
        fields = line.strip().split("\t", 2)
        if len(fields) < 3:
            continue
        text = _mended(fields[2])
        if text and shortest <= len(text.split()) <= longest:
            found.setdefault(text.lower(), Rated(text, float(fields[1])))
    return tuple(found.values())


def _mended(raw: str) -> str | None:
    """Undo the tokenization; None for what is no complete plain sentence."""
    text = _TOKENIZED.sub("", " ".join(html.unescape(raw).split()))
    if (
        not text.isascii()
        or not re.fullmatch(r"[A-Za-z'].*[.!?]", text)
        or re.search(r"[*_|/\\<>{}\[\]()\"]|--", text)
    ):
        return None
    return text[0].upper() + text[1:]
