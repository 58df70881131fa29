"""The controlled generation task: one sentence about a movie with a given tone, words to use, and length.

Every prompt is made from a sentence of a review that people have rated for its sentiment, so that it can be met and
has a human answer. Rows are kept where the rewards agree with the people. The sentences are fetched once (3 MB).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from typing import Any

from reward_models import augmentation, controlled
from reward_models._prose import words
from rlgen.tasks import Task
from rlgen.tasks._rated import Rated, rated_sentences
from rlgen.tasks.rows import Row, deal, digest, make_row, optional, refuse_source, splitter

GOOD_ENOUGH = 0.9  # of the reward: below, the human sentence is no example of what is asked
CLEAR_RATING = 1.0  # on a scale from -4 to 4

_TEMPLATES = (
    "Write one {tone} sentence about a movie, as in a review. Use {keywords}, and write about {length} words.",
    "As a movie critic, say something {tone} in one sentence of about {length} words. It must contain {keywords}.",
    "Make a {tone} remark about a movie in about {length} words, with {keywords} in it.",
)
# Words that say little about a sentence: bad keywords.
_COMMON = frozenset(
    "about after again almost also always because been being before could does doing done down during each even ever "
    "every from gets give goes have having here into itself just least less like made make makes many more most much "
    "must never nothing once only other others over rather same should since some something still such takes than "
    "that their them then there these they thing things this those though through toward under until upon very want "
    "well were what when where which while whose will with within without would your movie film movies films".split()
)


def build(source: str | None = None) -> Task:
    """Make the controlled generation task.

    Args:
        source: Must be None: the task has one source.

    Raises:
        ConfigError: A source is given.
    """
    refuse_source("controlled", source)
    return Task(
        name="controlled",
        description="Write a sentence with a given sentiment, given words and a given length.",
        split=splitter("controlled", lambda name: _splits()[name]),
        rewards={"controlled": 1.0},
        reward_functions={"controlled": controlled.composite, "intact": controlled.intact, **controlled.REWARDS},
        metrics={
            "sentiment": controlled.sentiment,
            "keywords": controlled.keywords,
            "length_kept": length_kept,
            "sentiment_by_people": sentiment_by_people,
        },
        max_prompt_tokens=128,
        max_completion_tokens=48,
        public_data="stanfordnlp/sst2 (label -> sentiment, sentence -> completion, with its words and keywords)",
    )


def length_kept(completions: Sequence[Any], words: Sequence[int], **_: Any) -> list[float | None]:
    """Score the distance from the wanted number of words, in [0, 1]."""
    return controlled.length(completions, words=words)


def sentiment_by_people(completions: Sequence[Any], sentiment: Sequence[str], **_: Any) -> list[float | None]:
    """Score the tone by naive Bayes fitted to people's ratings of the sft sentences, which no reward is made from."""
    labeled = _labeled()
    return augmentation.label_kept(completions, label=sentiment, labeled=[labeled] * len(completions))


@functools.cache
def _labeled() -> list[dict[str, str]]:
    return [
        {"text": row["reference"], "label": row["sentiment"]} for row in _splits()["sft"][: augmentation.MAX_LABELED]
    ]


@functools.cache
def _splits() -> dict[str, list[Row]]:
    rows = list(_rows())
    columns = {name: [row[name] for row in rows] for name in ("sentiment", "keywords", "words")}
    scores = controlled.composite(
        [row["completion"] for row in rows], prompts=[row["prompt"] for row in rows], **columns
    )
    good = (row for row, score in zip(rows, scores, strict=True) if score is not None and score >= GOOD_ENOUGH)
    return deal(good, "controlled", unit=lambda row: str(row["reference"]))


def _rows() -> Iterator[Row]:
    for sentence in rated_sentences():
        if abs(sentence.rating) < CLEAR_RATING or re.search(r"[.!?].", sentence.text):
            continue
        keywords = _keywords(sentence)
        if keywords:
            length = len(words(sentence.text))
            pick = int(digest("template", sentence.text)[:8], 16) % len(_TEMPLATES)
            quoted = " and ".join(f'"{word}"' for word in keywords)
            called = f"the word{'s' * (len(keywords) > 1)} {quoted}"
            yield make_row(
                _TEMPLATES[pick].format(tone=sentence.label, keywords=called, length=length),
                sentence.text,
                sentiment=sentence.label,
                keywords=keywords,
                words=length,
                sentences=None,
            )


def _keywords(sentence: Rated) -> list[str]:
    """One or two words of a sentence, neither common ones nor such that give its tone away."""
    content = [
        word
        for word in dict.fromkeys(re.findall(r"(?<![A-Za-z'-])[a-z]{4,12}(?![A-Za-z'-])", sentence.text))
        if word not in _COMMON and word not in _tones()
    ]
    content.sort(key=lambda word: digest("keyword", word, sentence.text))
    return sorted(content[: 1 + int(digest("count", sentence.text)[0], 16) % 2])


@functools.cache
def _tones() -> frozenset[str]:
    vader = optional("vaderSentiment.vaderSentiment", "controlled", "vaderSentiment")
    return frozenset(vader.SentimentIntensityAnalyzer().lexicon)
