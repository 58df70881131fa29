"""A task out of raw text: write a sentence that begins with a given word and has a given length.

    rlgen sft --task recipes/configs/from_raw_text/sentences.py --model_name_or_path runs/pretrain

The answers for SFT are sentences of the text itself: by default the docstrings and comments of the standard library,
with `--task_source` any file or folder that `rlgen pretrain` reads. No pair of word and length is asked for in two
splits, while every word is asked for in SFT: a model is judged by pairs that it has to put together itself.
"""

from __future__ import annotations

import functools
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from reward_models import generic
from rlgen.data import conversational, row_hash
from rlgen.documents import STDLIB, load_documents
from rlgen.errors import DataError
from rlgen.tasks import Task
from rlgen.tasks.rows import Row, deal, digest, make_row, splitter

PROMPT = "Write a sentence of {count} words that begins with {word}."
SHORTEST, LONGEST = 4, 14  # words of a sentence
LEAST_SENTENCES = 4  # that must begin with a word
MOST_ANSWERS = 8  # to one prompt of SFT
FEWEST_WORDS = 50  # that a text must have to be worth while
SHARES = {"sft": 0.5, "preference": 0.6, "rl": 0.8, "validation": 0.83, "heldout": 1.0}  # of the pairs, as upper ends

Scores = list[float | None]


def build(source: str | None = None) -> Task:
    """Make the task.

    Args:
        source: Text as for `rlgen pretrain --dataset_name`; None for the standard library's docstrings and comments.
    """
    return Task(
        name="sentences",
        description="Write a sentence that begins with a given word and has a given length.",
        split=splitter("sentences", lambda name: _splits(source or STDLIB)[name]),
        rewards={"follows": 1.0},
        reward_functions={"follows": follows},
        metrics={"begins": begins, "near_length": near_length, "exact_length": exact_length},
        max_prompt_tokens=48,
        max_completion_tokens=32,
    )


def follows(completions: Sequence[Any], begin: Sequence[str], words: Sequence[int], **_: Any) -> Scores:
    """Score how well a sentence follows its prompt.

    Range: [0, 1]; half for the first word, half for the number of words (`near_length`), all of it times its form:
    it ends like a sentence; nothing is said twice; no line break, which would begin another text.
    Gaming: it reads form only; any words after the first pass.
    """
    parts = zip(
        begins(completions, begin=begin),
        near_length(completions, words=words),
        generic.ends_properly(completions),
        generic.repetition(completions),
        [float("\n" not in text.strip()) for text in _texts(completions)],
        strict=True,
    )
    return [((first or 0) + (near or 0)) / 2 * (end or 0) * (new or 0) * one for first, near, end, new, one in parts]


def begins(completions: Sequence[Any], begin: Sequence[str], **_: Any) -> Scores:
    """Score whether the first word is the wanted one, 0 or 1."""
    return [float(_first(text) == wanted) for text, wanted in zip(_texts(completions), begin, strict=True)]


def near_length(completions: Sequence[Any], words: Sequence[int], **_: Any) -> Scores:
    """Score the number of words: 1 for the wanted one, a quarter less for each missing or added one, 0 at least."""
    distances = (abs(_count(text) - wanted) for text, wanted in zip(_texts(completions), words, strict=True))
    return [max(0.0, 1 - distance / 4) for distance in distances]


def exact_length(completions: Sequence[Any], words: Sequence[int], **_: Any) -> Scores:
    """Score whether the number of words is the wanted one, 0 or 1."""
    return [float(_count(text) == wanted) for text, wanted in zip(_texts(completions), words, strict=True)]


def sentences(text: str) -> Iterator[str]:
    """Find the plain sentences of a text: one capital letter, words and commas, a period."""
    for paragraph in re.split(r"\n\s*\n", text):
        for sentence in re.split(r"(?<=[.!?:])\s+", " ".join(paragraph.split())):
            plain = re.fullmatch(r"[A-Z][a-z]*(,? [a-z]+(-[a-z]+)?)+\.", sentence)
            if plain and SHORTEST <= len(sentence.split()) <= LONGEST:
                yield sentence


def _texts(completions: Sequence[Any]) -> list[str]:
    return [each if isinstance(each, str) else each[-1]["content"] for each in completions]


def _count(text: str) -> int:
    """Words of a text; punctuation that stands alone is none."""
    return sum(any(letter.isalnum() for letter in word) for word in text.split())


def _first(text: str) -> str:
    return text.split()[0].rstrip(",") if text.strip() else ""


@functools.lru_cache(maxsize=2)
def _splits(source: str) -> dict[str, list[Row]]:
    found = dict.fromkeys(each for text in load_documents([source])["text"] for each in sentences(text))
    holding: defaultdict[str, list[str]] = defaultdict(list)
    for sentence in sorted(found, key=lambda each: digest("sentence", each)):
        holding[_first(sentence)].append(sentence)
    words = {word: texts for word, texts in sorted(holding.items()) if len(texts) >= LEAST_SENTENCES}
    if len(words) < FEWEST_WORDS:
        raise DataError(
            f"{source}: only {len(words)} words begin {LEAST_SENTENCES} plain sentences or more; give more text"
        )
    splits = deal(_prompts(words), "sentences", shares=SHARES)
    asked = {row["begin"] for row in splits["sft"]}
    splits = {name: [row for row in rows if row["begin"] in asked] for name, rows in splits.items()}
    splits["sft"] = [answer for row in splits["sft"] for answer in _answers(row, words[row["begin"]])]
    splits["rl"] = sorted([*splits["rl"], *_unanswered(asked, words)], key=row_hash)
    return splits


def _prompts(words: dict[str, list[str]]) -> Iterator[Row]:
    """One row for each word and each length that a sentence beginning with it has."""
    for word, texts in words.items():
        for count, text in {len(text.split()): text for text in texts}.items():
            yield make_row(PROMPT.format(count=count, word=word), text, begin=word, words=count)


def _unanswered(asked: set[str], words: dict[str, list[str]]) -> Iterator[Row]:
    """Rows for the pairs that no sentence has: a reward needs no answer, and many prompts are not learnt by heart."""
    for word in sorted(asked):
        for count in set(range(SHORTEST, LONGEST + 1)) - {len(text.split()) for text in words[word]}:
            prompt = conversational(PROMPT.format(count=count, word=word))
            yield {"prompt": prompt, "completion": None, "reference": None, "begin": word, "words": count}


def _answers(row: Row, texts: list[str]) -> list[Row]:
    """The row with each of the sentences that answer it, up to `MOST_ANSWERS`."""
    fitting = [text for text in texts if len(text.split()) == row["words"]][:MOST_ANSWERS]
    return [make_row(row["prompt"], text, begin=row["begin"], words=row["words"]) for text in fitting]
