"""Preference pairs: which of two completions of a prompt is better, built from references and scored samples.

Pairs invite shortcuts: a reward model may learn that human text is longer or ends with a period. So every accuracy is
reported by source, on pairs of like length, and beside rankers that look at such a surface only.
"""

import hashlib
import itertools
import json
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, Value
from scipy import stats

from reward_models._text import completion_text
from rlgen.data import prompt_text, row_hash
from rlgen.errors import DataError
from rlgen.generation import Completion
from rlgen.runs import report_progress, write_atomic

logger = logging.getLogger(__name__)

HUMAN, BETTER = "human_over_sample", "better_over_worse"
COLUMNS = ("prompt", "completion", "completion_ids")


def build_pairs(
    rows: Dataset,
    samples: Sequence[Sequence[Completion]],
    score: Callable[..., Sequence[float | None]],
    *,
    min_margin: float = 0.1,
    pairs_per_prompt: int = 1,
    balance: bool = True,
) -> Dataset:
    """Build preference pairs from references and samples.

    Two sources: `human_over_sample` prefers the row's reference over a sample, `better_over_worse` prefers the sample
    with the higher score. Which samples take part is decided by content hashes, so the same input gives the same
    pairs in whatever order it comes. Outer whitespace is dropped, and equal texts are never paired.

    Args:
        rows: with `prompt`, `completion` (the reference) and the columns that `score` reads.
        samples: for each row, its sampled completions.
        score: reward function, for example `rlgen.rewards.weighted_sum(...)`.
        min_margin: least difference in score between two samples of a pair.
        pairs_per_prompt: at most this many pairs a prompt from each source.
        balance: keep as many pairs of one source as of the other, if both give any.

    Returns:
        Rows with prompt, chosen, rejected, source, chosen_score, rejected_score, in the order of `rows`.

    Raises:
        DataError: not a single pair can be built.
    """
    sample_scores, reference_scores = _score_all(rows, samples, score)
    by_source: dict[str, list[dict[str, Any]]] = {HUMAN: [], BETTER: []}
    for index, row in enumerate(rows):
        reference = _clean(row["prompt"], completion_text(row["completion"]))
        scored: dict[str, float | None] = {}
        for sample, value in zip(samples[index], sample_scores[index], strict=True):
            scored.setdefault(_clean(row["prompt"], sample.text), value)
        key = prompt_text(row["prompt"])
        human = [
            (reference, text, reference_scores[index], value)
            for text, value in scored.items()
            if reference.strip() not in ("", text.strip())
        ]
        better = [
            _ordered(first, second)
            for first, second in itertools.combinations(scored.items(), 2)
            if first[0].strip() != second[0].strip() and _margin(first[1], second[1]) >= max(min_margin, 1e-9)
        ]
        for source, candidates in ((HUMAN, human), (BETTER, better)):
            candidates.sort(key=lambda pair: _digest(key, pair[0], pair[1]))
            for rank, (chosen, rejected, chosen_score, rejected_score) in enumerate(candidates[:pairs_per_prompt]):
                by_source[source].append(
                    {
                        "prompt": row["prompt"],
                        "chosen": _like(row["prompt"], chosen),
                        "rejected": _like(row["prompt"], rejected),
                        "source": source,
                        "chosen_score": chosen_score,
                        "rejected_score": rejected_score,
                        "_order": (rank, _digest(key)),
                        "_row": index,
                    }
                )
    if not any(by_source.values()):
        raise DataError(
            f"no preference pair can be built from {len(rows)} rows: the samples equal the references and each other, "
            f"or their scores differ by less than {min_margin}; sample more or at a higher temperature"
        )
    return _dataset(_balanced(by_source) if balance else [pair for pairs in by_source.values() for pair in pairs])


def split_pairs(pairs: Dataset, heldout_fraction: float) -> tuple[Dataset, Dataset]:
    """Split pairs into training and held-out ones that share no prompt (or group, see `unit_rows`).

    Args:
        pairs: rows with `prompt`.
        heldout_fraction: share of the prompts to hold out, in (0, 1); at least one prompt goes to either side.

    Raises:
        DataError: fewer than two prompts.
    """
    hashes = unit_hashes(pairs)
    prompts = sorted(set(hashes), key=_digest)
    if len(prompts) < 2:
        raise DataError(f"{len(pairs)} pairs of one prompt cannot be split for evaluation; give more prompts")
    heldout = set(prompts[: min(max(round(heldout_fraction * len(prompts)), 1), len(prompts) - 1)])
    kept = [index for index, value in enumerate(hashes) if value not in heldout]
    held = [index for index, value in enumerate(hashes) if value in heldout]
    return pairs.select(kept), pairs.select(held)


def evaluate_pairs(pairs: Dataset, chosen_scores: Sequence[float], rejected_scores: Sequence[float]) -> dict[str, Any]:
    """How often the chosen text of a pair scores higher, and how often a trivial ranker gets it right.

    Args:
        pairs: rows with prompt, chosen, rejected and, if known, source.
        chosen_scores: a ranker's score of each chosen text.
        rejected_scores: and of each rejected text.

    Returns:
        accuracy, ci_low, ci_high, n_pairs, n_prompts; the same for `by_source` and `length_matched` (lengths in
        characters within 10%; None if there are no such pairs); `trivial_rankers`.
    """
    correct = [wins(a, b) for a, b in zip(chosen_scores, rejected_scores, strict=True)]
    prompts = unit_hashes(pairs)
    sources = pairs["source"] if "source" in pairs.column_names else ["given"] * len(pairs)
    by_source = {
        source: accuracy_interval(*_where([s == source for s in sources], correct, prompts))
        for source in sorted(set(sources))
    }
    lengths = [(len(chosen), len(rejected)) for chosen, rejected in pair_texts(pairs)]
    alike = [abs(a - b) <= 0.1 * max(a, b) for a, b in lengths]
    return {
        **accuracy_interval(correct, prompts),
        "by_source": by_source,
        "length_matched": accuracy_interval(*_where(alike, correct, prompts)) if any(alike) else None,
        "trivial_rankers": trivial_rankers(pairs),
    }


def trivial_rankers(pairs: Dataset) -> dict[str, dict[str, float]]:
    """Accuracy of rankers that know nothing: what a reward model must beat to have learned more than a surface.

    Args:
        pairs: rows with prompt, chosen and rejected.

    Returns:
        For `longer_wins`, `shorter_wins` (characters), `period_wins` (ends with a period) and `random` the accuracy
        with its interval; a tie counts one half.
    """
    prompts = unit_hashes(pairs)
    return {name: accuracy_interval(correct, prompts) for name, correct in trivial_outcomes(pairs).items()}


def trivial_outcomes(pairs: Dataset) -> dict[str, list[float]]:
    """Which pairs each trivial ranker gets right: 1.0, 0.5 for a tie, or 0.0."""
    texts = pair_texts(pairs)
    longer = [wins(len(chosen), len(rejected)) for chosen, rejected in texts]
    return {
        "longer_wins": longer,
        "shorter_wins": [1.0 - value for value in longer],
        "period_wins": [wins(chosen.endswith("."), rejected.endswith(".")) for chosen, rejected in texts],
        "random": [0.5] * len(texts),
    }


def unit_rows(pairs: Dataset) -> Dataset:
    """What a split must keep together, as rows with `prompt`: the column `group` where there is one, else the prompt.

    Pairs may ask the same of different texts, and be independent all the same; or quote one text in two prompts.
    """
    if "group" not in pairs.column_names:
        return pairs.select_columns(["prompt"])
    return pairs.select_columns(["group"]).rename_column("group", "prompt")


def unit_hashes(pairs: Dataset) -> list[str]:
    """Hashes of `unit_rows`, one per pair: what intervals resample."""
    return [row_hash(row) for row in unit_rows(pairs)]


def accuracy_interval(
    correct: Sequence[float], prompts: Sequence[str], *, resamples: int = 2000, seed: int = 0
) -> dict[str, float]:
    """Accuracy with its 95% interval, resampling prompts, since the pairs of one prompt are not independent.

    Args:
        correct: 1.0, 0.5 (tie) or 0.0 for each pair.
        prompts: the prompt of each pair, as text or hash.
        resamples: bootstrap samples.
        seed: of the resampling.

    Returns:
        accuracy, ci_low, ci_high, n_pairs, n_prompts. Where all prompts agree, so that resampling shows no spread,
        the interval is Wilson's over prompts.

    Source:
        Wilson 1927, "Probable inference, the law of succession, and statistical inference", for that case.
    """
    groups: defaultdict[str, list[float]] = defaultdict(list)
    for prompt, value in zip(prompts, correct, strict=True):
        groups[prompt].append(value)
    sums = np.array([sum(values) for values in groups.values()])
    counts = np.array([len(values) for values in groups.values()])
    accuracy = float(sums.sum() / counts.sum())
    if np.ptp(sums / counts) == 0:
        interval = stats.binomtest(round(accuracy * len(sums)), len(sums)).proportion_ci(method="wilson")
        low, high = min(float(interval.low), accuracy), max(float(interval.high), accuracy)
    else:
        result = stats.bootstrap(
            (sums, counts),
            lambda s, c, axis: s.sum(axis=axis) / c.sum(axis=axis),
            paired=True,
            vectorized=True,
            n_resamples=resamples,
            method="percentile",
            rng=np.random.default_rng(seed),
        )
        low, high = (float(bound) for bound in result.confidence_interval)
    return {
        "accuracy": accuracy,
        "ci_low": low,
        "ci_high": high,
        "n_pairs": int(counts.sum()),
        "n_prompts": len(sums),
    }


def sample_once(
    path: Path,
    rows: Dataset,
    sample: Callable[[Dataset, int], list[list[Completion]]],
    *,
    chunk: int = 32,
) -> list[list[Completion]]:
    """Sample completions for all rows, keeping what is done in a file, so that an interrupted run goes on from there.

    Args:
        path: JSONL file, one row a line.
        rows: with `prompt`.
        sample: from some rows and the index of the first to their completions.
        chunk: rows between two writes.
    """
    done: list[list[Completion]] = []
    if path.is_file():
        for row, line in zip(rows, path.read_text(encoding="utf-8").rstrip("\n").split("\n"), strict=False):
            record = json.loads(line)
            if record["prompt_hash"] != row_hash(row):
                raise DataError(f"{path} holds samples of other prompts; delete it, or choose another --output_dir")
            done.append([Completion(**completion) for completion in record["completions"]])
    while len(done) < len(rows):
        report_progress("samples", len(done), len(rows))
        start = len(done)
        done += sample(rows.select(range(start, min(start + chunk, len(rows)))), start)
        write_jsonl(
            path,
            (
                {"prompt_hash": row_hash(row), "completions": [asdict(completion) for completion in completions]}
                for row, completions in zip(rows, done, strict=False)
            ),
        )
    report_progress("samples", len(rows), len(rows))
    return done


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as JSON lines, completely or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _score_all(
    rows: Dataset, samples: Sequence[Sequence[Completion]], score: Callable[..., Sequence[float | None]]
) -> tuple[list[list[float | None]], list[float | None]]:
    """Scores of every sample, by row, and of every reference."""
    if len(samples) != len(rows):
        raise DataError(f"{len(samples)} lists of samples for {len(rows)} rows; give one list per row")
    columns = {name: list(rows[name]) for name in rows.column_names if name not in COLUMNS}
    owner = [index for index, group in enumerate(samples) for _ in group]
    flat = [sample for group in samples for sample in group]
    prompts = list(rows["prompt"])
    values = iter(
        score(
            [prompts[index] for index in owner],
            [_like(prompts[index], sample.text) for index, sample in zip(owner, flat, strict=True)],
            completion_ids=[sample.token_ids for sample in flat],
            **{name: [column[index] for index in owner] for name, column in columns.items()},
        )
        if flat
        else []
    )
    references = score(prompts, list(rows["completion"]), completion_ids=[[] for _ in prompts], **columns)
    return [[next(values) for _ in group] for group in samples], list(references)


def _balanced(by_source: Mapping[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """As many pairs from each source, first pairs of prompts before second ones, spread by hash."""
    sizes = [len(pairs) for pairs in by_source.values() if pairs]
    kept = []
    for source, pairs in by_source.items():
        kept += sorted(pairs, key=lambda pair: pair["_order"])[: min(sizes)]
        if len(pairs) > min(sizes):
            logger.info("%s: %d of %d pairs are used, as many as of the other source", source, min(sizes), len(pairs))
    return kept


def _dataset(pairs: list[dict[str, Any]]) -> Dataset:
    pairs = sorted(pairs, key=lambda pair: (pair["_row"], pair["source"], pair["_order"]))
    rows = [{name: value for name, value in pair.items() if not name.startswith("_")} for pair in pairs]
    dataset = Dataset.from_list(rows)
    for name in ("chosen_score", "rejected_score"):
        dataset = dataset.cast_column(name, Value("float64"))  # all None would be a column without a type
    return dataset


def _ordered(
    first: tuple[str, float | None], second: tuple[str, float | None]
) -> tuple[str, str, float | None, float | None]:
    (better, high), (worse, low) = sorted((first, second), key=lambda item: item[1] or 0.0, reverse=True)
    return better, worse, high, low


def _like(prompt: Any, text: str) -> Any:
    """A completion in the form of its prompt: plain or conversational."""
    return text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]


def _clean(prompt: Any, text: str) -> str:
    """Without outer whitespace, which would tell samples from references; a plain prompt needs its leading space."""
    return text.rstrip() if isinstance(prompt, str) else text.strip()


def _margin(first: float | None, second: float | None) -> float:
    return 0.0 if first is None or second is None else abs(first - second)


def _digest(*parts: str) -> str:
    return hashlib.sha256("\x00".join(parts).encode()).hexdigest()


def wins(chosen: float, rejected: float) -> float:
    """1.0 if the chosen text scores higher, 0.5 for a tie, else 0.0."""
    return 0.5 if chosen == rejected else float(chosen > rejected)


def pair_texts(pairs: Dataset) -> list[tuple[str, str]]:
    """Chosen and rejected text of each pair."""
    return [
        (completion_text(chosen), completion_text(rejected))
        for chosen, rejected in zip(pairs["chosen"], pairs["rejected"], strict=True)
    ]


def _where(keep: Sequence[bool], *columns: Sequence[Any]) -> list[list[Any]]:
    return [list(itertools.compress(column, keep)) for column in columns]
