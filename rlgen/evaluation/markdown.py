"""The comparison as Markdown, for a pull request or a model card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlgen.evaluation.results import main_pairs, title

# Diagnostics that a reader wants beside rewards and metrics; the KL comes by its reference's name.
_ALSO = ("length", "truncated")


def summary_markdown(results: Mapping[str, Any], command: str | None = None) -> str:
    """Verdict, means and differences with intervals, capabilities, conditions, and how to reproduce them.

    Args:
        results: What results.json holds.
        command: The command line that made it.
    """
    names = [checkpoint["name"] for checkpoint in results["checkpoints"]]
    plan = results["sampling"][0]["name"]
    parts = [
        f"## Comparison of {', '.join(title(name) for name in names)}",
        f"{results['n_prompts']} held-out prompts of {results['task'] or 'own rows'}, {plan}. "
        "Brackets hold 95% intervals over prompts.",
        _bullets(results["verdict"]),
        _bullets(f"Warning: {warning}" for warning in results["warnings"]),
        _means(results, names, plan),
        _differences(results, names, plan),
        _win_rates(results, names, plan),
        _capabilities(results),
        _conditions(results),
        _reproduce(results, command),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _means(results: Mapping[str, Any], names: Sequence[str], plan: str) -> str:
    kl = f"kl_{results['kl_reference']}"
    shown = [m["name"] for m in results["measures"] if m["kind"] != "diagnostic" or m["name"] in (*_ALSO, kl)]
    rows = []
    for measure in shown:
        cells = [results["summary"][name][plan][measure] for name in names]
        if all(cell["mean"] is None for cell in cells):
            continue  # it does not apply under this plan
        rows.append([measure, *(_interval(cell["mean"], cell["ci_low"], cell["ci_high"]) for cell in cells)])
    return "### Means\n\n" + _table(["measure", *names], rows)


def _differences(results: Mapping[str, Any], names: Sequence[str], plan: str) -> str:
    claims = [measure["name"] for measure in results["measures"] if measure["kind"] != "diagnostic"]
    rows = []
    for a, b in main_pairs(names):
        for measure in claims:
            row = next(
                row
                for row in results["comparisons"]
                if {row["a"], row["b"]} == {a, b} and (row["measure"], row["sampling"]) == (measure, plan)
            )
            if row["difference"] is None:
                continue
            sign = 1 if row["a"] == a else -1
            ends = [row["ci_low"], row["ci_high"]]
            low, high = ends if sign == 1 or None in ends else (-ends[1], -ends[0])
            p_value = row["p_holm"]
            rows.append(
                [
                    f"{b} − {a}",
                    measure,
                    _interval(sign * row["difference"], low, high, sign="+"),
                    "" if p_value is None else f"{p_value:.3g}",
                    str(row["n"]),
                ]
            )
    heading = ["pair", "measure", "difference", "p (Holm)", "prompts"]
    return "### Paired differences\n\n" + _table(heading, rows) if rows else ""


def _win_rates(results: Mapping[str, Any], names: Sequence[str], plan: str) -> str:
    found = {(row["a"], row["b"]): row for row in results["win_rates"] if row["sampling"] == plan}
    if not found:
        return ""
    rows = []
    for a, b in main_pairs(names):
        row = found.get((a, b)) or found[b, a]
        cells = []
        for prefix in ("", "length_controlled_"):
            ends = [row[prefix + key] for key in ("win_rate", "ci_low", "ci_high")]
            if row["a"] != a:  # read from the other side
                ends = [None if end is None else 1 - end for end in (ends[0], ends[2], ends[1])]
            cells.append(_interval(*ends))
        rows.append([f"{b} over {a}", *cells])
    measure = next(iter(found.values()))["measure"]
    return f"### Win rates by {_cell(measure)}\n\n" + _table(["pair", "win rate", "at equal length"], rows)


def _capabilities(results: Mapping[str, Any]) -> str:
    rows = [
        [
            capability["name"],
            f"{verdict['b']} against {verdict['a']}",
            verdict["verdict"],
            f"{capability['measure']} {_interval(verdict['gain'], verdict['ci_low'], verdict['ci_high'], sign='+')}",
            "" if verdict["could_lose"] is None else f"{verdict['could_lose']:.3f}",
        ]
        for capability in results.get("capabilities", ())
        for verdict in capability["verdicts"]
        if verdict["sampling"] == results["sampling"][0]["name"]
    ]
    heading = ["capability", "pair", "verdict", "gain", "loss not excluded"]
    return "### Other capabilities\n\n" + _table(heading, rows) if rows else ""


def _conditions(results: Mapping[str, Any]) -> str:
    judged = results.get("conditions", ())
    lines = [f"{'FAILED' if c['failed'] else 'passed'}: fail if `{c['condition']}`; {c['reason']}" for c in judged]
    return "### Conditions\n\n" + _bullets(lines) if lines else ""


def _reproduce(results: Mapping[str, Any], command: str | None) -> str:
    rows = []
    for each in results["checkpoints"]:
        shots = f"@{each['shots']}" if each.get("shots") else ""
        rows.append([each["name"], f"`{each['path']}{shots}`", f"`{each['fingerprint']}`"])
    sampling = "; ".join(
        f"{plan['name']} with {plan['num_samples']} per prompt, {plan['max_new_tokens']} tokens, seed {plan['seed']}"
        for plan in results["sampling"]
    )
    versions = ", ".join(f"{name} {version}" for name, version in results.get("versions", {}).items())
    parts = [
        "### How to reproduce",
        f"```\n{command}\n```" if command else "",
        _table(["checkpoint", "path", "fingerprint"], rows),
        _bullets(
            [
                f"Prompts: `{results['data_fingerprint']}`",
                f"Sampling: {sampling}",
                *([f"Versions: {versions}"] if versions else []),
            ]
        ),
    ]
    return "\n\n".join(part for part in parts if part)


def _table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", r"\|").split())


def _bullets(lines: Any) -> str:
    return "\n".join(f"- {_cell(line)}" for line in lines)


def _interval(value: float | None, low: float | None, high: float | None, *, sign: str = "") -> str:
    if value is None:
        return "–"
    shown = [format(round(number, 3) + 0.0, f"{sign}.3f") for number in (value, low, high) if number is not None]
    return shown[0] if len(shown) < 3 else f"{shown[0]} [{shown[1]}, {shown[2]}]"
