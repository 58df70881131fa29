"""Read Python code as words: what a sentence about it may truthfully speak of."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from reward_models._code_words import CONSTRUCTS, ENGLISH, OPERATORS
from reward_models._text import FUNCTION_WORDS, stem, subwords

_COMMENT = re.compile(r"#[^\n]*")
_STRING = re.compile(r"'''.*?'''|\"\"\".*?\"\"\"|'(?:\\.|[^'\\\n])*'|\"(?:\\.|[^\"\\\n])*\"", re.DOTALL)
_IDENTIFIER = re.compile(r"[A-Za-z_]\w*")
_SIGNATURE = re.compile(r"\bdef\s+(\w+)\s*\(((?:[^()]|\([^()]*\))*)\)", re.DOTALL)
_GLUED = re.compile(r"(get|set|is|has|read|write|make|find)(?!ter|ting|sue|hes)([a-z]{3,})")
_KEYWORDS = frozenset(
    "def self cls return if elif else for while in is not and or none true false try except finally raise with as "
    "pass break continue import from lambda yield global nonlocal del assert async await class".split()
)


@dataclass(frozen=True)
class Code:
    """What a reward needs to know of one function, all words in lower case.

    Args:
        name: Subwords of the function's name.
        parameters: Its parameters as written, without self and cls.
        identifiers: Stems of the subwords of every identifier.
        evidence: Stems of everything the code says, comments, strings and English renderings of constructs included.
        prefixes: Identifier subwords and stems of 3 to 6 letters, which may abbreviate a longer word.
        blob: All identifiers in one string, to find words in names such as `readline`.
        raw: Identifiers as written that are no plain English words to the eye (`max_len`, `maxLen`).
        names: Stems of the subwords of its name.
        order: Subwords of the code in reading order, keywords left out.
        runs: Every 4, 5 and 6 stems in a row of `order`, function words left out.
        returns: Whether it gives anything back.
    """

    name: tuple[str, ...]
    parameters: tuple[str, ...]
    identifiers: frozenset[str]
    evidence: frozenset[str]
    prefixes: frozenset[str]
    blob: str
    raw: frozenset[str]
    names: frozenset[str]
    order: tuple[str, ...]
    runs: frozenset[tuple[str, ...]]
    returns: bool

    def supports(self, word: str) -> bool:
        """Tell whether the code speaks of a lower-case English word."""
        root = stem(word)
        return (
            root in self.evidence
            or (len(root) >= 4 and root in self.blob)
            or any(word[:end] in self.prefixes for end in range(3, min(7, len(word) - 1)))
        )


def english(word: str) -> list[str]:
    """Give the lower-case English words that a subword of code may stand for, itself included."""
    return [word, *ENGLISH.get(word, ())]


def _unglue(word: str) -> list[str]:
    """Split the likes of `isabs` and `getdoc`."""
    match = _GLUED.fullmatch(word)
    return list(match.groups()) if match else [word]


@functools.lru_cache(maxsize=8192)
def read_code(code: str) -> Code:
    """Read the source of one function.

    Args:
        code: Its source; it need not parse.
    """
    bare = _STRING.sub(" ", _COMMENT.sub(" ", code))
    identifiers = [word for word in _IDENTIFIER.findall(bare) if word.lower() not in _KEYWORDS]
    parts = [part for word in identifiers for part in subwords(word)]
    signature = _SIGNATURE.search(bare)
    name = tuple(part for word in subwords(signature[1]) for part in _unglue(word)) if signature else ()
    parameters = re.findall(r"(?:^|,)\s*\**\s*([A-Za-z_]\w*)", signature[2]) if signature else []
    spoken = {*parts, *subwords(code)} - FUNCTION_WORDS
    spoken |= {word.lower().strip("_") for word in identifiers}
    keywords = {word.lower() for word in _IDENTIFIER.findall(bare)} & _KEYWORDS
    evidence = {stem(word) for part in spoken | keywords for word in english(part)}
    evidence |= {stem(word) for pattern, words in CONSTRUCTS for word in words if pattern.search(code)}
    evidence |= {stem(word) for symbol, words in OPERATORS.items() if symbol in bare for word in words.split()}
    there = [stem(part) for part in parts if part not in FUNCTION_WORDS]
    return Code(
        name=name,
        parameters=tuple(word for word in parameters if word not in ("self", "cls")),
        identifiers=frozenset(stem(part) for part in parts),
        evidence=frozenset(evidence),
        prefixes=frozenset(
            [part for part in parts if 3 <= len(part) <= 5]
            + [root for root in map(stem, parts) if 4 <= len(root) <= 6]
        ),
        blob=" ".join(dict.fromkeys(word.lower() for word in identifiers)),
        raw=frozenset(word for word in identifiers if "_" in word.strip("_") or re.match(r"[a-z]+[A-Z]|\w*\d", word)),
        names=frozenset(map(stem, name)),
        order=tuple(parts),
        runs=frozenset(tuple(there[i : i + size]) for size in (4, 5, 6) for i in range(len(there) - size + 1)),
        returns=bool(re.search(r"\b(return|yield) *\S", bare)),
    )
