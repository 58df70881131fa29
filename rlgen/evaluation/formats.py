"""How a comparison's numbers and pages are written, and which of its measures come first."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from rlgen.evaluation.results import primary_measure, title


def template(name: str) -> Template:
    """A page to fill in; everything that a model or a user wrote is escaped."""
    environment = Environment(
        loader=PackageLoader("rlgen.evaluation"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters.update(
        signed=signed, plain=plain, percent=percent, pretty=pretty, probability=probability, title=title
    )
    return environment.get_template(name)


def key_measures(results: Mapping[str, Any]) -> list[str]:
    """The measures that answer the reader's question: the reward, reward models, metrics, KL and length."""
    primary = primary_measure(results)
    return [
        measure["name"]
        for measure in results["measures"]
        if measure["name"] == primary
        or measure["kind"] == "metric"
        or measure["name"].startswith(("reward_model", "kl_"))
        or measure["name"] == "length"
    ]


def signed(value: float | None, digits: int = 3) -> str:
    """A difference with its sign; a dash where there is none."""
    return "–" if value is None or math.isnan(value) else f"{value:+.{digits}f}".replace("-", "−")


def plain(value: float | None, digits: int = 3) -> str:
    """A number; a dash where there is none."""
    if value is None or math.isnan(value):
        return "–"
    return f"{value:.{1 if abs(value) >= 100 else digits}f}".replace("-", "−")


def percent(value: float | None) -> str:
    """A share as percent; a dash where there is none."""
    return "–" if value is None or math.isnan(value) else f"{value:.0%}"


def probability(value: float | None) -> str:
    """A p-value; a dash where there is none."""
    return "–" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def pretty(value: Any) -> str:
    """A part of the results as JSON."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)
