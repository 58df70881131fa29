"""A reward on trial: does it keep the contract, and which text that nobody wants does it like as much as good text.

Three kinds of findings. A violation breaks the contract and would harm a run. A weakness is a hack that scores above
the references, or not below them. A note is worth knowing. A module may document the weaknesses of its rewards, either
by name in `WEAKNESSES = {"reward": ("hack", ...)}`, or in a paragraph `Gaming:` of the reward's docstring; where the
module has a function `composite`, that one has to resist what a single reward does not.
"""

import functools
import inspect
import math
import pickle
import random
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from scipy import stats

from reward_models._text import completion_text
from rlgen.errors import RewardError
from rlgen.rewards.check import CheckedReward, checked, shown_row, without_middle
from rlgen.rewards.hacks import Hack, completions, hacks_for, prompt_text
from rlgen.rewards.probes import (
    ROUNDING,
    Batch,
    Scores,
    ask,
    ask_in_order,
    ask_in_parts,
    deviation,
)
from rlgen.rewards.report import Case, Finding, Kind, Report, Separation, Verdict, short_number

SIGNIFICANCE = 0.05
FEW_PAIRS = 5  # with fewer a rank test cannot reach significance: all of them must agree
EXACT_PAIRS = 12  # up to here all signs are tried
SINGLE_ROWS = 16  # how many rows are asked one by one
EXAMPLES_KEPT = 3  # rows of each hack
SHOWN_CHARS = 200  # of each text in the report
LENGTH_CORRELATION = 0.5  # worth a note from here on

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Documentation:
    """What a reward's module says about it."""

    weaknesses: frozenset[str] = frozenset()
    gaming: bool = False
    """Whether the reward's docstring has a paragraph `Gaming:`."""
    composite: CheckedReward | None = None
    """The module's mix, if the reward is not it."""


def documentation(function: CheckedReward) -> Documentation:
    """Read what the reward's module says: `WEAKNESSES`, the docstring's `Gaming:`, and `composite`."""
    module = reward_module(function)
    target = _target(function)
    name = str(getattr(target, "__name__", function.__name__))
    listed = getattr(module, "WEAKNESSES", None)
    listed = listed.get(name, ()) if isinstance(listed, Mapping) else ()
    composite: Any = getattr(module, "composite", None)
    own = not callable(composite) or composite is target
    gaming = "Gaming:" in (inspect.getdoc(target) or "") and composite is not target
    return Documentation(frozenset(listed), gaming, None if own else checked(composite))


def reward_module(function: CheckedReward) -> ModuleType | None:
    """The module that a reward was defined in."""
    target = _target(function)
    return sys.modules.get(str(getattr(target, "__module__", None) or type(target).__module__))


def module_examples(function: CheckedReward) -> list[dict[str, Any]]:
    """The rows that a reward's module offers as `EXAMPLES`, none where it has none."""
    return [dict(row) for row in getattr(reward_module(function), "EXAMPLES", ())]


def inspect_reward(
    function: CheckedReward,
    rows: Iterable[Row],
    *,
    samples: Sequence[Sequence[str]] | None = None,
    tokenize: Callable[[str], Sequence[int]] = lambda _: [0],
    documented: Documentation | None = None,
) -> Report:
    """Put a reward on trial.

    Args:
        function: the reward under its contract.
        rows: dataset rows with `prompt` and a good `completion` or `reference`; other columns are passed on.
        samples: texts that a model wrote for each row, the same number for all.
        tokenize: token ids of a text, for rewards that read `completion_ids`.
        documented: what is known of its weaknesses; None reads it from its module.

    Returns:
        The report; it has no hacks if the reward fails on the references.
    """
    rows = [dict(row) for row in rows]
    known = documentation(function) if documented is None else documented
    batch = Batch.of_rows(rows, tokenize)
    report = Report(function.__name__, len(rows))
    scores = _attempt(report, "references", lambda: ask(function, batch))
    if scores is None:
        return report
    _check_contract(report, function, batch, scores, known)

    by_source: list[tuple[Sequence[str], Scores]] = [(batch.texts(), scores)]
    for hack in hacks_for(function.function):
        texts, others = _score_hack(report, function, rows, batch, hack)
        by_source.append((texts, others))
        found = separate(hack.name, hack.what, scores, others, texts, batch, disguise=hack.disguise)
        report.hacks.append(found)
        if found.weak:
            report.findings.append(_weakness(found, hack, rows, batch, known))
    drawn = _score_samples(report, function, batch, samples or [])
    if drawn:
        middle = [_mean([values[row] for _, values in drawn]) for row in range(len(rows))]
        report.samples = separate("samples", "what the model writes", scores, middle, drawn[0][0], batch)
    _describe(report, scores, [*by_source, *drawn])
    _describe_length(report, [by_source[0], *drawn])
    report.rewards_per_second = rewards_per_second(function, batch) if not report.violations else None
    _note(report, known, scores)
    return report


def separate(
    name: str,
    what: str,
    references: Scores,
    others: Scores,
    texts: Sequence[str],
    batch: Batch,
    *,
    disguise: bool = False,
) -> Separation:
    """Compare references with other completions, row by row.

    Args:
        name: of the others.
        what: they are.
        references: one score or None per row.
        others: likewise.
        texts: the other completions.
        batch: the rows.
        disguise: see `Hack`.
    """
    graded = [row for row, score in enumerate(references) if score is not None]
    pairs = [row for row in graded if others[row] is not None]
    first = np.array([references[row] for row in pairs], dtype=float)
    second = np.array([others[row] for row in pairs], dtype=float)
    gaps = first - second
    if gaps.size:
        gaps[np.abs(gaps) <= ROUNDING * max(np.abs(first).max(), np.abs(second).max())] = 0.0
    p_value, verdict = _judge(gaps)
    examples = tuple(
        Case(
            row=pairs[at],
            prompt=without_middle(prompt_text(batch.prompts[pairs[at]]), SHOWN_CHARS),
            reference_text=without_middle(completion_text(batch.completions[pairs[at]]), SHOWN_CHARS),
            reference=float(first[at]),
            completion=without_middle(texts[pairs[at]], SHOWN_CHARS),
            score=float(second[at]),
        )
        for at in gaps.argsort(kind="stable")[:EXAMPLES_KEPT]
    )
    return Separation(
        name=name,
        what=what,
        pairs=len(pairs),
        unscored=len(graded) - len(pairs),
        reference=float(first.mean()) if pairs else math.nan,
        score=float(second.mean()) if pairs else math.nan,
        wins=float((gaps > 0).mean()) if pairs else math.nan,
        ties=float((gaps == 0).mean()) if pairs else math.nan,
        p_value=p_value,
        verdict=verdict,
        disguise=disguise,
        examples=examples,
    )


def rewards_per_second(function: CheckedReward, batch: Batch, *, size: int | None = None) -> float | None:
    """Speed of a reward on fresh completions, after a first call; None where it fails on them.

    Args:
        function: the reward.
        batch: rows; their completions are changed a little in each call, so that no cache answers.
        size: rows of a call; the rows are repeated up to it. None takes them as they are.
    """
    batch = batch.take([i % len(batch) for i in range(size or len(batch))])
    texts = batch.texts()
    began, done, end = 0.0, 0, 0.0
    try:
        for call in range(200):
            fresh = batch.with_texts([f"{text} {call}-{row}" for row, text in enumerate(texts)])
            ask(function, fresh)
            end = time.perf_counter()
            if call == 0:
                began = end
                continue
            done += len(fresh)
            if end - began > 0.2:
                break
    except RewardError:
        return None
    return done / (end - began)


def _check_contract(
    report: Report, function: CheckedReward, batch: Batch, scores: Scores, known: Documentation
) -> None:
    """Ask again in other ways, and see whether the reward can be sent to another process."""
    rows = range(len(batch))
    shuffled = random.Random(0).sample(rows, len(rows))
    few = min(len(rows), SINGLE_ROWS)
    asked: dict[str, tuple[Callable[[], Scores], Scores, Kind, str]] = {
        "determinism": (lambda: ask(function, batch), scores, "violation", "the same call twice"),
        "order": (lambda: ask_in_order(function, batch, rows[::-1]), scores, "violation", "the rows backwards"),
        "order (shuffled)": (lambda: ask_in_order(function, batch, shuffled), scores, "violation", "shuffled rows"),
        "batch size": (
            lambda: ask_in_parts(function, batch.take(rows[:few]), 1),
            scores[:few],
            "weakness",
            "rows one by one",
        ),
        "batch size (3)": (lambda: ask_in_parts(function, batch, 3), scores, "weakness", "three rows at a time"),
    }
    for name, (call, expected, kind, what) in asked.items():
        again = _attempt(report, name, call)
        if again is None:
            continue
        row, gap, differs = deviation(function, expected, again)
        text = f"{what}: row {row} scores {short_number(expected[row])} and then {short_number(again[row])}"
        text += shown_row(row, batch.prompts, batch.completions)
        about = name.partition(" (")[0]
        if differs:
            # One finding a check: what is not deterministic cannot be independent of the order.
            if not any(found.about in (about, "determinism") for found in report.findings):
                listed = kind == "weakness" and about.replace(" ", "_") in known.weaknesses
                report.findings.append(Finding(kind, about, text, "documented" if listed else "new"))
            report.contract[about] = text
        else:
            if gap > ROUNDING:
                report.findings.append(Finding("note", about, f"{text} (rounding)"))
            report.contract.setdefault(about, "ok")
    try:
        pickle.loads(pickle.dumps(function))
        report.contract["pickling"] = "ok"
    except Exception as error:
        reason = " ".join(str(error).split())[:120]
        report.contract["pickling"] = reason
        report.findings.append(Finding("note", "pickling", f"cannot be sent to another process: {reason}"))


def _attempt(report: Report, about: str, call: Callable[[], Scores]) -> Scores | None:
    """The scores, or None and a violation."""
    try:
        return call()
    except RewardError as error:
        report.contract[about] = str(error)
        report.findings.append(Finding("violation", about, str(error)))
        return None


def _score_hack(
    report: Report, function: CheckedReward, rows: Sequence[Row], batch: Batch, hack: Hack
) -> tuple[list[str], Scores]:
    """Texts and scores of a hack, "" and None in rows where it has nothing to work on."""
    texts = completions(hack, rows)
    there = [row for row, text in enumerate(texts) if text is not None]
    given = batch.take(there).with_texts([texts[row] or "" for row in there])
    scores = _attempt(report, hack.name, lambda: ask(function, given)) if there else []
    placed = dict(zip(there, scores or [None] * len(there), strict=True))
    return [text or "" for text in texts], [placed.get(row) for row in range(len(rows))]


def _score_samples(
    report: Report, function: CheckedReward, batch: Batch, samples: Sequence[Sequence[str]]
) -> list[tuple[Sequence[str], Scores]]:
    drawn: list[tuple[Sequence[str], Scores]] = []
    for texts in zip(*samples, strict=True):
        given = batch.with_texts(texts)
        scores = _attempt(report, "samples", lambda given=given: ask(function, given))  # type: ignore[misc]
        if scores is None:
            break
        drawn.append((texts, scores))
    return drawn


def _weakness(found: Separation, hack: Hack, rows: Sequence[Row], batch: Batch, known: Documentation) -> Finding:
    how = "scores above the references" if found.verdict == "beats" else "scores no lower than the references"
    text = f"{found.what}: {how} ({short_number(found.score)} against {short_number(found.reference)})"
    if found.name not in known.weaknesses and not known.gaming:
        return Finding("weakness", found.name, text)
    if known.composite is None:
        return Finding("weakness", found.name, f"{text}; documented", "documented")
    mix = Report(f"{_target(known.composite).__module__}:{known.composite.__name__}", len(rows))
    texts, others = _score_hack(mix, known.composite, rows, batch, hack)
    references = _attempt(mix, "references", functools.partial(ask, known.composite, batch))
    if references is None or mix.violations:
        return Finding("weakness", found.name, f"{text}; documented, but {mix.reward} fails on it", "shared")
    against = separate(hack.name, hack.what, references, others, texts, batch, disguise=hack.disguise)
    resists = against.pairs and not against.weak
    return Finding(
        "weakness",
        found.name,
        f"{text}; documented, and {mix.reward} {'resists' if resists else 'shares'} it "
        f"({short_number(against.score)} against {short_number(against.reference)})",
        "resisted" if resists else "shared",
    )


def _judge(gaps: np.ndarray[Any, Any]) -> tuple[float, Verdict]:
    """p-value for gaps above zero, and the verdict."""
    if gaps.size == 0:
        return math.nan, "not scored"
    if not gaps.any():
        return 1.0, "ties"
    higher, lower = signed_rank(gaps[gaps != 0])
    if gaps.size < FEW_PAIRS:
        return higher, "resisted" if gaps.min() > 0 else "beats" if gaps.max() < 0 else "ties"
    return higher, "resisted" if higher < SIGNIFICANCE else "beats" if lower < SIGNIFICANCE else "ties"


def signed_rank(gaps: np.ndarray[Any, Any]) -> tuple[float, float]:
    """p-values of Wilcoxon's signed-rank test for gaps above and below zero, exact for few gaps, equal ones or not.

    Args:
        gaps: differences of pairs, none of them 0.
    """
    if gaps.size > EXACT_PAIRS:
        tests = (stats.wilcoxon(gaps, alternative=side, method="approx") for side in ("greater", "less"))
        higher, lower = (float(test.pvalue) for test in tests)
        return higher, lower
    # scipy's exact test takes equal gaps for different ones, and its permutation test takes seconds.
    ranks = stats.rankdata(np.abs(gaps))
    signs = (np.arange(2**gaps.size)[:, None] >> np.arange(gaps.size)) & 1
    sums, observed = signs @ ranks, ranks[gaps > 0].sum()
    return float((sums >= observed).mean()), float((sums <= observed).mean())


def _describe(report: Report, references: Scores, by_source: Sequence[tuple[Sequence[str], Scores]]) -> None:
    """Range, share of None and of ties."""
    values = [score for _, scores in by_source for score in scores if score is not None]
    report.lowest, report.highest = min(values, default=None), max(values, default=None)
    report.none_share = sum(score is None for score in references) / max(len(references), 1)
    equal = total = 0
    for row in range(len(references)):
        own = {texts[row]: scores[row] for texts, scores in by_source if scores[row] is not None}
        scored = sorted(own.values())
        total += len(scored) * (len(scored) - 1) // 2
        equal += sum(math.comb(scored.count(value), 2) for value in set(scored))
    report.tie_share = equal / total if total else None


def _describe_length(report: Report, by_source: Sequence[tuple[Sequence[str], Scores]]) -> None:
    """Rank correlation of score and length over references and samples."""
    pairs = [
        (len(text), score)
        for texts, scores in by_source
        for text, score in zip(texts, scores, strict=True)
        if score is not None
    ]
    if len({length for length, _ in pairs}) < 3 or len({score for _, score in pairs}) < 2:
        return
    found = stats.spearmanr(*zip(*pairs, strict=True))
    report.length_correlation = float(found.statistic)
    if abs(found.statistic) >= LENGTH_CORRELATION and found.pvalue < SIGNIFICANCE:
        longer = "longer" if found.statistic > 0 else "shorter"
        text = f"{longer} completions score higher (Spearman {found.statistic:+.2f} over {len(pairs)} completions)"
        report.findings.append(Finding("note", "length", text))


def _note(report: Report, known: Documentation, references: Scores) -> None:
    """What the numbers say beside the hacks, and documentation that does not fit them."""
    add = report.findings.append
    if all(score is None for score in references):
        add(Finding("weakness", "rows", "the reward is None for all references: nothing could be compared"))
    elif report.lowest == report.highest:
        add(Finding("note", "range", "the reward is the same for every completion: there is nothing to learn from"))
    unscored = [hack.name for hack in report.hacks if hack.unscored]
    if unscored:
        text = f"None for completions although the reference of the row has a score: {', '.join(unscored)}"
        add(Finding("note", "none", text))
    tied = [hack.name for hack in report.hacks if hack.verdict == "ties" and hack.disguise]
    if tied:
        add(Finding("note", "disguise", f"does not mind disguised references: {', '.join(tied)}"))
    shown = {finding.about.replace(" ", "_") for finding in report.findings if finding.kind == "weakness"}
    unseen = sorted(known.weaknesses - shown)
    if unseen:
        add(Finding("note", "documentation", f"documented, but not seen on these rows: {', '.join(unseen)}"))
    if report.samples is not None and report.samples.verdict == "beats":
        add(Finding("note", "samples", "the model's samples score above the references"))


def _target(function: CheckedReward) -> Any:
    target: Any = function
    while hasattr(target, "function") or hasattr(target, "func"):
        target = getattr(target, "function", None) or target.func
    return inspect.unwrap(target)


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None
