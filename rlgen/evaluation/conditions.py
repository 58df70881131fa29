"""When a comparison counts as failed, for continuous integration: `ppo < sft on rouge_l by > 0.02`."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlgen.errors import ConfigError
from rlgen.evaluation.results import find_comparison, number

GRAMMAR = "A < B on MEASURE [by > X] [at PLAN] [significantly]"
_CONDITION = re.compile(
    r"(?P<a>[\w.+-]+)\s*(?P<sign>[<>])\s*(?P<b>[\w.+-]+)\s+on\s+(?P<measure>\S+)"
    r"(?:\s+by\s*>\s*(?P<by>\d+(?:\.\d+)?(?:[eE][+-]?\d+)?))?"
    r"(?:\s+at\s+(?P<plan>\S+))?(?P<significantly>\s+significantly)?"
)


@dataclass(frozen=True)
class Condition:
    """What must not be: checkpoint `a` below (or above) `b` on a measure by more than so much.

    Args:
        text: As it was given.
        a: First checkpoint.
        below: Whether `a` below `b` is the failure, else above.
        b: Second checkpoint.
        measure: Name, or `CAPABILITY/MEASURE`.
        by: Differences up to this are let pass.
        plan: Sampling plan; None for the main one.
        significantly: Whether the whole 95% interval must lie beyond `by`, and not the difference alone.
    """

    text: str
    a: str
    below: bool
    b: str
    measure: str
    by: float = 0.0
    plan: str | None = None
    significantly: bool = False


def parse_conditions(texts: Sequence[str]) -> list[Condition]:
    """Read conditions.

    Raises:
        ConfigError: One does not follow the grammar, or compares a checkpoint with itself.
    """
    conditions = []
    for text in texts:
        found = _CONDITION.fullmatch(text.strip())
        if found is None:
            raise ConfigError(f"--fail_if '{text}' is not understood; write it as: {GRAMMAR}")
        if found["a"] == found["b"]:
            raise ConfigError(f"--fail_if '{text}' compares {found['a']} with itself")
        conditions.append(
            Condition(
                text,
                found["a"],
                found["sign"] == "<",
                found["b"],
                found["measure"],
                float(found["by"] or 0),
                found["plan"],
                bool(found["significantly"]),
            )
        )
    return conditions


def check_conditions(
    conditions: Sequence[Condition], checkpoints: Sequence[str], measures: Sequence[str], plans: Sequence[str]
) -> None:
    """Refuse conditions about what the comparison will not have.

    Args:
        conditions: To be judged later.
        checkpoints: Their names.
        measures: Names of those with paired differences, those of a capability as `CAPABILITY/MEASURE`.
        plans: Names of the sampling plans.

    Raises:
        ConfigError: A name is unknown; the message names the nearest one.
    """
    for condition in conditions:
        wanted = [("checkpoint", condition.a, checkpoints), ("checkpoint", condition.b, checkpoints)]
        wanted += [("measure", condition.measure, measures)]
        wanted += [("sampling plan", condition.plan, plans)] if condition.plan else []
        for what, name, known in wanted:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
                raise ConfigError(f"--fail_if '{condition.text}': unknown {what} {name}: {hint}")


def judge_conditions(conditions: Sequence[Condition], results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Find out which conditions hold.

    Args:
        conditions: Checked ones.
        results: The content of results.json, `capabilities` included.

    Returns:
        The list `conditions` of results.json. A condition that no prompt can decide counts as failed.
    """
    return [_judged(condition, results) for condition in conditions]


def _judged(condition: Condition, results: Mapping[str, Any]) -> dict[str, Any]:
    capability, slash, measure = condition.measure.partition("/")
    where = next((c for c in results.get("capabilities", ()) if slash and c["name"] == capability), results)
    name = measure if where is not results else condition.measure
    plan = condition.plan or results["sampling"][0]["name"]
    paired = find_comparison({"comparisons": where["comparisons"]}, condition.a, condition.b, name, plan)
    # How far the first is beyond the second in the direction that fails.
    beyond = paired if condition.below else paired.flipped()
    value = beyond.low if condition.significantly else beyond.difference
    undecided = paired.n == 0 or math.isnan(value)
    # As everywhere, what is called shown needs the test beside the interval.
    failed = undecided or (value > condition.by and (paired.shown or not condition.significantly))
    numbers = f"{condition.a} {paired.mean_a:.4g}, {condition.b} {paired.mean_b:.4g} over {paired.n} prompts ({plan})"
    if undecided:
        reason = "cannot be judged: too few prompts have a score from both"
    else:
        reason = f"{'holds' if failed else 'does not hold'}: {numbers}"
        if not math.isnan(beyond.low):
            low, high = _signed(beyond.low), _signed(beyond.high)
            reason += f", apart by {_signed(beyond.difference)} (95% interval {low} to {high})"
    return {
        "condition": condition.text,
        "failed": failed,
        "reason": reason,
        "n": paired.n,
        "difference": number(beyond.difference),
        "ci_low": number(beyond.low),
        "ci_high": number(beyond.high),
    }


def _signed(value: float) -> str:
    return f"{value + 0.0:+.4g}"  # adding zero makes -0 plain
