"""Executions per second of the sandbox, and its verdicts on HumanEval's own solutions.

    python tests/benchmarks/bench_sandbox.py                       # 2 workers, about 15 seconds
    python tests/benchmarks/bench_sandbox.py --isolation none      # what isolation costs
    python tests/benchmarks/bench_sandbox.py --humaneval HumanEval.jsonl.gz

One execution is a fresh process for a program of the examples of `reward_models.code_generation`, with all its tests.
Processor time is that of workers and samples, which tells more than the rate where other work is on the machine.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import resource
import subprocess
import sys
import time
from typing import Any

from reward_models import code_generation
from reward_models.sandbox import Sandbox


def jobs(count: int) -> list[dict[str, Any]]:
    """Programs with their tests, each example in turn."""
    rows = [row for row in code_generation.EXAMPLES if not row["code_prompt"]]
    prepared = [
        {
            "program": code_generation.extract_code(row["completion"]),
            "tests": row["tests"],
            "entry_point": row["entry_point"],
        }
        for row in rows
    ]
    return [prepared[index % len(prepared)] for index in range(count)]


def fresh_interpreters(listed: list[dict[str, Any]]) -> float:
    """Executions per second, one at a time, of a new Python for each program: no isolation, no limits."""
    begin = time.perf_counter()
    for job in listed:
        plain = [test for test in job["tests"] if ">>>" not in test]
        subprocess.run([sys.executable, "-I", "-c", "\n".join([job["program"], *plain])], check=True)
    return len(listed) / (time.perf_counter() - begin)


def children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def humaneval(path: str) -> None:
    """Judge HumanEval's own solutions, and each task by the next task's solution."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    columns = {
        "tests": [row["test"] for row in rows],
        "entry_point": [row["entry_point"] for row in rows],
        "code_prompt": [row["prompt"] for row in rows],
    }
    own = [row["canonical_solution"] for row in rows]
    for name, completions in (("own", own), ("next", own[1:] + own[:1])):
        scores = code_generation.passes_tests(completions=completions, **columns)
        print(f"{name} solutions: {sum(score == 1.0 for score in scores)} of {len(rows)} pass")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--count", type=int, default=600)
    parser.add_argument("--isolation", default="auto")
    parser.add_argument("--humaneval", help="HumanEval.jsonl.gz")
    options = parser.parse_args()
    if options.humaneval:
        humaneval(options.humaneval)
        return
    listed = jobs(options.count)
    print(f"new interpreters, one at a time: {fresh_interpreters(listed[:40]):.0f} executions/s")
    before = children_seconds()
    with Sandbox(options.workers, isolation=options.isolation) as pool:
        begin = time.perf_counter()
        pool.run_many(listed[: options.workers])
        print(f"start of {options.workers} workers: {time.perf_counter() - begin:.2f} s")
        begin = time.perf_counter()
        results = pool.run_many(listed)
        seconds = time.perf_counter() - begin
        assert all(result.fraction == 1.0 for result in results)
        kind = pool._settings.isolation
    used = children_seconds() - before
    print(f"{kind}, {options.workers} workers, {os.cpu_count()} processors: {len(listed) / seconds:.0f} executions/s")
    print(f"processor time of an execution: {1000 * used / len(listed):.1f} ms; load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
