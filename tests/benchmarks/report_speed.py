"""How long a report with very many samples takes to open and to search, in a headless Chromium.

    python tests/benchmarks/report_speed.py runs/compare/results.json --prompts 10000

Repeats the samples of a comparison, each with a number in its prompt and answers, until there are so many prompts
under the main sampling plan. Prints the size of the page and the median over --repeats openings, in milliseconds.
"""

import argparse
import itertools
import json
import statistics
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rlgen.evaluation.report import render_report

sys.path.insert(0, str(Path(__file__).parent.parent / "support"))
from browser import Browser, chromium

LOADED = "(() => performance.getEntriesByType('navigation')[0].loadEventEnd)()"
# From an action to the cards being painted
ACTION = """(async () => {{
    const start = performance.now();
    const node = document.querySelector("{selector}");
    node.value = "{value}";
    node.dispatchEvent(new Event("{event}", {{bubbles: true}}));
    await new Promise((done) => setTimeout(() => requestAnimationFrame(() => setTimeout(done)), {wait}));
    return performance.now() - start - {wait};
}})()"""
ACTIONS = {
    "largest wins": ("#order", "win", "change", 0),
    "where measures disagree": ("#order", "disagree", "change", 0),
    "text search": ("#search", "number 77", "input", 160),  # the page waits 150 ms for the next key
}


def enlarged(results: dict[str, Any], prompts: int) -> dict[str, Any]:
    """The same comparison with as many prompts, no two of them the same."""
    plan = results["sampling"][0]["name"]
    source = [sample for sample in results["samples"] if sample["sampling"] == plan]
    samples = []
    for number, sample in zip(range(prompts), itertools.cycle(source), strict=False):
        own = json.loads(json.dumps(sample))
        own["prompt"] += f" (number {number})"
        own["code"] = own["code"] and f"{own['code']}\n# number {number}"
        for answers in own["completions"].values():
            for answer in answers:
                answer["text"] += f" {number}"
        samples.append(own)
    return results | {"samples": samples}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="results.json of a comparison")
    parser.add_argument("--prompts", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    executable = chromium()
    if executable is None:
        sys.exit("error: no Chromium or Chrome is installed")
    page = render_report(enlarged(json.loads(args.results.read_text(encoding="utf-8")), args.prompts))
    times: dict[str, list[float]] = {"open": []} | {name: [] for name in ACTIONS}
    with TemporaryDirectory() as folder, Browser(executable, timeout=300) as browser:
        file = Path(folder) / "report.html"
        file.write_text(page, encoding="utf-8")
        browser.screen(1200)
        for _ in range(args.repeats):
            browser.open(file)
            times["open"].append(browser.wait(LOADED))
            for name, (selector, value, event, wait) in ACTIONS.items():
                action = ACTION.format(selector=selector, value=value, event=event, wait=wait)
                times[name].append(browser.run(action))
            elements = browser.run("document.querySelectorAll('*').length")
    print(f"{args.prompts} prompts, {len(page.encode()) / 1e6:.1f} MB, {elements} elements")
    for name, values in times.items():
        print(f"{name}: {statistics.median(values):.0f} ms (from {min(values):.0f} to {max(values):.0f})")


if __name__ == "__main__":
    main()
