"""Metrics as `evaluate` modules: ROUGE, BLEU, chrF, exact match, pass@k, distinct-n, self-BLEU. None is downloaded.

They work with `compute`, `add_batch`, `evaluate.combine` and `evaluate.save`; `evaluate.load` takes the folders that
`rlgen.evaluation.modules.module_path` names. Scores go from 0 to 1. References are one string per row, or several, of
which the best counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import datasets
import evaluate
import numpy as np
from rouge_score.rouge_scorer import RougeScorer

from reward_models._extra import needs_extra

ROUGE_TYPES: Mapping[str, str] = {
    "rouge_1": "rouge1",
    "rouge_2": "rouge2",
    "rouge_l": "rougeL",
    "rouge_lsum": "rougeLsum",
}

_TEXT = datasets.Value("string")
_PAIRS = [
    datasets.Features({"predictions": _TEXT, "references": _TEXT}),
    datasets.Features({"predictions": _TEXT, "references": datasets.Sequence(_TEXT)}),
]
_PAIRS_INPUT = "predictions: one string per row; references: one string per row, or a list of them"


class Rouge(evaluate.Metric):
    """ROUGE F-measures over stemmed words; `rouge_lsum` takes lines for sentences."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="F-measures of shared words, word pairs and longest common subsequences, from 0 to 1.",
            citation="Lin 2004, ROUGE: A Package for Automatic Evaluation of Summaries",
            inputs_description=_PAIRS_INPUT,
            features=_PAIRS,
        )

    def _compute(self, predictions: Sequence[str], references: Sequence[Any]) -> dict[str, Any]:
        """Score rows.

        Returns:
            `rouge_1`, `rouge_2`, `rouge_l`, `rouge_lsum`, each a mean, and `<name>_scores`, one value per row.
        """
        result: dict[str, Any] = {}
        for name in ROUGE_TYPES:
            scores = [rouge(text, several(target), name) for text, target in zip(predictions, references, strict=True)]
            result |= {name: sum(scores) / len(scores), f"{name}_scores": scores}
        return result


class Bleu(evaluate.Metric):
    """BLEU of sacrebleu over the whole corpus, and of every row by itself."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Corpus BLEU, and sentence BLEU with exponential smoothing and effective order, from 0 to 1.",
            citation="Papineni et al. 2002, BLEU; Post 2018, A Call for Clarity in Reporting BLEU Scores",
            inputs_description=f"{_PAIRS_INPUT}; tokenize: a tokenizer of sacrebleu",
            features=_PAIRS,
        )

    def _compute(self, predictions: Sequence[str], references: Sequence[Any], tokenize: str = "13a") -> dict[str, Any]:
        """Score the corpus.

        Returns:
            `bleu`, counted over all rows together, and `bleu_scores`, one value per row.
        """
        with needs_extra():
            from sacrebleu.metrics import BLEU

        single = BLEU(tokenize=tokenize, effective_order=True)
        return _corpus_and_rows("bleu", BLEU(tokenize=tokenize), single, predictions, references)


class Chrf(evaluate.Metric):
    """The chrF of sacrebleu over the whole corpus, and of every row by itself."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="F-score of shared character n-grams, recall counted double, from 0 to 1.",
            citation="Popović 2015, chrF: character n-gram F-score for automatic MT evaluation",
            inputs_description=f"{_PAIRS_INPUT}; word_order: 2 for chrF++",
            features=_PAIRS,
        )

    def _compute(self, predictions: Sequence[str], references: Sequence[Any], word_order: int = 0) -> dict[str, Any]:
        """Score the corpus.

        Returns:
            `chrf`, counted over all rows together, and `chrf_scores`, one value per row.
        """
        with needs_extra():
            from sacrebleu.metrics import CHRF

        metric = CHRF(word_order=word_order)
        return _corpus_and_rows("chrf", metric, metric, predictions, references)


class ExactMatch(evaluate.Metric):
    """Share of texts that equal a reference."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Share of texts that equal a reference, runs of white space counting as one space.",
            citation="Rajpurkar et al. 2016, SQuAD",
            inputs_description=f"{_PAIRS_INPUT}; ignore_case, ignore_punctuation: whether these may differ",
            features=_PAIRS,
        )

    def _compute(
        self,
        predictions: Sequence[str],
        references: Sequence[Any],
        ignore_case: bool = False,
        ignore_punctuation: bool = False,
    ) -> dict[str, Any]:
        """Compare rows.

        Returns:
            `exact_match`, the mean, and `exact_match_scores`, 1 or 0 per row.
        """
        scores = [
            equal(text, several(target), ignore_case=ignore_case, ignore_punctuation=ignore_punctuation)
            for text, target in zip(predictions, references, strict=True)
        ]
        return {"exact_match": sum(scores) / len(scores), "exact_match_scores": scores}


class PassAtK(evaluate.Metric):
    """Probability that at least one of k samples passes, unbiased from n samples per prompt."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Mean over prompts of the probability that one of k samples or more passes.",
            citation="Chen et al. 2021, Evaluating Large Language Models Trained on Code",
            inputs_description="predictions: per prompt, 1 or 0 for each of its samples; k: how many are drawn",
            features=datasets.Features({"predictions": datasets.Sequence(datasets.Value("float32"))}),
        )

    def _compute(self, predictions: Sequence[Sequence[float]], k: int | Sequence[int] = 1) -> dict[str, Any]:
        """Estimate.

        Returns:
            `pass@<k>`, the mean, and `pass@<k>_scores`, one value per prompt, for every k.

        Raises:
            ValueError: A prompt has fewer samples than k, or a sample is neither 1 nor 0.
        """
        result: dict[str, Any] = {}
        for size in [k] if isinstance(k, int) else k:
            scores = [pass_at_k(samples, size) for samples in predictions]
            result |= {f"pass@{size}": sum(scores) / len(scores), f"pass@{size}_scores": scores}
        return result


class DistinctN(evaluate.Metric):
    """Share of different word n-grams among all n-grams of a set of texts: low where texts repeat each other."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Number of different word n-grams divided by the number of n-grams, over all texts.",
            citation="Li et al. 2016, A Diversity-Promoting Objective Function for Neural Conversation Models",
            inputs_description="predictions: strings; n: length of the n-grams",
            features=datasets.Features({"predictions": _TEXT}),
        )

    def _compute(self, predictions: Sequence[str], n: int = 2) -> dict[str, float]:
        """Count over the whole set.

        Returns:
            `distinct_<n>`, from 0 to 1; 1 for texts too short to hold an n-gram.
        """
        return {f"distinct_{n}": distinct(predictions, n)}


class SelfBleu(evaluate.Metric):
    """Mean BLEU of each text against all others: high where texts resemble each other."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Mean sentence BLEU of every text with the other texts as its references, from 0 to 1.",
            citation="Zhu et al. 2018, Texygen: A Benchmarking Platform for Text Generation Models",
            inputs_description="predictions: two strings or more",
            features=datasets.Features({"predictions": _TEXT}),
        )

    def _compute(self, predictions: Sequence[str]) -> dict[str, float]:
        """Compare all texts.

        Returns:
            `self_bleu`, from 0 to 1.

        Raises:
            ValueError: There are fewer than two texts.
        """
        return {"self_bleu": self_bleu(predictions)}


def several(reference: Any) -> tuple[str, ...]:
    """The references of one row: one text, or several."""
    return (reference,) if isinstance(reference, str) else tuple(reference)


def rouge(text: str, references: Sequence[str], name: str) -> float:
    """Best ROUGE F-measure of a text against its references; see `ROUGE_TYPES` for names."""
    kind = ROUGE_TYPES[name]
    return float(_rouge_scorer(kind).score_multi(list(references), text)[kind].fmeasure)


def equal(
    text: str, references: Sequence[str], *, ignore_case: bool = False, ignore_punctuation: bool = False
) -> float:
    """1 for a text that equals one of its references, runs of white space counting as one space, else 0."""

    def plain(words: str) -> str:
        words = words.casefold() if ignore_case else words
        if ignore_punctuation:
            words = "".join(c for c in words if c.isalnum() or c.isspace())
        return " ".join(words.split())

    return float(plain(text) in {plain(reference) for reference in references})


def pass_at_k(passed: Sequence[float], k: int) -> float:
    """Probability that at least one of k samples, drawn from the given ones without replacement, passes.

    Args:
        passed: 1 or 0 per sample.
        k: How many are drawn, from 1 to the number of samples.

    Raises:
        ValueError: There are fewer samples than k, or one is neither 1 nor 0.

    Source: Chen et al. 2021, "Evaluating Large Language Models Trained on Code", equation 1.
    """
    if not 1 <= k <= len(passed):
        raise ValueError(
            f"pass@{k} needs at least {max(k, 1)} samples per prompt and k of 1 or more; a prompt has "
            f"{len(passed)} samples"
        )
    if any(value not in (0, 1) for value in passed):
        raise ValueError(f"pass@{k} needs scores that are 1 or 0, not {next(v for v in passed if v not in (0, 1))}")
    failed = len(passed) - int(sum(passed))
    return float(1 - np.prod([(failed - i) / (len(passed) - i) for i in range(k)])) if failed >= k else 1.0


def distinct(texts: Sequence[str], n: int) -> float:
    """Share of different word n-grams among all of some texts; 1 where they hold none."""
    grams = [gram for text in texts for gram in word_ngrams(text, n)]
    return len(set(grams)) / len(grams) if grams else 1.0


def word_ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    """List the n-grams of a text's lower-cased, space-separated words."""
    words = text.lower().split()
    return [tuple(words[start : start + n]) for start in range(len(words) - n + 1)]


def self_bleu(texts: Sequence[str]) -> float:
    """Mean sentence BLEU of each text with the others as references.

    Raises:
        ValueError: There are fewer than two texts.
    """
    if len(texts) < 2:
        raise ValueError(f"self-BLEU compares texts with each other: give two or more, not {len(texts)}")
    scorer = _sentence_bleu()
    scores = [scorer.sentence_score(text, [*texts[:i], *texts[i + 1 :]]).score for i, text in enumerate(texts)]
    return float(np.mean(scores)) / 100


def corpus_score(name: str, texts: Sequence[str], references: Sequence[Any]) -> float:
    """`bleu` or `chrf` counted over all texts together, from 0 to 1."""
    metric: Any = {"bleu": Bleu, "chrf": Chrf}[name](keep_in_memory=True)
    targets = [list(several(reference)) for reference in references]
    return float(metric.compute(predictions=list(texts), references=targets)[name])


def _corpus_and_rows(
    name: str, corpus: Any, single: Any, predictions: Sequence[str], references: Sequence[Any]
) -> dict[str, Any]:
    targets = [several(reference) for reference in references]
    # sacrebleu wants the first reference of all rows, then the second, with None where a row has fewer.
    longest = max(map(len, targets))
    streams = [[row[i] if i < len(row) else None for row in targets] for i in range(longest)]
    rows = [single.sentence_score(text, list(row)).score / 100 for text, row in zip(predictions, targets, strict=True)]
    return {name: corpus.corpus_score(list(predictions), streams).score / 100, f"{name}_scores": rows}


@cache
def _rouge_scorer(kind: str) -> RougeScorer:
    return RougeScorer([kind], use_stemmer=True)


@cache
def _sentence_bleu() -> Any:
    with needs_extra():
        from sacrebleu.metrics import BLEU

    return BLEU(effective_order=True)
