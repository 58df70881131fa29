"""The samples of a comparison as the report's script reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from rlgen.evaluation.formats import key_measures
from rlgen.evaluation.results import primary_measure

DIGITS = 4  # after the point; the page shows two


def sample_data(results: Mapping[str, Any], pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """What the page's script needs to show samples, without the repetitions of results.json.

    Args:
        results: What results.json holds.
        pairs: Main comparisons; the first is shown first.

    Returns:
        `prompts` lists (text, the whole prompt where the text is a part of it, reference) once per prompt; `rows`
        lists (number of the plan, number of the prompt, and per checkpoint its answers as text, tokens, finished and
        scores in the order of `measures`).
    """
    names = [checkpoint["name"] for checkpoint in results["checkpoints"]]
    plans = [plan["name"] for plan in results["sampling"]]
    scored = {
        name
        for sample in results["samples"][:1]
        for answers in sample["completions"].values()
        for answer in answers[:1]
        for name in answer["scores"]
    }
    measures = [measure for measure in results["measures"] if measure["name"] in scored]
    prompts: dict[tuple[str, str | None, str | None], int] = {}
    rows = []
    for sample in results["samples"]:
        shown = (
            sample["code"] or sample["prompt"],
            sample["prompt"] if sample["code"] else None,
            _text(sample["reference"]),
        )
        answers = [
            [
                [
                    answer["text"],
                    answer["tokens"],
                    answer["finished"],
                    [_rounded(answer["scores"].get(measure["name"])) for measure in measures],
                ]
                for answer in sample["completions"].get(name, [])
            ]
            for name in names
        ]
        rows.append([plans.index(sample["sampling"]), prompts.setdefault(shown, len(prompts)), answers])
    return {
        "names": names,
        "measures": [[measure["name"], measure["kind"], measure["higher_is_better"]] for measure in measures],
        "key": [name for name in key_measures(results) if name in scored],
        "primary": primary_measure(results),
        "pairs": [[names.index(name) for name in pair] for pair in pairs],
        "plans": plans,
        "prompts": [list(prompt) for prompt in prompts],
        "rows": rows,
    }


def script_data(data: Any) -> Markup:
    """JSON that cannot end the script element it stands in, whatever a model wrote."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _text(reference: Any) -> str | None:
    """A reference as one text: rows may have several."""
    return reference if reference is None or isinstance(reference, str) else "\n".join(map(str, reference))


def _rounded(score: float | None) -> float | None:
    return None if score is None else round(score, DIGITS)
