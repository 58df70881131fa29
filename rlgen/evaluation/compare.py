"""Compare checkpoints on held-out rows: generate, score, summarise. Each model is loaded alone and freed."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset

from rlgen.evaluation.assemble import Answers, assemble
from rlgen.evaluation.checkpoints import Checkpoint
from rlgen.evaluation.computed import (
    Computed,
    add_embedding_spread,
    add_kl,
    add_log_perplexity,
    corpus_level,
    nothing_computed,
)
from rlgen.evaluation.generations import (
    CHUNK,
    Generated,
    Loaded,
    Sampling,
    Steps,
    Store,
    generate_cached,
    loaded,
    log_ratio,
    logprobs_cached,
)
from rlgen.evaluation.likelihood import Likelihood, reference_likelihoods
from rlgen.evaluation.measures import (
    Measure,
    Scores,
    check_unique,
    combined,
    is_model,
    score_groups,
    score_side_by_side,
)
from rlgen.evaluation.remote import is_remote, parse_remote
from rlgen.evaluation.remote_generations import generate_remote
from rlgen.evaluation.results import number
from rlgen.evaluation.setup import Setup, check_request, set_up, weaknesses

logger = logging.getLogger(__name__)

# Units of work per completion, as they compare with prompts several times as long as completions.
GENERATING, SCORING, JUDGING, ENCODING = 4, 2, 1, 1

Ratios = dict[str, dict[str, Scores]]
Logprobs = list[list[list[float]]]  # per prompt, sample and token


def compare(
    checkpoints: Sequence[Checkpoint],
    rows: Dataset,
    samplings: Sequence[Sampling],
    measures: Sequence[Measure],
    *,
    folder: str | Path,
    task: str | None = None,
    kl_reference: str | None = None,
    kl_rows: int | None = None,
    batch_size: int = 16,
    allow_different_prompts: bool = False,
    encoder: Checkpoint | None = None,
    examples: Dataset | None = None,
    warnings: Sequence[str] = (),
) -> dict[str, Any]:
    """Compare checkpoints and return what results.json holds.

    Completions and log-probabilities are kept in `folder`, so that a second call, after a kill or with another
    checkpoint or measure, does only what is missing.

    Args:
        checkpoints: At least one.
        rows: Held-out rows with `prompt`, no prompt twice, and the columns that the measures read.
        samplings: How completions are drawn; the first plan is the main one.
        measures: What to measure, see `rlgen.evaluation.measures`.
        folder: Where `generations/` and `logprobs/` go.
        task: Name for the record.
        kl_reference: Name of the checkpoint that the measure `kl_<name>` refers to.
        kl_rows: Measure it on the first so many rows, rounded up to whole chunks; None takes all.
        batch_size: Prompts per batch of generation, completions per batch of scoring.
        allow_different_prompts: Go on where chat templates differ, with a warning.
        encoder: Reads the samples for `embedding_spread`; None takes the KL reference, or the first checkpoint.
        examples: Rows with `prompt` and `completion` to take the examples of few-shot checkpoints from.
        warnings: What is known to weaken the comparison, for the record.

    Raises:
        ConfigError: Names clash, or the checkpoints do not see the same text.
        DataError: There are no rows.
    """
    check_unique(measures)
    check_request(checkpoints, rows, kl_reference)
    setup = set_up(
        checkpoints,
        rows,
        samplings,
        measures,
        folder=Path(folder),
        kl_reference=kl_reference,
        kl_rows=kl_rows,
        batch_size=batch_size,
        encoder=encoder,
        examples=examples,
    )
    warnings = [*warnings, *weaknesses(setup, allow_different=allow_different_prompts)]
    for warning in warnings:
        logger.warning(f"{task}: {warning}" if task else warning)

    steps = Steps(_work(setup, measures))
    answers, ratios, likelihoods = _generate(setup, steps)
    computed = _compute(setup, answers, ratios, likelihoods, steps)
    scores = _score_all(rows, answers, computed, measures, steps)
    results = assemble(
        checkpoints,
        rows,
        samplings,
        measures,
        answers,
        scores,
        task=task,
        kl_reference=kl_reference,
        warnings=warnings,
    )
    for name, by_plan in corpus_level(measures, setup.references, answers, likelihoods).items():
        for plan, entries in by_plan.items():
            for measure, more in entries.items():
                results["summary"][name][plan][measure] |= {key: number(value) for key, value in more.items()}
    return results


def _work(setup: Setup, measures: Sequence[Measure]) -> int:
    """Units of work ahead. Measures that are no models cost next to nothing."""
    samples = sum(sampling.num_samples for sampling in setup.samplings)
    models = sum(is_model(measure.score) for measure in measures)
    return samples * (
        (GENERATING + JUDGING * models) * len(setup.prompts) * len(setup.checkpoints)
        + SCORING * 2 * setup.kl_prompts * len(setup.scored)
        + ENCODING * len(setup.prompts) * len(setup.checkpoints) * bool(setup.encoder)
    ) + SCORING * len(setup.prompts) * len(setup.likely)


def _generate(setup: Setup, steps: Steps) -> tuple[Answers, Ratios, dict[str, list[Likelihood]]]:
    """Completions of every checkpoint, their log-ratios to the reference, and how likely it finds the human answers.

    One model is in memory at a time.
    """
    likelihoods: dict[str, list[Likelihood]] = {}
    by_checkpoint: dict[str, dict[str, Generated]] = {}
    own: dict[str, dict[str, Logprobs]] = {}
    for checkpoint in setup.checkpoints:
        name = checkpoint.name
        store = Store(setup.folder / "generations" / f"{name}.jsonl")
        advance = partial(steps.advance, GENERATING)
        if is_remote(checkpoint.path):
            by_checkpoint[name] = generate_remote(
                name,
                parse_remote(checkpoint.path),
                setup.prompts,
                setup.samplings,
                store,
                concurrency=setup.batch_size,
                advance=advance,
            )
            continue
        with loaded(checkpoint) as policy:
            by_checkpoint[name] = generate_cached(
                policy,
                setup.tokenizers[name],
                setup.asked[name],
                setup.rendered[name],
                setup.samplings,
                store,
                batch_size=setup.batch_size,
                advance=advance,
            )
            if name in setup.scored:
                own[name] = _logprobs(setup, policy, name, by_checkpoint[name], steps)
            if name in setup.likely:
                likelihoods[name] = reference_likelihoods(
                    policy,
                    setup.tokenizers[name],
                    setup.asked[name],
                    setup.rendered[name],
                    setup.references,
                    Store(setup.folder / "likelihoods" / f"{name}.jsonl"),
                    batch_size=setup.batch_size,
                    advance=partial(steps.advance, SCORING),
                )
    answers = {plan: {name: by_checkpoint[name][plan] for name in by_checkpoint} for plan in setup.plans}
    reference = next((c for c in setup.checkpoints if c.name == setup.kl_reference), None)
    if reference is None:
        return answers, {plan: {} for plan in setup.plans}, likelihoods
    with loaded(reference) as policy:
        theirs = {name: _logprobs(setup, policy, name, by_checkpoint[name], steps) for name in setup.scored}
    ratios = {plan: _log_ratios(setup, plan, answers[plan], own, theirs) for plan in setup.plans}
    return answers, ratios, likelihoods


def _compute(
    setup: Setup,
    answers: Answers,
    ratios: Ratios,
    likelihoods: Mapping[str, Sequence[Likelihood]],
    steps: Steps,
) -> Computed:
    """Scores of the measures that take a model."""
    computed = nothing_computed(answers)
    if setup.kl_reference:
        add_kl(computed, answers, ratios, setup.kl_reference)
    add_log_perplexity(computed, answers, likelihoods)
    if setup.encoder:
        add_embedding_spread(
            computed,
            answers,
            setup.encoder,
            setup.folder,
            batch_size=setup.batch_size,
            steps=steps,
            units=ENCODING,
        )
    return computed


def _logprobs(
    setup: Setup, policy: Loaded, name: str, generated: Mapping[str, Generated], steps: Steps
) -> dict[str, Logprobs]:
    """What a policy thinks of a checkpoint's completions, as far as the KL is measured."""
    return logprobs_cached(
        policy,
        setup.tokenizers[name],
        setup.asked[name][: setup.kl_prompts],
        generated,
        setup.samplings,
        Store(setup.folder / "logprobs" / f"{name}.jsonl"),
        batch_size=setup.batch_size,
        advance=partial(steps.advance, SCORING),
    )


def _log_ratios(
    setup: Setup,
    plan: str,
    answers: Mapping[str, Generated],
    own: Mapping[str, Mapping[str, Logprobs]],
    theirs: Mapping[str, Mapping[str, Logprobs]],
) -> dict[str, Scores]:
    """Of the reference and all that compare with it; None for the prompts that the KL is not measured on."""
    ratios: dict[str, Scores] = {}
    for name in (*setup.scored, str(setup.kl_reference)):
        samples = answers[name].completions
        measured: Scores = (
            log_ratio(own[name][plan], theirs[name][plan])
            if name in setup.scored
            else [[0.0 for _ in row] for row in samples[: setup.kl_prompts]]
        )
        ratios[name] = measured + [[None for _ in row] for row in samples[setup.kl_prompts :]]
    return ratios


def _score_all(
    rows: Dataset, answers: Answers, computed: Computed, measures: Sequence[Measure], steps: Steps
) -> dict[str, dict[str, dict[str, Scores]]]:
    """All scores by sampling plan, checkpoint and measure, measures in their order."""
    authors = {
        (plan, name): generated.completions for plan, by_name in answers.items() for name, generated in by_name.items()
    }
    values: dict[tuple[str, str], dict[str, Scores]] = {author: {} for author in authors}
    for measure in measures:
        if measure.score is None:
            continue
        for start in range(0, len(rows), CHUNK):
            part = range(start, min(start + CHUNK, len(rows)))
            scored = score_side_by_side(measure.score, rows, authors, part)
            for author, scores in scored.items():
                values[author].setdefault(measure.name, []).extend(scores)
            if is_model(measure.score):
                steps.advance(JUDGING, sum(len(samples) for scores in scored.values() for samples in scores))
    for (plan, name), by_measure in values.items():
        nothing: Scores = [[None for _ in samples] for samples in authors[plan, name]]
        for measure in measures:
            if measure.terms:
                by_measure[measure.name] = combined(measure, by_measure, authors[plan, name])
            elif measure.group:
                by_measure[measure.name] = score_groups(measure, authors[plan, name], by_measure)
            elif measure.score is None:
                by_measure[measure.name] = computed[plan][name].get(measure.name, nothing)
    return {
        plan: {name: {m.name: values[plan, name][m.name] for m in measures} for name in by_name}
        for plan, by_name in answers.items()
    }
