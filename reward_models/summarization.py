"""Rewards for summaries, all in [0, 1], 1 best.

A row needs `source`, the text to be summarized (None: the row is not graded); `rouge` reads `reference`, a summary by
people. Word lists and stems are English; in other languages coverage and grounding count inflected forms as different
words and `readable` judges punctuation and repetition alone.

Each reward can be had cheaply on its own: a copied opening covers, is grounded and readable; keywords glued into
sentences cover; any text has some length. What does not read like prose (`readable` under 0.75) counts less in each
but `compression`. `composite` (`WEIGHTS`) adds six of them up, so that what one gives away another takes:
`abstractive` for copies, `readable` for lists, `compression` for long and empty texts, `entities` and `grounding` for
inventions. `rouge` is not in it, so that it can tell on held-out rows whether the reward is being gamed.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from reward_models._prose import clean_characters, fragment_lengths, ramp, words
from reward_models._source import Source, names_of, numbers_of, read_source, readability
from reward_models._summarization_examples import EXAMPLES
from reward_models._text import FUNCTION_WORDS, completion_text

__all__ = [
    "EXAMPLES",
    "REWARDS",
    "WEIGHTS",
    "Compression",
    "abstractive",
    "composite",
    "compression",
    "coverage",
    "entities",
    "grounding",
    "readable",
    "rouge",
]

ENOUGH_COVERED = 0.5  # share of the attainable salience from which more earns nothing
SUMMARY_WORDS = 12  # content words of a short summary: what it could cover at best is attainable
GROUNDED_BAND = (0.15, 0.65)  # share of content words with support in the source: worthless at, enough from
DENSITY_BAND = (4.0, 12.0)  # extractive density: free up to, worthless at
COPIED_BAND = (0.4, 0.9)  # the same for density as a share of the summary's length
COPY_DISCOUNT = 0.5  # what coverage loses when everything is copied
PROSE_ENOUGH = 0.75  # readability below which the other rewards count less, too

Scores = list[float | None]


def coverage(completions: Sequence[Any], source: Sequence[str | None], **_: Any) -> Scores:
    """Score how much of the source's salient content the summary mentions.

    Range: [0, 1]; content words weigh as often as the source says them (square root), names and numbers and words of
    the opening more; 1 from half of what the 12 weightiest words weigh. Each word counts once.
    Source: frequency as salience, Nenkova and Vanderwende 2005, "The Impact of Frequency on Summarization".
    Gaming: a list of frequent words: what does not read like sentences (`readable` under 0.75) loses here. Copying the
    opening, or the whole source: copies count half here, and abstractive and compression charge for them.
    """
    return _score(completions, source, _if_prose(_coverage))


def compression(completions: Sequence[Any], source: Sequence[str | None], **_: Any) -> Scores:
    """Score the summary's length as a share of the source's: 5% to 40% of its words; see `Compression`.

    Range: [0, 1].
    Gaming: anything of the right length.
    """
    return Compression()(completions, source)


@dataclasses.dataclass(frozen=True)
class Compression:
    """A reward for a length, as a share of the source's words, inside a band, in [0, 1].

    Linear ramps outside: 0 at no words and at the whole source's length (or twice `high`, if that is less). A summary
    of at most `always` words is never too long, one of `enough` words never too short.

    Args:
        low: least share of the source's words that earns 1.
        high: greatest share that earns 1, below 1.
        always: words that short sources allow in any case.
        enough: words that suffice for sources of any length.
    """

    low: float = 0.05
    high: float = 0.4
    always: int = 8
    enough: int = 60
    __name__: ClassVar[str] = "compression"

    def __post_init__(self) -> None:
        if not 0.0 < self.low <= self.high < 1.0 or not 1 <= self.always <= self.enough:
            raise ValueError(
                f"Compression: 0 < low {self.low} <= high {self.high} < 1 and 1 <= always {self.always} <= enough "
                f"{self.enough} must hold"
            )

    def __call__(self, completions: Sequence[Any], source: Sequence[str | None], **_: Any) -> Scores:
        """Score each completion."""
        return _score(completions, source, self._fit)

    def _fit(self, text: str, source: Source) -> float:
        count = len(words(text))
        least = min(float(self.enough), max(3.0, self.low * len(source.words)))
        most = max(float(self.always), self.high * len(source.words))
        if count < least:
            return count / least
        return ramp(count, max(most + 1.0, min(2.0 * most, len(source.words))), most)


def entities(completions: Sequence[Any], source: Sequence[str | None], **_: Any) -> Scores:
    """Score faithfulness in names and numbers: each one that the source does not have halves the score.

    Range: [0, 1]; 1 where all are in the source. Names are capitalized words inside a sentence; numbers are compared
    by value ("1,000" is 1000, "twelve" is 12, larger words are not read); acronyms may stand for names written out.
    Source: entity precision, Nan et al. 2021, "Entity-level Factual Consistency of Abstractive Text Summarization".
    Gaming: saying nothing concrete; coverage guards. Right names in false relations, or a dropped "not", pass.
    """
    return _score(completions, source, _if_prose(_entities))


def grounding(completions: Sequence[Any], source: Sequence[str | None], **_: Any) -> Scores:
    """Score faithfulness in words: the share of content words that the source supports, by stem or common beginning.

    Range: [0, 1]; 1 from 65% on (people paraphrase), 0 up to 15% (novel content).
    Source: novel n-grams, See et al. 2017, "Get To The Point"; here for single content words.
    Gaming: copying anything from the source, sentences or words; abstractive and readable guard.
    """
    return _score(completions, source, _if_prose(_grounding))


def abstractive(completions: Sequence[Any], source: Sequence[str | None], **_: Any) -> Scores:
    """Score own wording: neither copied passages nor words that have nothing to do with the source.

    Range: [0, 1]; falls from 1 to 0 as extractive density grows from 4 to 12 words, or from 40% to 90% of the
    summary's length, function words counted or left out; and, at the other end, with grounding from half of it down.
    Source: density of Grusky, Naaman and Artzi 2018, "Newsroom", with runs that go on over single changed words.
    Gaming: copied passages with every other word changed; grounding and entities look at the words put in.
    """
    return _score(completions, source, _if_prose(_abstractive))


def readable(completions: Sequence[Any], source: Sequence[str | None], **_: Any) -> Scores:
    """Score whether the text reads like prose: sentences with function words, capitals, periods, and no loops.

    Range: [0, 1]; each fault multiplies the score down: few function words, long piles of other words, neighbors such
    as "the of" (these three for English sources only), commas everywhere, no final period, no capital, repeated words
    or trigrams, odd characters.
    Gaming: any well-formed text gets full marks, whatever it says; keywords glued by "of the" read poorly, not badly.
    """
    return _score(completions, source, readability)


def rouge(completions: Sequence[Any], reference: Sequence[str | None], **_: Any) -> Scores:
    """Score the overlap with a summary by people: mean F-measure of ROUGE-1, ROUGE-2 and ROUGE-L over stemmed words.

    Range: [0, 1]; None where the row has no reference. References with other letters than ASCII's are compared by
    this package's own words instead of rouge-score's, which would drop such letters.
    Source: Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries".
    Gaming: the reference's words in any order earn the third that is ROUGE-1. Keep it for evaluation where you can.
    """
    return [
        None if human is None else _rouge(completion_text(completion), human)
        for completion, human in zip(completions, reference, strict=True)
    ]


REWARDS: dict[str, Callable[..., Scores]] = {
    "coverage": coverage,
    "compression": compression,
    "entities": entities,
    "grounding": grounding,
    "abstractive": abstractive,
    "readable": readable,
}
WEIGHTS = {
    "coverage": 0.25,
    "abstractive": 0.25,
    "grounding": 0.15,
    "entities": 0.1,
    "compression": 0.1,
    "readable": 0.15,
}


def composite(completions: Sequence[Any], source: Sequence[str | None], **columns: Any) -> Scores:
    """Score a summary by the weighted sum of the six rewards with the default weights, in [0, 1].

    Gaming: sentences about the right things that say something false about them are not seen: no reward here reads
    for meaning. Watch `rouge`, or a trained reward model, on held-out rows.
    """
    parts = [(weight, REWARDS[name](completions=completions, source=source)) for name, weight in WEIGHTS.items()]
    return [
        None if text is None else sum(weight * (scores[row] or 0.0) for weight, scores in parts)
        for row, text in enumerate(source)
    ]


def _score(completions: Sequence[Any], sources: Sequence[str | None], judge: Callable[[str, Source], float]) -> Scores:
    texts = (completion_text(completion).strip() for completion in completions)
    return [
        None if source is None else (judge(text, read_source(source)) if words(text) else 0.0)
        for text, source in zip(texts, sources, strict=True)
    ]


def _if_prose(judge: Callable[[str, Source], float]) -> Callable[[str, Source], float]:
    """Words that form no sentences say nothing about the source, however well chosen they are."""
    return lambda text, source: judge(text, source) * min(1.0, readability(text, source) / PROSE_ENOUGH)


def _coverage(text: str, source: Source) -> float:
    attainable = sum(sorted(source.salience.values(), reverse=True)[:SUMMARY_WORDS])
    if not attainable:
        return 1.0
    covered = sum(source.salience.get(root, 0.0) for root in set(source.content(words(text))))
    return min(1.0, covered / attainable / ENOUGH_COVERED) * (1.0 - COPY_DISCOUNT * (1.0 - _own(text, source)))


def _entities(text: str, source: Source) -> float:
    strangers = {name for name in names_of(text) if not source.has_name(name)}
    strangers |= {number for number in numbers_of(text) if number not in source.numbers}
    return clean_characters(text) * 0.5 ** len(strangers)


def _grounding(text: str, source: Source) -> float:
    content = source.content(words(text))
    if not content:
        return 0.0
    return ramp(sum(source.supports(stem) for stem in content) / len(content), *GROUNDED_BAND)


def _abstractive(text: str, source: Source) -> float:
    return _own(text, source) * min(1.0, 2.0 * _grounding(text, source))


def _own(text: str, source: Source) -> float:
    """1 for own wording, 0 for copied passages, with all words or with those alone that carry meaning."""
    said = words(text)
    content = [word for word in said if word not in FUNCTION_WORDS]
    return min(_uncopied(said, source.words), _uncopied(content, source.content_words))


def _uncopied(said: Sequence[str], source: Sequence[str]) -> float:
    """1 up to some extractive density, or some density as a share of the length; 0 from more on."""
    if not said:
        return 1.0
    density = sum(length * length for length in fragment_lengths(said, source, gaps=True)) / len(said)
    return min(ramp(density, *reversed(DENSITY_BAND)), ramp(density / len(said), *reversed(COPIED_BAND)))


@functools.lru_cache(maxsize=8192)
def _rouge(text: str, reference: str) -> float:
    scores = _rouge_scorer(reference.isascii()).score(reference, text)
    return sum(score.fmeasure for score in scores.values()) / len(scores)


@functools.cache
def _rouge_scorer(ascii_only: bool) -> Any:
    from rouge_score import rouge_scorer

    return rouge_scorer.RougeScorer(
        ["rouge1", "rouge2", "rougeL"], use_stemmer=True, tokenizer=None if ascii_only else _Words()
    )


class _Words:
    """A tokenizer for rouge-score that knows letters beyond ASCII."""

    def tokenize(self, text: str) -> list[str]:
        return list(words(text))
