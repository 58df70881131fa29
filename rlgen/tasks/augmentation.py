"""The augmentation task: another example with the label of a given one, to train a classifier on.

Seeds and answers are sentences of movie reviews that people have rated (fetched once, 3 MB): the answer to a seed is
the sentence with the same label, and about the same thing, that the rewards like best. What counts in the end is
`gain`: whether a classifier trained with the generated sentences does better on sentences that people have labeled.
"""

from __future__ import annotations

import functools
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from reward_models import augmentation as rewards
from rlgen.errors import ConfigError
from rlgen.tasks import Task
from rlgen.tasks._rated import Rated, rated_sentences
from rlgen.tasks.rows import Row, deal, digest, make_row, optional, refuse_source, split_of, splitter

INSTRUCTION = (
    "Here is a {label} sentence from a movie review. "
    "Write another {label} sentence that could stand beside it, in other words."
)
CLEAR_RATING = 1.0  # on a scale from -4 to 4
RARE = 60  # sentences: a word in more of them does not say what a sentence is about
TRIED = 6  # candidates for each seed
GOOD_ENOUGH = 0.75  # of the reward


def build(source: str | None = None) -> Task:
    """Make the augmentation task.

    Args:
        source: Must be None: the task has one source.

    Raises:
        ConfigError: A source is given.
    """
    refuse_source("augmentation", source)
    return Task(
        name="augmentation",
        description="Write another training example with the label of a given one.",
        split=splitter("augmentation", _split),
        rewards={"augmentation": 1.0},
        reward_functions={"augmentation": rewards.composite, **rewards.REWARDS},
        metrics={
            "label_kept": rewards.label_kept,
            "similarity": rewards.similarity,
            "fluent": rewards.fluent,
            "label_by_people": label_by_people,
        },
        max_prompt_tokens=128,
        max_completion_tokens=48,
        public_data="stanfordnlp/sst2 (sentence -> seed, label; answers by nearest neighbors of the same label)",
    )


def label_by_people(completions: Sequence[Any], label: Sequence[str], **_: Any) -> list[float | None]:
    """Score the label by naive Bayes fitted to sentences of the sft split as people have rated them."""
    labeled = _labeled("sft")[: rewards.MAX_LABELED]
    return rewards.label_kept(completions, label=label, labeled=[labeled] * len(completions))


def sentences_to_test(known: Collection[str], count: int = 600) -> list[dict[str, str]]:
    """Choose sentences to test classifiers on, as people have labeled them.

    Args:
        known: Texts that a classifier may have been trained on.
        count: How many to choose at most.

    Returns:
        Rows with `text` and `label`, none of them known.
    """
    return [row for row in _labeled("heldout") + _labeled("validation") if row["text"] not in known][:count]


def classified(
    seeds: Sequence[Mapping[str, Any]], generated: Sequence[str], test: list[dict[str, str]]
) -> tuple[list[bool], list[bool]]:
    """Measure what generated examples are worth to a classifier, on sentences that people have labeled.

    Args:
        seeds: Rows with `seed` and `label`.
        generated: A new text for each, taken to have its label.
        test: What to test on, see `sentences_to_test`; the same for all whose worth is compared.

    Returns:
        For each test sentence whether naive Bayes trained on the seeds alone is right about it, and whether the one
        trained on the seeds and the generated texts is.

    Raises:
        ConfigError: There are more seeds than the classifier reads.
    """
    own = [{"text": str(row["seed"]), "label": str(row["label"])} for row in seeds]
    new = [{"text": text, "label": str(row["label"])} for row, text in zip(seeds, generated, strict=True)]
    if len(own) + len(new) > rewards.MAX_LABELED:
        raise ConfigError(
            f"the classifier reads at most {rewards.MAX_LABELED // 2} seeds with one text each, not {len(own)}; "
            f"compare with --max_rows {rewards.MAX_LABELED // 2}"
        )
    return _right(own, test), _right(own + new, test)


def _right(labeled: list[dict[str, str]], test: list[dict[str, str]]) -> list[bool]:
    texts = [row["text"] for row in test]
    scores = rewards.label_kept(texts, label=[row["label"] for row in test], labeled=[labeled] * len(texts))
    # A score of 1 stands for a probability of 80% and more; half and half is at 0.625.
    return [score is not None and score > 0.5 / 0.8 for score in scores]


@functools.cache
def _clear() -> dict[str, list[Rated]]:
    """The sentences with a clear label by split; whole splits, so that an answer is never another split's seed."""
    splits: dict[str, list[Rated]] = defaultdict(list)
    for sentence in sorted(rated_sentences(6, 20), key=lambda sentence: digest(sentence.text)):
        if abs(sentence.rating) >= CLEAR_RATING:
            splits[split_of(sentence.text, "augmentation")].append(sentence)
    return splits


def _labeled(name: str) -> list[dict[str, str]]:
    return [{"text": sentence.text, "label": sentence.label} for sentence in _clear()[name]]


@functools.cache
def _split(name: str) -> list[Row]:
    return deal(_pairs(_clear()[name]), "augmentation", shares={name: 1.0})[name]


def _pairs(sentences: Sequence[Rated]) -> Iterator[Row]:
    about = {sentence: _content(sentence.text) for sentence in sentences}
    having: dict[tuple[str, str], list[Rated]] = defaultdict(list)
    for sentence, content in about.items():
        for word in content:
            having[sentence.label, word].append(sentence)
    for seed in sentences:
        shared: dict[Rated, float] = defaultdict(float)
        for word in about[seed]:
            others = having[seed.label, word]
            for other in others if len(others) <= RARE else ():
                shared[other] += 1 / len(others)
        shared.pop(seed, None)
        likeliest = sorted(shared, key=lambda other: (-shared[other], other.text))[:TRIED]
        texts = [other.text for other in likeliest]
        scores = rewards.composite(texts, seed=[seed.text] * len(texts), label=[seed.label] * len(texts))
        best = max(zip((score or 0.0 for score in scores), texts, strict=True), default=(0.0, ""))
        if best[0] >= GOOD_ENOUGH:
            prompt = f"{INSTRUCTION.format(label=seed.label)}\n\n{seed.text}"
            yield make_row(prompt, best[1], seed=seed.text, label=seed.label)


def _content(text: str) -> frozenset[str]:
    """Longer words that do not give a tone away, without a final s."""
    vader = optional("vaderSentiment.vaderSentiment", "augmentation", "vaderSentiment")
    words = {word.removesuffix("s") for word in re.findall(r"[a-z]{4,}", text.lower())}
    return frozenset(words - _lexicon(vader))


@functools.cache
def _lexicon(vader: Any) -> frozenset[str]:
    return frozenset(vader.SentimentIntensityAnalyzer().lexicon)
