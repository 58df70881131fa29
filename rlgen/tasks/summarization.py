"""The summarization task: from the body of a docstring to the headline that its author gave it.

The texts are those of a source tree, by default the standard library of the running Python: nothing is downloaded, and
the files are only parsed. Each module's texts stay in one split. The source `xsum` takes the held-out rows from XSum's
test articles (for evaluation; fetched once, 20 MB) and leaves the other splits as they are.
"""

from __future__ import annotations

import ast
import functools
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

from reward_models import summarization as rewards
from reward_models._prose import words
from rlgen.tasks import Task
from rlgen.tasks._benchmarks import benchmark
from rlgen.tasks.docstring import python_files, source_root, without_markup
from rlgen.tasks.rows import Row, deal, make_row, splitter

INSTRUCTION = "Summarize this text in one sentence of at most 20 words."
SHORTEST, LONGEST = 120, 1400  # characters of a text
LONGEST_ARTICLE = 3000
GOOD_ENOUGH = 0.55  # of the reward: below, the headline is about something else than the text

# The standard library's modules differ much in size; this salt deals them out evenly.
_SALT = "summarization"
_CODE = re.compile(r">>>|^\s*[\w.]+\(.*\)\s*(->.*)?$|[{}|=<>\\]|^\s*[-=~]{3,}|::\s*$|^\s*[-*:@]\s?\w", re.MULTILINE)
_NO_HEADLINE = re.compile(
    r"[<>{}|=\\_@#\[\]]|\w\(|\.\.\.|->|^(internal|private|todo|see|same|like|deprecated|helper)\b", re.IGNORECASE
)


def build(source: str | None = None) -> Task:
    """Make the summarization task.

    Args:
        source: A folder of .py files or an installed package; None for the standard library; `xsum` for the standard
            library with XSum's articles as held-out rows.

    Raises:
        DataError: The source does not exist.
    """
    root = source_root(None if source == "xsum" else source)
    return Task(
        name="summarization",
        description="Summarize a technical text in one sentence.",
        split=splitter("summarization", lambda name: _splits(root, source == "xsum")[name]),
        rewards=rewards.WEIGHTS,
        reward_functions=rewards.REWARDS,
        metrics={"rouge": rewards.rouge},
        max_prompt_tokens=512,
        max_completion_tokens=48,
        public_data="EdinburghNLP/xsum (document -> source and prompt, summary -> completion)",
    )


def render(text: str) -> str:
    """Write the prompt that asks for the summary of a text."""
    return f"{INSTRUCTION}\n\n{text}"


def headline_and_body(docstring: str) -> tuple[str, str] | None:
    """Part a docstring into its headline and the prose below it.

    Args:
        docstring: As `ast.get_docstring` gives it.

    Returns:
        One sentence and the prose; None where one of them is missing, too short or too long, or no plain English.
    """
    first, *rest = re.split(r"\n\s*\n", docstring.strip())
    headline = without_markup(first).rstrip(" .:;") + "."
    if not 4 <= len(headline.split()) <= 20 or not headline.isascii() or _NO_HEADLINE.search(headline):
        return None
    if re.search(r"[.!?] [A-Z]", headline) or not headline[0].isalpha():
        return None
    prose: list[str] = []
    for paragraph in rest:
        if not _CODE.search(paragraph) and len(paragraph.split()) >= 6:
            prose.append(without_markup(paragraph))
    body = "\n\n".join(prose)
    if not SHORTEST <= len(body) <= LONGEST or not body.isascii() or headline.rstrip(".") in body:
        return None
    return headline[0].upper() + headline[1:], body


@functools.lru_cache(maxsize=4)
def _splits(root: Path, xsum: bool) -> dict[str, list[Row]]:
    rows = list(_rows(root))
    scores = rewards.composite([row["reference"] for row in rows], source=[row["source"] for row in rows])
    good = [row for row, score in zip(rows, scores, strict=True) if score is not None and score >= GOOD_ENOUGH]
    splits = deal(good, _SALT, unit=lambda row: str(row["module"]).partition(".")[0])
    if xsum:
        splits["heldout"] = list(_articles())
    return splits


def _rows(root: Path) -> Iterator[Row]:
    base = root.parent if root.is_file() else root
    for file in [root] if root.is_file() else python_files(root):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # stray escapes in the source read are none of the user's business
                tree = ast.parse(file.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError, ValueError, OSError):
            continue
        module = ".".join(file.relative_to(base).with_suffix("").parts).removesuffix(".__init__")
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                parts = headline_and_body(ast.get_docstring(node) or "\n")
                if parts:
                    headline, body = parts
                    yield make_row(render(body), headline, source=body, module=module)


def _articles() -> Iterator[Row]:
    for article in benchmark("xsum"):
        text = article["document"].strip()
        if len(text) <= LONGEST_ARTICLE and len(words(text)) >= 30:
            yield make_row(render(text), article["summary"].strip(), source=text, module="xsum")
