"""A task out of raw text: write a sentence with a given word and of a given length.

    rlgen sft --task recipes/configs/from_raw_text/sentences.py --model_name_or_path runs/pretrain

The answers for SFT are sentences of the text itself: by default the docstrings and comments of the standard library,
with `--task_source` any file or folder that `rlgen pretrain` reads. No word is asked for in two splits, so that a
model is judged by words that it has met in text, but never been asked for.
"""

from __future__ import annotations

import functools
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from reward_models import controlled, generic
from reward_models._text import FUNCTION_WORDS
from rlgen.documents import STDLIB, load_documents
from rlgen.errors import DataError
from rlgen.tasks import Task
from rlgen.tasks._rows import Row, deal, digest, make_row, splitter

PROMPT = "Write a sentence of {count} words with the word {word}."
SHORTEST, LONGEST = 4, 14  # words of a sentence
LEAST_SENTENCES = 4  # that a word must stand in
MOST_ROWS = 10  # of a word, each of another length
FEWEST_WORDS = 50  # that a text must have to be worth while
SHARES = {"sft": 0.5, "preference": 0.6, "rl": 0.82, "validation": 0.87, "heldout": 1.0}  # of the words, as upper ends

Scores = list[float | None]


def build(source: str | None = None) -> Task:
    """Make the task.

    Args:
        source: Text as for `rlgen pretrain --dataset_name`; None for the standard library's docstrings and comments.
    """
    return Task(
        name="sentences",
        description="Write a sentence with a given word and of a given length.",
        split=splitter("sentences", lambda name: _splits(source or STDLIB)[name]),
        rewards={"follows": 1.0},
        reward_functions={"follows": follows},
        metrics={"keyword": controlled.keywords, "length_kept": controlled.length, "exact_length": exact_length},
        max_prompt_tokens=32,
        max_completion_tokens=32,
    )


def follows(completions: Sequence[Any], keywords: Sequence[list[str]], words: Sequence[int], **_: Any) -> Scores:
    """Score how well a sentence follows its prompt.

    Range: [0, 1]; the product of: the word is used; half plus half of the closeness to the wanted length, on a
    logarithmic scale; it ends like a sentence; nothing is said twice; no line break, which would begin another text.
    Gaming: it reads form only; other words in any order around the wanted one pass.
    """
    parts = zip(
        controlled.keywords(completions, keywords=keywords),
        controlled.length(completions, words=words),
        generic.ends_properly(completions),
        generic.repetition(completions),
        [float("\n" not in text.strip()) for text in _texts(completions)],
        strict=True,
    )
    return [
        (used or 0) * (0.5 + 0.5 * (near or 0)) * (end or 0) * (new or 0) * one for used, near, end, new, one in parts
    ]


def exact_length(completions: Sequence[Any], words: Sequence[int], **_: Any) -> Scores:
    """Score whether the number of words is the wanted one, 0 or 1."""
    return [float(len(text.split()) == wanted) for text, wanted in zip(_texts(completions), words, strict=True)]


def sentences(text: str) -> Iterator[str]:
    """Find the plain sentences of a text: one capital letter, words and commas, a period."""
    for paragraph in re.split(r"\n\s*\n", text):
        for sentence in re.split(r"(?<=[.!?:])\s+", " ".join(paragraph.split())):
            plain = re.fullmatch(r"[A-Z][a-z]*(,? [a-z]+(-[a-z]+)?)+\.", sentence)
            if plain and SHORTEST <= len(sentence.split()) <= LONGEST:
                yield sentence


def _texts(completions: Sequence[Any]) -> list[str]:
    return [each if isinstance(each, str) else each[-1]["content"] for each in completions]


@functools.lru_cache(maxsize=2)
def _splits(source: str) -> dict[str, list[Row]]:
    found = dict.fromkeys(each for text in load_documents([source])["text"] for each in sentences(text))
    holding: defaultdict[str, list[str]] = defaultdict(list)
    for sentence in sorted(found, key=lambda each: digest("sentence", each)):
        for word in set(re.findall(r"(?<= )[a-z]{4,10}(?=[ ,.])", sentence)) - FUNCTION_WORDS:
            holding[word].append(sentence)
    words = {word: texts for word, texts in sorted(holding.items()) if len(texts) >= LEAST_SENTENCES}
    if len(words) < FEWEST_WORDS:
        raise DataError(
            f"{source}: only {len(words)} words stand in {LEAST_SENTENCES} plain sentences; give more text"
        )
    return deal(_rows(words), "sentences", unit=lambda row: str(row["keywords"][0]), shares=SHARES)


def _rows(words: dict[str, list[str]]) -> Iterator[Row]:
    for word, texts in words.items():
        lengths = Counter[int]()
        for text in texts:
            count = len(text.split())
            if not lengths[count] and lengths.total() < MOST_ROWS:
                lengths[count] += 1
                yield make_row(PROMPT.format(count=count, word=word), text, keywords=[word], words=count)
