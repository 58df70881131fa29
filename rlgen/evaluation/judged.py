"""Win rates by a language model as judge: each pair of answers in both orders, ties where the orders disagree."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from scipy import stats

from rlgen.errors import ConfigError, ModelError, RewardError
from rlgen.evaluation.remote import parse_remote
from rlgen.evaluation.results import main_pairs, number, title
from rlgen.evaluation.statistics import CONFIDENCE, win_share
from rlgen.evaluation.winrates import length_controlled
from rlgen.rewards.judge import OUTCOME_SCORES, Judge, Verdict, outcome
from rlgen.runs import report_progress

CHUNK = 16  # prompts at a time: what the progress is told by


def open_judge(
    address: str, *, rubric: str | None = None, budget: int | None = None, concurrency: int = 8, cache: str | Path
) -> Judge:
    """A judge for pairs of answers.

    Args:
        address: `openai:MODEL@URL`, with `#VARIABLE` for its key.
        rubric: File with the question, which holds `{prompt}`, `{first}` and `{second}` and asks for a last line
            `Verdict: A`, `B` or `tie`; None for a general one.
        budget: Calls that may be made; known answers are free.
        concurrency: Requests under way at a time.
        cache: Folder of earlier answers.

    Raises:
        ConfigError: The address or the rubric is wrong, or the key is not set.
    """
    remote = parse_remote(address)
    text = None
    if rubric is not None:
        try:
            text = Path(rubric).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"the judge's rubric {rubric} cannot be read: {error}") from error
    try:
        return Judge(
            remote.url,
            remote.model,
            rubric=text,
            against="second",
            api_key_env=remote.api_key_env,
            concurrency=concurrency,
            cache=cache,
            budget_calls=budget,
            on_budget="none",
        )
    except RewardError as error:
        raise ConfigError(f"judge: {error}") from error


def judge_pairs(
    judge: Judge, rows: Dataset, results: Mapping[str, Any], *, max_rows: int | None = None
) -> list[dict[str, Any]]:
    """Ask the judge about the pairs that matter, on the first answers under the main sampling plan.

    Args:
        judge: Who compares.
        rows: The held-out rows, whose columns the rubric may hold.
        results: Samples, checkpoints and sampling plans of the same rows, as results.json has them.
        max_rows: Judge the first so many prompts; None for all.

    Returns:
        The list `judge` of results.json, see docs/results.md.

    Raises:
        ModelError: The endpoint keeps failing; what it has answered is kept.
    """
    plan = results["sampling"][0]["name"]
    samples = [sample for sample in results["samples"] if sample["sampling"] == plan][:max_rows]
    rows = rows.select(range(len(samples)))
    columns = {name: rows[name] for name in rows.column_names if name not in ("prompt", "completion")}
    pairs = main_pairs([checkpoint["name"] for checkpoint in results["checkpoints"]])
    entries = []
    for number_of_pair, (a, b) in enumerate(pairs):
        # The better-or-not question is about b, which therefore is the judge's first text.
        texts = {name: [sample["completions"][name][0]["text"] for sample in samples] for name in (a, b)}
        said: list[tuple[Verdict | None, Verdict | None]] = []
        for start in range(0, len(samples), CHUNK):
            part = slice(start, start + CHUNK)
            asked = judge.verdicts(
                rows[part]["prompt"], texts[b][part], texts[a][part], {n: list(v[part]) for n, v in columns.items()}
            )
            try:
                said += asyncio.run(asked)
            except RewardError as error:
                raise ModelError(f"judge: {error}; its answers are kept: run the same command again") from error
            report_progress("judge", number_of_pair * len(samples) + len(said), len(pairs) * len(samples))
        entries.append(
            _entry(a, b, plan, judge.endpoint.model, said, [len(t) for t in texts[a]], [len(t) for t in texts[b]])
        )
    return entries


def _entry(
    a: str,
    b: str,
    plan: str,
    model: str,
    said: Sequence[tuple[Verdict | None, Verdict | None]],
    length_a: Sequence[int],
    length_b: Sequence[int],
) -> dict[str, Any]:
    outcomes = [outcome(*both) for both in said]
    won = np.array([np.nan if found is None else OUTCOME_SCORES[found] for found in outcomes])
    longer = np.array(length_b, dtype=float) - np.array(length_a, dtype=float)
    known = ~np.isnan(won)
    wins, losses = outcomes.count("win"), outcomes.count("loss")
    controlled = length_controlled(won[known], longer[known])
    estimate = win_share(won)
    entry: dict[str, Any] = {
        "a": a,
        "b": b,
        "model": model,
        "sampling": plan,
        "n": estimate.n,
        "wins": wins,
        "ties": outcomes.count("tie"),
        "losses": losses,
        "unread": outcomes.count(None),
        "disagreements": sum(both in (("a", "a"), ("b", "b")) for both in said),
        "win_rate": number(estimate.mean),
        "ci_low": number(estimate.low),
        "ci_high": number(estimate.high),
        "p_value": number(stats.binomtest(wins, wins + losses).pvalue) if wins + losses else None,
        "length_controlled_win_rate": number(controlled.rate),
        "length_controlled_ci_low": number(controlled.low),
        "length_controlled_ci_high": number(controlled.high),
        "outcomes": outcomes,
    }
    return entry | {"sentence": _sentence(entry)}


def _sentence(entry: Mapping[str, Any]) -> str:
    start = f"The judge {entry['model']} on {title(entry['b'])} against {title(entry['a'])} ({entry['sampling']})"
    if not entry["n"] or entry["ci_low"] is None:
        return f"{start}: too few verdicts to say anything ({entry['unread']} could not be read or were not made)."
    shown = (entry["ci_low"] > 0.5 or entry["ci_high"] < 0.5) and (
        entry["p_value"] is not None and entry["p_value"] < 1 - CONFIDENCE
    )
    favored = title(entry["b"] if entry["win_rate"] > 0.5 else entry["a"])
    claim = f"prefers {favored}" if shown else "no preference shown"
    unread = f"; {entry['unread']} prompts without a verdict" if entry["unread"] else ""
    return (
        f"{start}: {claim}, win rate {entry['win_rate']:.0%} (95% interval {entry['ci_low']:.0%} to "
        f"{entry['ci_high']:.0%}) over {entry['n']} prompts, ties half; the two orders disagreed on "
        f"{entry['disagreements'] / entry['n']:.0%}{unread}."
    )
