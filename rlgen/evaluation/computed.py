"""Measures that take a model: KL to the reference checkpoint, perplexity of the references, spread of embeddings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rlgen.evaluation.checkpoints import Checkpoint
from rlgen.evaluation.embeddings import Encoder, embedding_spreads
from rlgen.evaluation.generations import Generated, Steps, Store
from rlgen.evaluation.likelihood import Likelihood
from rlgen.evaluation.measures import Measure, Scores, token_kl
from rlgen.evaluation.metrics import CORPUS, EMBEDDING_SPREAD, LOG_PERPLEXITY, METRICS
from rlgen.evaluation.references import corpus_score

# by sampling plan, checkpoint and measure
Computed = dict[str, dict[str, dict[str, Scores]]]


def nothing_computed(answers: Mapping[str, Mapping[str, Generated]]) -> Computed:
    """No measure for any plan and checkpoint, to be filled."""
    return {plan: {name: {} for name in by_name} for plan, by_name in answers.items()}


def add_kl(
    computed: Computed,
    answers: Mapping[str, Mapping[str, Generated]],
    ratios: Mapping[str, Mapping[str, Scores]],
    reference: str,
) -> None:
    """Add the KL to a reference, per completion and per token.

    Args:
        computed: What is computed so far.
        answers: By plan and checkpoint.
        ratios: Sums of log-ratios by plan and checkpoint, None where the KL is not measured.
        reference: Name of the checkpoint that the KL is measured to.
    """
    for plan, by_name in ratios.items():
        for name, sums in by_name.items():
            completions = answers[plan][name].completions
            each: Scores = [
                [
                    None if value is None else value / max(len(sample.token_ids), 1)
                    for value, sample in zip(values, samples, strict=True)
                ]
                for values, samples in zip(sums, completions, strict=True)
            ]
            computed[plan][name] |= {f"kl_{reference}": sums, token_kl(reference): each}


def add_log_perplexity(
    computed: Computed,
    answers: Mapping[str, Mapping[str, Generated]],
    likelihoods: Mapping[str, Sequence[Likelihood]],
) -> None:
    """Add the mean negative log-probability of the references, which is the same under every plan."""
    for plan, by_name in answers.items():
        for name, found in likelihoods.items():
            computed[plan][name][LOG_PERPLEXITY] = [
                [None if value is None else -value[0] / value[1]] * len(samples)
                for value, samples in zip(found, by_name[name].completions, strict=True)
            ]


def add_embedding_spread(
    computed: Computed,
    answers: Mapping[str, Mapping[str, Generated]],
    encoder: Checkpoint,
    folder: Path,
    *,
    batch_size: int,
    steps: Steps,
    units: int,
) -> None:
    """Add the distance between a prompt's samples, all checkpoints seen by the same encoder.

    Args:
        computed: What is computed so far.
        answers: By plan and checkpoint.
        encoder: Whose hidden states are compared.
        folder: Where the numbers are kept.
        batch_size: Texts per batch.
        steps: Progress.
        units: Of work per completion.
    """
    reader = Encoder(encoder)
    for plan, by_name in answers.items():
        for name, generated in by_name.items():
            spreads = embedding_spreads(
                reader,
                generated,
                Store(folder / "embeddings" / f"{name}.jsonl"),
                batch_size=batch_size,
                advance=partial(steps.advance, units),
            )
            computed[plan][name][EMBEDDING_SPREAD] = [
                [spread] * len(samples) for spread, samples in zip(spreads, generated.completions, strict=True)
            ]
    reader.free()


def corpus_level(
    measures: Sequence[Measure],
    references: Sequence[Any],
    answers: Mapping[str, Mapping[str, Generated]],
    likelihoods: Mapping[str, Sequence[Likelihood]],
) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """What is no mean over prompts: corpus BLEU and chrF as `corpus`, `perplexity` over all tokens of the references.

    Args:
        measures: Which are measured.
        references: Per row, one text, several, or None.
        answers: By plan and checkpoint.
        likelihoods: By checkpoint, of the references.

    Returns:
        By checkpoint, plan and measure, the further entries of the summary.
    """
    wanted = [m.name for m in measures if m.name in CORPUS and m.score is METRICS[m.name].score]
    found: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for plan, by_name in answers.items():
        for name, generated in by_name.items():
            entries = found.setdefault(name, {}).setdefault(plan, {})
            pairs = [
                (sample.text, reference)
                for samples, reference in zip(generated.completions, references, strict=True)
                if reference
                for sample in samples
            ]
            for measure in wanted if pairs else ():
                texts, targets = zip(*pairs, strict=True)
                entries[measure] = {"corpus": corpus_score(measure, texts, targets)}
            known = [value for value in likelihoods.get(name, ()) if value is not None]
            if known:
                mean = sum(total for total, _ in known) / sum(count for _, count in known)
                entries[LOG_PERPLEXITY] = {"perplexity": math.exp(min(-mean, 700.0))}
    return found
