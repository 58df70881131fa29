"""Compare checkpoints on held-out rows: generate, score, summarise. Each model is loaded alone and freed."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from rlgen.data import fingerprint, prompt_text, row_hashes
from rlgen.errors import ConfigError, DataError
from rlgen.evaluation.checkpoints import Checkpoint, check_same_prompts
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
    read_tokenizers,
    vocabulary_hash,
)
from rlgen.evaluation.measures import Measure, Scores, check_unique, combined, is_model, score_side_by_side
from rlgen.evaluation.metrics import DistinctN
from rlgen.evaluation.results import SCHEMA_VERSION, compare_all, compare_methods, number, summarize, verdicts
from rlgen.generation import Prompt, render_prompts
from rlgen.templates import choose_examples, with_examples

logger = logging.getLogger(__name__)

DISTINCT = Measure(
    "distinct_2",
    "Share of different word pairs among all word pairs of a checkpoint's completions; low where they sound alike.",
    "diagnostic",
    None,
)

# Units of work per completion, as they compare with prompts several times as long as completions.
GENERATING, SCORING, JUDGING = 4, 2, 1

# by sampling plan, then by checkpoint
Answers = dict[str, dict[str, Generated]]
Ratios = dict[str, dict[str, Scores]]
Logprobs = list[list[list[float]]]  # per prompt, sample and token


@dataclass(frozen=True)
class _Setup:
    """What all checkpoints of one comparison share."""

    checkpoints: Sequence[Checkpoint]
    tokenizers: Mapping[str, PreTrainedTokenizerBase]
    prompts: list[Prompt]
    rendered: Mapping[str, list[str]]
    samplings: Sequence[Sampling]
    folder: Path
    kl_reference: str | None
    comparable: frozenset[str]  # checkpoints whose tokens and prompts are those of the KL reference
    kl_prompts: int  # how many of the prompts the KL is measured on
    batch_size: int
    asked: Mapping[str, Sequence[Prompt]] = field(default_factory=dict)  # by checkpoint, with its examples

    @property
    def plans(self) -> list[str]:
        """Names of the sampling plans."""
        return [sampling.name for sampling in self.samplings]

    @property
    def scored(self) -> list[str]:
        """Checkpoints whose KL to the reference is measured."""
        return [c.name for c in self.checkpoints if c.name in self.comparable and c.name != self.kl_reference]


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
        examples: Rows with `prompt` and `completion` to take the examples of few-shot checkpoints from.
        warnings: What is known to weaken the comparison, for the record.

    Raises:
        ConfigError: Names clash, or the checkpoints do not see the same text.
        DataError: There are no rows.
    """
    check_unique(measures)
    names = [checkpoint.name for checkpoint in checkpoints]
    if not names:
        raise ConfigError("there is nothing to compare; give --checkpoints NAME=PATH ...")
    if kl_reference and kl_reference not in names:
        raise ConfigError(f"--kl_reference {kl_reference}: no checkpoint has that name ({', '.join(names)})")
    if len(rows) == 0:
        raise DataError("there are no held-out rows to compare on")
    tokenizers = read_tokenizers(checkpoints)
    prompts = list(rows["prompt"])
    asked = {checkpoint.name: _with_examples(checkpoint, rows, examples) for checkpoint in checkpoints}
    rendered = {name: render_prompts(tokenizer, asked[name]) for name, tokenizer in tokenizers.items()}
    # Examples make prompts differ by design; what must be the same is the prompt that they stand before.
    bare = {
        checkpoint.name: render_prompts(tokenizers[checkpoint.name], prompts)
        for checkpoint in checkpoints
        if checkpoint.shots is None or checkpoint.shots.style == "chat"
    }
    vocabularies = {name: vocabulary_hash(tokenizer) for name, tokenizer in tokenizers.items()}
    warnings = [
        *warnings,
        *check_same_prompts(bare, vocabularies, allow_different=allow_different_prompts),
    ]
    comparable = frozenset(
        name
        for name in names
        if kl_reference
        and vocabularies[name] == vocabularies[kl_reference]
        and rendered[name] == rendered[kl_reference]
    )
    for warning in warnings:
        logger.warning(warning)

    setup = _Setup(
        checkpoints,
        tokenizers,
        prompts,
        rendered,
        samplings,
        Path(folder),
        kl_reference,
        comparable,
        len(prompts) if kl_rows is None else min(len(prompts), math.ceil(kl_rows / CHUNK) * CHUNK),
        batch_size,
        asked,
    )
    steps = Steps(_work(setup, measures))
    answers, ratios = _generate(setup, steps)
    scores = _score_all(rows, answers, ratios, measures, steps)
    return _assemble(setup, rows, measures, task, answers, scores, warnings)


def _with_examples(checkpoint: Checkpoint, rows: Dataset, examples: Dataset | None) -> list[Prompt]:
    """What a checkpoint is asked."""
    prompts = list(rows["prompt"])
    if checkpoint.shots is None:
        return prompts
    if examples is None and checkpoint.shots.number:
        raise ConfigError(f"checkpoint {checkpoint.name}: examples need rows; give --task NAME or --examples FILE")
    chosen = choose_examples(examples, checkpoint.shots, rows) if examples is not None else []
    return with_examples(prompts, chosen, checkpoint.shots.style)


def _work(setup: _Setup, measures: Sequence[Measure]) -> int:
    """Units of work ahead. Measures that are no models cost next to nothing."""
    samples = sum(sampling.num_samples for sampling in setup.samplings)
    models = sum(is_model(measure.score) for measure in measures)
    return samples * (
        (GENERATING + JUDGING * models) * len(setup.prompts) * len(setup.checkpoints)
        + SCORING * 2 * setup.kl_prompts * len(setup.scored)
    )


def _generate(setup: _Setup, steps: Steps) -> tuple[Answers, Ratios]:
    """Completions of every checkpoint and their log-ratios to the reference, one model in memory at a time."""
    by_checkpoint: dict[str, dict[str, Generated]] = {}
    own: dict[str, dict[str, Logprobs]] = {}
    for checkpoint in setup.checkpoints:
        name = checkpoint.name
        with loaded(checkpoint) as policy:
            by_checkpoint[name] = generate_cached(
                policy,
                setup.tokenizers[name],
                setup.asked[name],
                setup.rendered[name],
                setup.samplings,
                Store(setup.folder / "generations" / f"{name}.jsonl"),
                batch_size=setup.batch_size,
                advance=partial(steps.advance, GENERATING),
            )
            if name in setup.scored:
                own[name] = _logprobs(setup, policy, name, by_checkpoint[name], steps)
    answers = {plan: {name: by_checkpoint[name][plan] for name in by_checkpoint} for plan in setup.plans}
    reference = next((c for c in setup.checkpoints if c.name == setup.kl_reference), None)
    if reference is None:
        return answers, {plan: {} for plan in setup.plans}
    with loaded(reference) as policy:
        theirs = {name: _logprobs(setup, policy, name, by_checkpoint[name], steps) for name in setup.scored}
    return answers, {plan: _log_ratios(setup, plan, answers[plan], own, theirs) for plan in setup.plans}


def _logprobs(
    setup: _Setup, policy: Loaded, name: str, generated: Mapping[str, Generated], steps: Steps
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
    setup: _Setup,
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
    rows: Dataset, answers: Answers, ratios: Ratios, measures: Sequence[Measure], steps: Steps
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
            elif measure.score is None:
                by_measure[measure.name] = ratios[plan].get(name, nothing)
    return {
        plan: {name: {m.name: values[plan, name][m.name] for m in measures} for name in by_name}
        for plan, by_name in answers.items()
    }


def _assemble(
    setup: _Setup,
    rows: Dataset,
    measures: Sequence[Measure],
    task: str | None,
    answers: Answers,
    scores: Mapping[str, Mapping[str, Mapping[str, Scores]]],
    warnings: list[str],
) -> dict[str, Any]:
    summary = summarize(scores)
    for sampling, by_name in answers.items():
        for name, generated in by_name.items():
            texts = [sample.text for samples in generated.completions for sample in samples]
            share = DistinctN(keep_in_memory=True).compute(predictions=texts, n=2)["distinct_2"]
            summary[name][sampling][DISTINCT.name] = {
                "n": len(rows),
                "mean": number(share),
                "ci_low": None,
                "ci_high": None,
            }
    results: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "verdict": [],
        "warnings": warnings,
        "task": task,
        "n_prompts": len(rows),
        "data_fingerprint": fingerprint(rows),
        "checkpoints": [
            {
                "name": checkpoint.name,
                "path": checkpoint.path,
                "fingerprint": checkpoint.fingerprint,
                "runs": list(checkpoint.runs),
                "shots": str(checkpoint.shots) if checkpoint.shots else None,
            }
            for checkpoint in setup.checkpoints
        ],
        "sampling": [{"name": sampling.name, **asdict(sampling)} for sampling in setup.samplings],
        "kl_reference": setup.kl_reference,
        "measures": [*(measure.entry() for measure in measures), DISTINCT.entry()],
        "comparisons": compare_all(scores, measures),
        "methods": compare_methods(scores, measures),
        "summary": summary,
        "generation_seconds": {
            sampling: {name: round(generated.seconds, 1) for name, generated in by_name.items()}
            for sampling, by_name in answers.items()
        },
    }
    results["verdict"] = verdicts(results)
    results["samples"] = [
        sample for sampling in answers for sample in _samples(sampling, rows, answers[sampling], scores[sampling])
    ]
    return results


def _samples(
    sampling: str,
    rows: Dataset,
    answers: Mapping[str, Generated],
    scores: Mapping[str, Mapping[str, Scores]],
) -> list[dict[str, Any]]:
    """One record per prompt: what was asked, what a human wrote, and what each checkpoint wrote with its scores."""
    samples = []
    for index, (row, row_id) in enumerate(zip(rows, row_hashes(rows), strict=True)):
        texts = {
            name: [
                {
                    "text": sample.text,
                    "tokens": len(sample.token_ids),
                    "finished": sample.finished,
                    "scores": {
                        measure: None if values[index][k] is None else number(values[index][k])  # type: ignore[arg-type]
                        for measure, values in scores[name].items()
                    },
                }
                for k, sample in enumerate(generated.completions[index])
            ]
            for name, generated in answers.items()
        }
        samples.append(
            {
                "id": row_id,
                "sampling": sampling,
                "prompt": prompt_text(row["prompt"]),
                "code": row.get("code"),
                "reference": row.get("reference"),
                "completions": texts,
            }
        )
    return samples
