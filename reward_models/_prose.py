"""Words, length, copied runs and odd characters of texts in any language: what the generic and task rewards share."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from reward_models._text import completion_text

# Scripts written without spaces (kana, Han, Thai to Khmer): each character counts as a word.
_UNSPACED = r"\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
# Vowel signs and accents, which Python's \w leaves out although they stand inside words.
_MARKS = r"\u0300-\u036f\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0900-\u0903\u093a-\u094f\u0951-\u0963\u0981-\u0dff"
_LETTER = rf"(?:[^\W_{_UNSPACED}]|[{_MARKS}])"
_TOKEN = re.compile(rf"[{_UNSPACED}]|{_LETTER}+(?:['’]{_LETTER}+)*|[^\w\s]")
_SENTENCE_END = re.compile(r"(?<=[.!?…])[\"'”’»)\]]*\s+|(?<=[。！？])|\n+")
_ALPHABETS = ("LATIN", "CYRILLIC", "GREEK", "ARMENIAN", "CHEROKEE", "COPTIC")
_JOINERS = "\u200c\u200d"  # Persian, Indic scripts and emoji need them


def tokens(text: str) -> list[str]:
    """Split text into words, in lower case, and single punctuation marks."""
    return _TOKEN.findall(unicodedata.normalize("NFC", text).casefold())


@functools.lru_cache(maxsize=1024)  # several rewards read each completion
def words(text: str) -> tuple[str, ...]:
    """Split text into words, in lower case; numbers are words, punctuation falls away."""
    return tuple(token for token in tokens(text) if token[0].isalnum() or len(token) > 1)


def sentences(text: str) -> list[str]:
    """Split text at sentence-final punctuation and line breaks (abbreviations before a space split, too)."""
    return [part.strip() for part in _SENTENCE_END.split(text) if part and part.strip()]


def prompt_text(prompt: str | Sequence[Mapping[str, Any]]) -> str:
    """Read the text of a plain prompt, or of all messages of a conversational one."""
    return prompt if isinstance(prompt, str) else "\n".join(completion_text([message]) for message in prompt)


def ramp(value: float, worst: float, best: float) -> float:
    """Rise linearly from 0 at `worst` to 1 at `best`, which may lie on either side of each other."""
    return min(1.0, max(0.0, (value - worst) / (best - worst)))


def fragment_lengths(text: Sequence[str], source: Sequence[str], gaps: bool = False) -> list[int]:
    """Lengths of the runs of words that the text shares with a source, taken greedily from left to right.

    With `gaps`, a run goes on over a single word that was put in the place of another one.

    Source: Grusky, Naaman and Artzi 2018, "Newsroom", the greedy procedure F(A, S).
    """
    known = set(source)
    starts: dict[tuple[str, str], list[int]] = {}
    for position in range(len(source) - 1):
        starts.setdefault((source[position], source[position + 1]), []).append(position)
    lengths = []
    here = 0
    while here < len(text):
        longest = int(text[here] in known)
        for start in starts.get((text[here], text[here + 1]), ()) if here + 1 < len(text) else ():
            length = 2
            room = min(len(text) - here, len(source) - start)
            while length < room:
                if text[here + length] == source[start + length]:
                    length += 1
                elif gaps and length + 1 < room and text[here + length + 1] == source[start + length + 1]:
                    length += 2
                else:
                    break
            longest = max(longest, length)
            if here + longest == len(text):
                break
        if longest:
            lengths.append(longest)
        here += max(1, longest)
    return lengths


def copied_share(text: Sequence[str], source: Sequence[str], shortest: int) -> float:
    """Share of the text's words that stand in runs of at least `shortest` words of the source, in [0, 1]."""
    return sum(length for length in fragment_lengths(text, source) if length >= shortest) / max(1, len(text))


@functools.lru_cache(maxsize=8192)
def clean_characters(text: str) -> float:
    """1 for ordinary text, less by each look-alike word or invisible, private or control character: 0 at one in four.

    Look-alikes are words of two alphabets, letters in compatibility forms (full width, mathematical), and piles of
    combining marks.
    """
    if text.isascii() and text.replace("\n", "").replace("\t", "").replace("\r", "").isprintable():
        return 1.0
    harmless = "\n\t\r" + (_JOINERS if _joins(text) else "")
    faults = sum(
        character not in harmless and unicodedata.category(character) in ("Cc", "Cf", "Co", "Cn", "Cs")
        for character in text
    )
    parts = text.split()
    faults += sum(any(map(_is_disguised, re.split(r"[-–/]", part))) for part in parts if not part.isascii())
    return max(0.0, 1.0 - 4.0 * faults / max(1, len(parts)))


def _joins(text: str) -> bool:
    """Whether joiners have a use in this text: it holds letters of no European alphabet, or emoji."""
    return any(
        ord(character) > 0x5FF and character not in _JOINERS and _alphabet(character) not in _ALPHABETS
        for character in text
    )


def _is_disguised(word: str) -> bool:
    alphabets = {_alphabet(character) for character in word if character.isalpha()}
    if len(alphabets & set(_ALPHABETS)) > 1:
        return True
    if any(character.isalpha() and not character.isascii() and _plain(character).isascii() for character in word):
        return True
    marks = 0
    for character in unicodedata.normalize("NFC", word):
        marks = marks + 1 if unicodedata.combining(character) else 0
        if marks > 2:
            return True
    return False


@functools.lru_cache(maxsize=4096)
def _alphabet(character: str) -> str:
    return unicodedata.name(character, "?").split()[0]


@functools.lru_cache(maxsize=4096)
def _plain(character: str) -> str:
    return unicodedata.normalize("NFKC", character)
