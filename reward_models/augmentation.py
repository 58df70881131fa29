"""Rewards for data augmentation: a new example with the label of its seed, neither a copy of it nor another topic.

Rows, each column None where it is not known, and the rewards that need it then not graded:

- `seed`: the text to vary;
- `label`: the label that the new text must have;
- `others`: the variants of the same seed that exist already (list of texts), for diversity. It is a column because a
  reward must not depend on what else is in its batch;
- `labeled`: examples of all labels, `[{"text": ..., "label": ...}, ...]`; needed for labels other than "positive",
  "negative" and "neutral", which VADER judges.

All rewards lie in [0, 1], 1 best; English only. `composite` is the weighted geometric mean of the first
three (`WEIGHTS`) times `fluent`: a copy, another label, another topic or word salad each bring it down alone.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from reward_models._library_examples import AUGMENTATION
from reward_models._overlap import Scores, alike, content, copied, geometric, mood, prose, tokens, valence, weight
from reward_models._text import completion_text

EXAMPLES = AUGMENTATION  # rows with good answers, for checks

SENTIMENTS = ("positive", "negative", "neutral")
ENOUGH_POLARITY = 0.3  # mean compound from which a text is surely positive or negative
RELATED = 0.15  # shared weight of content words from which a text counts as about the same thing
TOO_CLOSE = (0.6, 0.95)  # share of words in the order of the seed: free up to, worthless from
LENGTH_RATIO = 2.0  # how many times longer or shorter than the seed costs nothing
MAX_LABELED = 512  # labeled examples that are read


def label_kept(
    completions: Sequence[Any],
    label: Sequence[Any] | None = None,
    labeled: Sequence[Sequence[Mapping[str, Any]] | None] | None = None,
    **_: Any,
) -> Scores:
    """Score whether the text has the wanted label, by a classifier that is not the one to be trained on it.

    Range: [0, 1]; with `labeled` rows of two labels at least, the label's probability under naive Bayes over word
    stems fitted to them, scaled so that 1 is reached at 80%. Otherwise, for the three sentiments, by the mean VADER
    compound of the sentences, full at 0.3 ("neutral": full up to 0.1, none from 0.4). Else None.
    A handful of labeled rows makes a weak judge; give dozens for each label.
    Source: Hutto and Gilbert 2014 (VADER); multinomial naive Bayes as in Manning et al. 2008, chapter 13.
    Gaming: one word that gives the label away; similarity and fluent guard against bare lists of such words.
    """
    columns = zip(completions, _column(label, completions), _column(labeled, completions), strict=True)
    return [
        None if wanted is None else _label_kept(completion_text(completion), wanted, rows)
        for completion, wanted, rows in columns
    ]


def similarity(completions: Sequence[Any], seed: Sequence[str | None] | None = None, **_: Any) -> Scores:
    """Score whether a text lies in the band between a copy of its seed and an unrelated text.

    Range: [0, 1]; the product of: related (rarity-weighted F1 of content stems, those of praise and blame left
    out, full from 15%), not a copy (words in the order of the seed: free up to 60%, nothing at 95%), and a length of
    half to twice the seed's.
    Paraphrases that share no word with the seed are missed: it sees words, not meaning.
    Source: after Wei and Zou 2019, "EDA", which asks how far a variant may move from its original.
    Gaming: the seed's words in another order, or with others between them; fluent guards against the first.
    """
    return [
        None if source is None else _similarity(completion_text(completion), source)
        for completion, source in zip(completions, _column(seed, completions), strict=True)
    ]


def diversity(
    completions: Sequence[Any],
    others: Sequence[Sequence[str] | None] | None = None,
    **_: Any,
) -> Scores:
    """Score how far a text differs from the variants that exist already.

    Range: [0, 1]; by the nearest of the column `others`: 1 while at most half of the words stand in the same order
    there, 0 from 95%; None where there are no others. A function of the row alone, unlike self-BLEU over a batch.
    Source: the idea of Zhu et al. 2018, "Texygen" (self-BLEU), per row.
    Gaming: nonsense is always new; the other rewards guard against that.
    """
    return [
        None if not existing else _diversity(completion_text(completion), existing)
        for completion, existing in zip(completions, _column(others, completions), strict=True)
    ]


def fluent(completions: Sequence[Any], **_: Any) -> Scores:
    """Score whether a text reads like English prose, by proxies.

    Range: [0, 1]; the product of: known words, the usual share of function words, no long runs without any, little
    repetition, letters rather than symbols, no invisible or look-alike characters.
    Gaming: any well-formed English, whatever it says, and words in a mild disorder; similarity and label_kept
    guard against the first.
    """
    return [prose(completion_text(completion)) for completion in completions]


REWARDS: dict[str, Callable[..., Scores]] = {
    "label_kept": label_kept,
    "similarity": similarity,
    "diversity": diversity,
    "fluent": fluent,
}
WEIGHTS = {"label_kept": 0.45, "similarity": 0.4, "diversity": 0.15}


def composite(completions: Sequence[Any], seed: Sequence[str | None] | None = None, **columns: Any) -> Scores:
    """Score a variant by the weighted geometric mean of the rewards that apply times `fluent`, in [0, 1].

    None without a seed.
    """
    parts = {name: reward(completions=completions, seed=seed, **columns) for name, reward in REWARDS.items()}
    return [
        None
        if source is None
        else (geometric({name: scores[row] for name, scores in parts.items()}, WEIGHTS) or 0.0)
        * (parts["fluent"][row] or 0.0)
        for row, source in enumerate(_column(seed, completions))
    ]


def _column(column: Sequence[Any] | None, completions: Sequence[Any]) -> Sequence[Any]:
    return [None] * len(completions) if column is None else column


def _label_kept(text: str, wanted: Any, rows: Sequence[Mapping[str, Any]] | None) -> float | None:
    examples = tuple((str(row["text"]), str(row["label"])) for row in (rows or ())[:MAX_LABELED])
    if len({label for _, label in examples}) > 1:
        model = _bayes(examples)
        if str(wanted) not in model:
            raise ValueError(f"column label {wanted!r} is none of the labels of labeled: {', '.join(sorted(model))}")
        return min(1.0, _posterior(model, text, str(wanted)) / 0.8) if tokens(text) else 0.0
    if wanted not in SENTIMENTS:
        return None
    if not tokens(text):
        return 0.0
    tone = mood(text)
    if wanted == "neutral":
        return min(1.0, max(0.0, (0.4 - abs(tone)) / 0.3))
    signed = tone if wanted == "positive" else -tone
    return min(1.0, max(0.0, 0.2 + 0.8 * signed / ENOUGH_POLARITY)) if signed > 0.0 else max(0.0, 0.2 + signed)


@functools.lru_cache(maxsize=64)
def _bayes(examples: tuple[tuple[str, str], ...]) -> dict[str, tuple[float, dict[str, float], float]]:
    """Fit naive Bayes: for each label its log prior, log likelihood of each stem, and that of an unseen stem."""
    counts: dict[str, Counter[str]] = {}
    for text, label in examples:
        counts.setdefault(label, Counter()).update(content(text))
    size = len(set().union(*counts.values())) + 1
    sizes = Counter(label for _, label in examples)
    model = {}
    for label, found in counts.items():
        total = sum(found.values()) + 0.5 * size
        likelihood = {word: math.log((count + 0.5) / total) for word, count in found.items()}
        model[label] = (math.log(sizes[label] / len(examples)), likelihood, math.log(0.5 / total))
    return model


def _posterior(model: Mapping[str, tuple[float, dict[str, float], float]], text: str, wanted: str) -> float:
    known = set().union(*(likelihood for _, likelihood, _ in model.values()))
    said = [word for word in content(text) if word in known]
    logits = {
        label: prior + math.fsum(likelihood.get(word, unseen) for word in said)
        for label, (prior, likelihood, unseen) in model.items()
    }
    highest = max(logits.values())
    return math.exp(logits[wanted] - highest) / math.fsum(math.exp(logit - highest) for logit in logits.values())


def _similarity(text: str, source: str) -> float:
    words, own = tokens(text), tokens(source)
    if not words or not own:
        return 0.0
    said, wanted = _topic(text), _topic(source)
    shared = 2.0 * weight(said & wanted) / max(1e-9, weight(said) + weight(wanted))
    free, worthless = TOO_CLOSE
    # The seed with a tail is as much a copy as the seed with a word changed.
    close = max(alike(text, source), copied(source, text, 3), copied(text, source, 3))
    fresh = min(1.0, max(0.0, (worthless - close) / (worthless - free)))
    ratio = max(len(words) / len(own), len(own) / len(words))
    size = min(1.0, max(0.0, 1.0 - math.log(ratio / LENGTH_RATIO) / math.log(3.0)))
    related = min(1.0, shared / RELATED) if wanted else 1.0
    return related * fresh * size


def _topic(text: str) -> set[str]:
    """Stems of what a text is about: words of praise and blame belong to the label, not to the topic."""
    plain = " ".join(word for word in tokens(text) if not valence(word))
    return set(content(plain)) or set(content(text))


def _diversity(text: str, others: Sequence[str]) -> float:
    if not tokens(text):
        return 0.0
    nearest = max(max(alike(text, other), copied(text, other, 3)) for other in others)
    return min(1.0, max(0.0, (0.95 - nearest) / 0.45))
