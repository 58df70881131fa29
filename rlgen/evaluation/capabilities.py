"""What training for one task did to others: the same checkpoints on more rows, with a verdict per capability."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datasets import Dataset

from rlgen.errors import ConfigError
from rlgen.evaluation.checkpoints import NAME, Checkpoint
from rlgen.evaluation.compare import compare
from rlgen.evaluation.generations import Sampling
from rlgen.evaluation.ifeval import MAX_NEW_TOKENS as IFEVAL_TOKENS
from rlgen.evaluation.ifeval import NAME as IFEVAL
from rlgen.evaluation.ifeval import as_messages
from rlgen.evaluation.measures import Measure, choose_measures
from rlgen.evaluation.results import direction, find_comparison, main_pairs, number, primary_measure, title
from rlgen.evaluation.rows import distinct_rows, heldout_rows
from rlgen.evaluation.statistics import TIE
from rlgen.tasks import get_task, task_names

MARGIN = 0.02  # a loss up to this, in the measure's own unit, does not matter
# What the comparison as a whole says already.
_SHARED = ("schema_version", "verdict", "task", "checkpoints", "kl_reference", "pareto")


@dataclass(frozen=True)
class Capability:
    """Rows beside the main ones, and how answers to them are measured.

    Args:
        name: What it is reported under.
        source: Task name, task file, or file, folder or hub id of own rows.
        rows: Its held-out rows.
        measures: What is measured; the verdict is about the first reward, else the first metric.
        max_new_tokens: Length limit of an answer.
        warnings: What weakens the comparison.
        examples: Rows that few-shot checkpoints take their examples from.
    """

    name: str
    source: str
    rows: Dataset
    measures: Sequence[Measure]
    max_new_tokens: int
    warnings: Sequence[str]
    examples: Dataset | None = None


def open_capabilities(
    entries: Sequence[str],
    max_rows: int | None,
    *,
    max_new_tokens: int | None = None,
    as_chat: bool = False,
    few_shot: bool = False,
    examples: Dataset | None = None,
) -> list[Capability]:
    """Read `TASK`, `NAME=TASK` or `NAME=ROWS@METRIC,METRIC` and try the measures on two rows.

    Args:
        entries: As given. A task has its own rewards and metrics; own rows have those after the `@`, or ROUGE-L.
        max_rows: Take at most so many rows of each; None for all.
        max_new_tokens: Length limit of all answers; None for each task's own, 512 for IFEval, 64 for own rows.
        as_chat: Turn plain prompts into messages of a user.
        few_shot: A checkpoint wants examples. Those of a task are its `sft` rows.
        examples: Rows with `prompt` and `completion` to take those of own rows from.

    Raises:
        ConfigError: An entry cannot be read, a name is doubled, nothing can be measured, or there are no examples.
        DataError: There are no rows.
        RewardError: A measure breaks the reward contract.
    """
    opened: list[Capability] = []
    for entry in entries:
        capability = _open(entry, max_rows, max_new_tokens, as_chat)
        if capability.name in [other.name for other in opened]:
            raise ConfigError(f"--also: the name '{capability.name}' is given twice; rename one")
        if few_shot:
            capability = replace(capability, examples=_examples(capability, entry, examples))
        opened.append(capability)
    return opened


def _examples(capability: Capability, entry: str, examples: Dataset | None) -> Dataset:
    if _names_task(capability.source):
        return get_task(capability.source).split("sft")
    if examples is None:
        raise ConfigError(f"--also {entry}: a checkpoint wants examples, and own rows have none; give --examples FILE")
    return examples


def _names_task(source: str) -> bool:
    return source in task_names() or (source.endswith((".py", ".yaml", ".yml")) and Path(source).is_file())


def _open(entry: str, max_rows: int | None, max_new_tokens: int | None, as_chat: bool) -> Capability:
    place, at, listed = entry.partition("@")
    name, equals, source = place.partition("=")
    source = source if equals else name
    metrics = [metric for metric in listed.split(",") if metric]
    if not source or (at and not metrics):
        raise ConfigError(f"--also {entry}: write it as TASK, NAME=TASK or NAME=ROWS@METRIC,METRIC")
    if not NAME.fullmatch(name):
        raise ConfigError(f"--also {entry}: the name '{name}' may hold letters, digits and . _ + - only")
    of_task = _names_task(source)
    task = get_task(source) if of_task else None
    rows, warnings = distinct_rows(heldout_rows(task, None if of_task else source, max_rows=max_rows))
    rows = as_messages(rows) if as_chat else rows
    measures = choose_measures(
        task,
        rows,
        reward=None,
        reward_weights=None,
        reward_model=None,
        metrics=metrics or None,
        kl_reference=None,
        own_rows=not of_task,
    )
    if all(measure.kind == "diagnostic" for measure in measures):
        raise ConfigError(
            f"--also {entry}: nothing says which answers are better; give the rows a 'reference', or name a metric: "
            f"{name}={source}@exact_match"
        )
    own = task.max_completion_tokens if task else IFEVAL_TOKENS if source == IFEVAL else 64
    return Capability(name, source, rows, measures, max_new_tokens or own, warnings)


def measure_capability(
    capability: Capability,
    checkpoints: Sequence[Checkpoint],
    samplings: Sequence[Sampling],
    *,
    folder: Path,
    heldout_check: Mapping[str, Any],
    margin: float = MARGIN,
    batch_size: int = 16,
    allow_different_prompts: bool = False,
) -> dict[str, Any]:
    """Compare checkpoints on a capability.

    Args:
        capability: Its rows and measures.
        checkpoints: The same as in the main comparison.
        samplings: Likewise.
        folder: Where `also/<name>/` goes.
        heldout_check: What `check_unseen` found for the rows, for the record.
        margin: A loss up to this does not matter.
        batch_size: Prompts per batch.
        allow_different_prompts: Go on where chat templates differ, with a warning.

    Returns:
        One entry of `capabilities` in results.json.
    """
    results = compare(
        checkpoints,
        capability.rows,
        [replace(plan, max_new_tokens=capability.max_new_tokens) for plan in samplings],
        capability.measures,
        folder=folder / "also" / capability.name,
        task=capability.source,
        batch_size=batch_size,
        allow_different_prompts=allow_different_prompts,
        examples=capability.examples,
        warnings=capability.warnings,
    )
    measure = primary_measure(results)
    return {
        "name": capability.name,
        "source": capability.source,
        "measure": measure,
        "margin": margin,
        "verdicts": capability_verdicts(capability.name, results, margin),
        **{key: value for key, value in results.items() if key not in _SHARED},
        "heldout_check": dict(heldout_check),
    }


def capability_verdicts(name: str, results: Mapping[str, Any], margin: float) -> list[dict[str, Any]]:
    """Whether a capability was kept, lost or gained, one verdict per main pair of checkpoints and sampling plan.

    `gained` and `lost` need an interval on one side of zero. `kept` needs one that leaves no loss larger than the
    margin, also where a smaller loss is certain. Equal scores on all prompts have an interval, too. What is left is
    `not shown`, with the loss that it could hide.

    Args:
        name: Of the capability.
        results: A comparison on its rows.
        margin: A loss up to this does not matter.

    Returns:
        By pair: `a`, `b`, `sampling`, `verdict`, `n`, `gain` of b over a with its interval, `could_lose`, `sentence`.
    """
    measure = primary_measure(results)
    if measure is None:
        return []
    lower = direction(results, measure) is False
    verdicts = []
    for plan in (sampling["name"] for sampling in results["sampling"]):
        for a, b in main_pairs([checkpoint["name"] for checkpoint in results["checkpoints"]]):
            paired = find_comparison(results, a, b, measure, plan)
            gain, low, high = paired.difference, paired.low, paired.high
            if lower:
                gain, low, high = -gain, -high, -low
            same = paired.n > 0 and high - low <= TIE
            if same:
                low, high = _unseen(results, {a, b}, measure, plan, low, paired.n)
            verdict = _verdict(low, high, margin, shown=paired.shown)
            verdicts.append(
                {
                    "a": a,
                    "b": b,
                    "sampling": plan,
                    "verdict": verdict,
                    "n": paired.n,
                    "gain": number(gain),
                    "ci_low": number(low),
                    "ci_high": number(high),
                    "could_lose": number(max(0.0, -low)) if not math.isnan(low) else None,
                    "sentence": _sentence(name, a, b, measure, plan, verdict, gain, low, high, paired.n)
                    + (" All prompts differ by the same: the interval is that of changes too rare to be seen." * same),
                }
            )
    return verdicts


def _unseen(
    results: Mapping[str, Any], pair: set[str], measure: str, plan: str, difference: float, n: int
) -> tuple[float, float]:
    """Interval of a difference that is the same on all prompts, which a bootstrap takes for certain.

    A change that none of n prompts shows may still happen on a share of them up to 1 - 0.025^(1/n) (Clopper &
    Pearson 1934), and it may be as large as scores can differ: by 1 where they are pass or fail, else by the range
    seen.
    """
    scores = [
        answer["scores"][measure]
        for sample in results["samples"]
        if sample["sampling"] == plan
        for name in pair
        for answer in sample["completions"][name]
        if answer["scores"][measure] is not None
    ]
    size = 1.0 if set(scores) <= {0.0, 1.0} else max(scores) - min(scores)
    if size <= TIE:
        return math.nan, math.nan
    reach = (1 - 0.025 ** (1 / n)) * size
    return difference - reach, difference + reach


def _verdict(low: float, high: float, margin: float, *, shown: bool) -> str:
    if math.isnan(low):
        return "not shown"
    if low > 0 and shown:
        return "gained"
    if low >= -margin:
        return "kept"
    return "lost" if high < 0 and shown else "not shown"


def _sentence(
    name: str, a: str, b: str, measure: str, plan: str, verdict: str, gain: float, low: float, high: float, n: int
) -> str:
    start = f"{name}: {title(b)} against {title(a)} on {measure} ({plan}, {n} prompts): {verdict}"
    if math.isnan(low):
        return f"{start}; these prompts tell nothing."
    gain, low, high = (round(value, 3) + 0.0 for value in (gain, low, high))  # adding zero makes -0 plain
    numbers = f"{gain:+.3f} (95% interval {low:+.3f} to {high:+.3f})"
    doubt = f"; a loss could be as large as {-low:.3f}" if verdict == "not shown" else ""
    return f"{start}, {numbers}{doubt}."
