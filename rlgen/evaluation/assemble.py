"""From completions and scores to the content of results.json, which docs/results.md describes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from datasets import Dataset

from rlgen.data import fingerprint, prompt_text, row_hashes
from rlgen.evaluation.checkpoints import Checkpoint
from rlgen.evaluation.generations import Generated, Sampling
from rlgen.evaluation.measures import Measure, Scores
from rlgen.evaluation.references import distinct
from rlgen.evaluation.results import (
    SCHEMA_VERSION,
    AllScores,
    compare_all,
    compare_methods,
    number,
    summarize,
    verdicts,
)
from rlgen.evaluation.winrates import pareto, win_rates

# by sampling plan, then by checkpoint
Answers = dict[str, dict[str, Generated]]

# By words per n-gram; counted over all completions of a checkpoint, so without interval and comparisons.
DISTINCT = {
    1: Measure(
        "distinct_1", "Share of different words among all words of a checkpoint's completions.", "diagnostic", None
    ),
    2: Measure(
        "distinct_2",
        "Share of different pairs of words among all pairs in a checkpoint's completions; low where they sound alike.",
        "diagnostic",
        None,
    ),
}


def assemble(
    checkpoints: Sequence[Checkpoint],
    rows: Dataset,
    samplings: Sequence[Sampling],
    measures: Sequence[Measure],
    answers: Answers,
    scores: AllScores,
    *,
    task: str | None,
    kl_reference: str | None,
    warnings: Sequence[str],
) -> dict[str, Any]:
    """Summarise and compare.

    Args:
        checkpoints: What was compared.
        rows: The held-out rows.
        samplings: How completions were drawn.
        measures: What was measured.
        answers: Completions by sampling plan and checkpoint.
        scores: By sampling plan, checkpoint and measure.
        task: Name for the record.
        kl_reference: Name of the checkpoint that KL is measured to.
        warnings: What weakens the comparison.

    Returns:
        The content of results.json.
    """
    summary = summarize(scores)
    for sampling, by_name in answers.items():
        for name, generated in by_name.items():
            texts = [sample.text for samples in generated.completions for sample in samples]
            for n, measure in DISTINCT.items():
                share = number(distinct(texts, n))
                summary[name][sampling][measure.name] = {
                    "n": len(rows),
                    "mean": share,
                    "ci_low": None,
                    "ci_high": None,
                }
    results: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "verdict": [],
        "warnings": list(warnings),
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
            for checkpoint in checkpoints
        ],
        "sampling": [{"name": sampling.name, **asdict(sampling)} for sampling in samplings],
        "kl_reference": kl_reference,
        "measures": [*(measure.entry() for measure in [*measures, *DISTINCT.values()])],
        "comparisons": compare_all(scores, measures),
        "methods": compare_methods(scores, measures),
        "summary": summary,
        "generation_seconds": {
            sampling: {name: round(generated.seconds, 1) for name, generated in by_name.items()}
            for sampling, by_name in answers.items()
        },
    }
    results["verdict"] = verdicts(results)
    texts_by_plan = {
        plan: {
            name: [[sample.text for sample in samples] for samples in generated.completions]
            for name, generated in by_name.items()
        }
        for plan, by_name in answers.items()
    }
    results["win_rates"] = win_rates(results, scores, texts_by_plan)
    results["pareto"] = pareto(results)
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
