"""Measures that no stage trains on: ROUGE-L against a reference, diversity, length, truncation.

`RougeL` and `DistinctN` are `evaluate` metrics, so they work with `compute`, `add_batch` and `evaluate.combine`, and
need no download. The functions below them have the signature of a reward and give one score per completion.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import datasets
import evaluate
from rouge_score.rouge_scorer import RougeScorer

from reward_models._text import completion_text

Score = Callable[..., list[float | None]]


class RougeL(evaluate.Metric):
    """ROUGE-L F-measure over stemmed words, between texts and their references."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="F-measure of the longest common subsequence of stemmed words, from 0 to 1.",
            citation="Lin 2004, ROUGE: A Package for Automatic Evaluation of Summaries",
            inputs_description="predictions and references: one string each per row",
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, Any]:
        """Score rows.

        Returns:
            `rouge_l`, the mean, and `rouge_l_scores`, one value per row.
        """
        scores = [_rouge_l(text, reference) for text, reference in zip(predictions, references, strict=True)]
        return {"rouge_l": sum(scores) / len(scores), "rouge_l_scores": scores}


class DistinctN(evaluate.Metric):
    """Share of different word n-grams among all n-grams of a set of texts: low where texts repeat each other."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Number of different word n-grams divided by the number of n-grams, over all texts.",
            citation="Li et al. 2016, A Diversity-Promoting Objective Function for Neural Conversation Models",
            inputs_description="predictions: strings; n: length of the n-grams",
            features=datasets.Features({"predictions": datasets.Value("string")}),
        )

    def _compute(self, predictions: Sequence[str], n: int = 2) -> dict[str, float]:
        """Count over the whole set.

        Returns:
            `distinct_<n>`, from 0 to 1; 1 for texts too short to hold an n-gram.
        """
        grams = [gram for text in predictions for gram in word_ngrams(text, n)]
        return {f"distinct_{n}": len(set(grams)) / len(grams) if grams else 1.0}


def word_ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    """List the n-grams of a text's lower-cased, space-separated words."""
    words = text.lower().split()
    return [tuple(words[start : start + n]) for start in range(len(words) - n + 1)]


def rouge_l(completions: Sequence[Any], reference: Sequence[str | None], **_: Any) -> list[float | None]:
    """Overlap with the human reference: F-measure of the longest common subsequence of stemmed words, 0 to 1."""
    return [
        _rouge_l(completion_text(completion), target) if target else None
        for completion, target in zip(completions, reference, strict=True)
    ]


def length_tokens(completions: Sequence[Any], completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float | None]:
    """Tokens of every completion, the end token included."""
    return [float(len(ids)) for ids in completion_ids]


def truncated(completions: Sequence[Any], finished: Sequence[bool], **_: Any) -> list[float | None]:
    """1 for a completion that was cut at the length limit, 0 for one that ended by itself."""
    return [0.0 if done else 1.0 for done in finished]


METRICS: Mapping[str, Score] = {"rouge_l": rouge_l}


@cache
def _scorer() -> RougeScorer:
    return RougeScorer(["rougeL"], use_stemmer=True)


def _rouge_l(text: str, reference: str) -> float:
    return float(_scorer().score(reference, text)["rougeL"].fmeasure)
