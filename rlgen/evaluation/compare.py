"""Compare checkpoints on held-out rows: generate, score, summarise. Each model is loaded alone and freed."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
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
from rlgen.evaluation.measures import Measure, Scores, check_unique, score_completions, weighted_sum
from rlgen.evaluation.metrics import DistinctN
from rlgen.evaluation.results import SCHEMA_VERSION, compare_all, number, summarize, verdicts
from rlgen.generation import Prompt, render_prompts
from rlgen.runs import report_progress

logger = logging.getLogger(__name__)

DISTINCT = Measure(
    "distinct_2",
    "Share of different word pairs among all word pairs of a checkpoint's completions; low where they sound alike.",
    "diagnostic",
    None,
)

# by sampling plan, then by checkpoint
Answers = dict[str, dict[str, Generated]]
Ratios = dict[str, dict[str, Scores]]


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
    rendered = {name: render_prompts(tokenizer, prompts) for name, tokenizer in tokenizers.items()}
    vocabularies = {name: vocabulary_hash(tokenizer) for name, tokenizer in tokenizers.items()}
    warnings = [
        *warnings,
        *check_same_prompts(rendered, vocabularies, allow_different=allow_different_prompts),
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
    )
    answers, ratios = _generate(setup)
    scores = _score_all(rows, answers, ratios, measures)
    return _assemble(setup, rows, measures, task, answers, scores, warnings)


def _generate(setup: _Setup) -> tuple[Answers, Ratios]:
    """Completions of every checkpoint and their log-ratios to the reference, one model in memory at a time."""
    answers: Answers = {sampling.name: {} for sampling in setup.samplings}
    own: dict[str, dict[str, list[list[list[float]]]]] = {sampling.name: {} for sampling in setup.samplings}
    scored = [name for name in setup.comparable if name != setup.kl_reference]
    completions = len(setup.prompts) * sum(sampling.num_samples for sampling in setup.samplings)
    steps = Steps("generate", completions * len(setup.checkpoints))
    kl_steps = Steps("measure KL", 2 * setup.kl_prompts * completions // len(setup.prompts) * len(scored))
    for checkpoint in setup.checkpoints:
        name = checkpoint.name
        store = Store(setup.folder / "generations" / f"{name}.jsonl")
        with loaded(checkpoint) as policy:
            for sampling in setup.samplings:
                generated = generate_cached(
                    policy,
                    setup.tokenizers[name],
                    setup.prompts,
                    setup.rendered[name],
                    sampling,
                    store,
                    batch_size=setup.batch_size,
                    steps=steps,
                )
                answers[sampling.name][name] = generated
                if name in scored:
                    own[sampling.name][name] = logprobs_cached(
                        policy,
                        setup.tokenizers[name],
                        setup.prompts[: setup.kl_prompts],
                        generated,
                        sampling,
                        Store(setup.folder / "logprobs" / f"{name}.jsonl"),
                        batch_size=setup.batch_size,
                        steps=kl_steps,
                    )
    return answers, _log_ratios(setup, answers, own, kl_steps)


def _log_ratios(setup: _Setup, answers: Answers, own: Mapping[str, Mapping[str, Any]], kl_steps: Steps) -> Ratios:
    ratios: Ratios = {sampling.name: {} for sampling in setup.samplings}
    reference = next((c for c in setup.checkpoints if c.name == setup.kl_reference), None)
    if reference is None:
        return ratios
    with loaded(reference) as policy:
        for sampling in setup.samplings:
            for name, generated in answers[sampling.name].items():
                measured = generated.completions[: setup.kl_prompts]
                unmeasured: Scores = [[None for _ in samples] for samples in generated.completions[len(measured) :]]
                if name == reference.name:
                    nothing: Scores = [[0.0 for _ in samples] for samples in measured]
                    ratios[sampling.name][name] = nothing + unmeasured
                elif name in setup.comparable:
                    theirs = logprobs_cached(
                        policy,
                        setup.tokenizers[reference.name],
                        setup.prompts[: setup.kl_prompts],
                        generated,
                        sampling,
                        Store(setup.folder / "logprobs" / f"{name}.jsonl"),
                        batch_size=setup.batch_size,
                        steps=kl_steps,
                    )
                    ratios[sampling.name][name] = log_ratio(own[sampling.name][name], theirs) + unmeasured
    return ratios


def _score_all(
    rows: Dataset, answers: Answers, ratios: Ratios, measures: Sequence[Measure]
) -> dict[str, dict[str, dict[str, Scores]]]:
    total = sum(len(by_name) for by_name in answers.values()) * len(measures)
    done = 0
    scores: dict[str, dict[str, dict[str, Scores]]] = {}
    for sampling, by_name in answers.items():
        scores[sampling] = {}
        for name, generated in by_name.items():
            values: dict[str, Scores] = {}
            # Sums come after what they add.
            for measure in sorted(measures, key=lambda measure: bool(measure.terms)):
                if measure.terms:
                    parts = [values[term] for term, _ in measure.terms]
                    values[measure.name] = weighted_sum(parts, [weight for _, weight in measure.terms])
                elif measure.score is not None:
                    values[measure.name] = score_completions(measure.score, rows, generated.completions)
                else:
                    nothing: Scores = [[None for _ in samples] for samples in generated.completions]
                    values[measure.name] = ratios[sampling].get(name, nothing)
                done += 1
                report_progress("measure", done, total)
            scores[sampling][name] = {measure.name: values[measure.name] for measure in measures}
    return scores


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
            }
            for checkpoint in setup.checkpoints
        ],
        "sampling": [{"name": sampling.name, **asdict(sampling)} for sampling in setup.samplings],
        "kl_reference": setup.kl_reference,
        "measures": [*(measure.entry() for measure in measures), DISTINCT.entry()],
        "comparisons": compare_all(scores, measures),
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
