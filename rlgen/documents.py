"""Raw text in: documents from files, folders, data sets, or the prose of Python's own standard library.

A document is a row with `text`. What is held out is chosen by content, so that the same text is on the same side
whatever the order of the files.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import math
import re
import sysconfig
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from datasets import Dataset

from rlgen.data import DATA_SUFFIXES, load_rows
from rlgen.errors import DataError

STDLIB = "stdlib"
TEXT_SUFFIXES = (".txt", ".md", ".rst", ".py")
FEW = 20  # documents: fewer are cut into passages, so that a share of the text and not of the files is held out
PASSAGE = 2000  # characters of a passage, at least

NO_PROSE = frozenset(  # folders of the standard library without texts of people
    "site-packages dist-packages test tests idlelib idle_test lib2to3 pgen2 turtledemo encodings ensurepip "
    "pydoc_data __pycache__".split()
)


def load_documents(sources: Sequence[str], *, split: str = "train", max_rows: int | None = None) -> Dataset:
    """Load texts, each once.

    Args:
        sources: Text files (.txt, .md, .rst, .py), one document each; folders with such files at any depth; data sets
            with a column `text`, as `rlgen.data.load_rows` takes them; or "stdlib" for the docstrings and comments of
            the running Python's standard library, one document a module.
        split: Of a data set.
        max_rows: Keep at most this many, evenly spaced.

    Returns:
        Rows with `text`, in their order in the sources; empty and repeated texts are left out.

    Raises:
        DataError: A source is missing, cannot be read as text, or holds none.
    """
    texts: dict[str, None] = {}
    for source in sources:
        found = [text for text in _texts_of(source, split) if text.strip()]
        if not found:
            raise DataError(f"{source}: there is no text in it; give files with text")
        texts |= dict.fromkeys(found)
    documents = list(texts)
    if max_rows is not None and max_rows < len(documents):
        documents = [documents[index * len(documents) // max_rows] for index in range(max_rows)]
    return Dataset.from_dict({"text": documents})


def hold_out(documents: Dataset, share: float) -> tuple[Dataset, Dataset]:
    """Part documents into training and held-out ones, by the hashes of their texts.

    Fewer than `FEW` documents are cut at line ends into passages first.

    Args:
        documents: Rows with `text`.
        share: Of the documents that is held out, above 0 and below 1; one at least.

    Raises:
        DataError: There is one passage only.
    """
    texts = list(documents["text"])
    if len(texts) < FEW:
        texts = list(dict.fromkeys(part for text in texts for part in passages(text)))
    if len(texts) < 2:
        raise DataError(
            f"the text is one passage of {len(texts[0])} characters, too short to hold some out: give more text, or "
            "held-out text with --eval_dataset_name"
        )
    order = sorted(range(len(texts)), key=lambda index: hashlib.sha256(_bytes(texts[index])).hexdigest())
    held = set(order[: min(math.ceil(share * len(texts)), len(texts) - 1)])
    parts = ([text for index, text in enumerate(texts) if (index in held) == wanted] for wanted in (False, True))
    train, heldout = (Dataset.from_dict({"text": part}) for part in parts)
    return train, heldout


def passages(text: str, size: int = PASSAGE) -> list[str]:
    """Cut a text at line ends into passages of at least `size` characters; a shorter rest stays with the last."""
    parts: list[str] = []
    start = length = 0
    lines = text.splitlines(keepends=True)
    for index, line in enumerate(lines):
        length += len(line)
        if length >= size:
            parts.append("".join(lines[start : index + 1]))
            start, length = index + 1, 0
    rest = "".join(lines[start:])
    if parts and len(rest) < size:
        parts[-1] += rest
        return parts
    return [*parts, rest]


def prose(code: str) -> str:
    """Take the docstrings and the blocks of comments out of Python source, in their order; "" if it cannot be parsed.

    Lines of doctests and of punctuation alone go; what is left is mostly English.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # stray escapes in the source read are none of the user's business
            nodes = list(ast.walk(ast.parse(code)))
    except (SyntaxError, ValueError, RecursionError):
        return ""
    found: list[tuple[int, str]] = []
    inside: set[int] = set()  # lines of strings, in which a # begins no comment
    for node in nodes:
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node)
            if docstring:
                found.append((node.body[0].lineno, docstring))
        elif isinstance(node, ast.Constant | ast.JoinedStr) and node.end_lineno != node.lineno:
            inside.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    found += _comment_blocks(code.split("\n"), inside)
    return "\n\n".join(text for _, each in sorted(found) if (text := _prose_lines(each)))


def stdlib_prose() -> Iterator[str]:
    """Yield the prose of each module of the running Python's standard library.

    Raises:
        DataError: This Python carries no sources.
    """
    root = Path(sysconfig.get_path("stdlib"))
    if not (root / "os.py").is_file():
        raise DataError(f"{root}: this Python carries no standard library sources; give text files of your own")
    for file in sorted(root.rglob("*.py")):
        if not NO_PROSE & set(file.relative_to(root).parts[:-1]):
            text = prose(file.read_text(encoding="utf-8", errors="replace"))
            if text:
                yield text


def _comment_blocks(lines: Sequence[str], inside: set[int]) -> Iterator[tuple[int, str]]:
    """Comments on lines of their own, neighbouring ones joined, with their first lines' numbers from 1."""
    start = 0
    block: list[str] = []
    for number, line in enumerate([*lines, ""], start=1):
        if line.lstrip().startswith("#") and number not in inside:
            start = start if block else number
            block.append(line.strip().lstrip("#").strip())
        elif block:
            yield start, "\n".join(block)
            block = []


def _prose_lines(text: str) -> str:
    lines = text.split("\n")
    kept = [line for line in lines if not line.strip() or re.match(r"\s*(?!>>>|\.\.\.).*[A-Za-z]", line)]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip()


def _texts_of(source: str, split: str) -> Iterator[str]:
    path = Path(source).expanduser()
    if source == STDLIB and not path.exists():
        yield from stdlib_prose()
    elif path.is_file() and path.suffix.lower() not in DATA_SUFFIXES:
        yield _read(path)
    elif path.is_dir() and (files := _visible_files(path, TEXT_SUFFIXES)):
        if data := _visible_files(path, DATA_SUFFIXES):
            raise DataError(
                f"{source} holds texts ({files[0].name}) and a data set ({data[0].name}): give the files of one kind"
            )
        yield from map(_read, files)
    elif not path.exists() and path.suffix.lower() in TEXT_SUFFIXES:
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*")], n=1)
        hint = f"did you mean {path.parent / near[0]}?" if near else "check the path"
        raise DataError(f"{source}: no such file; {hint}")
    else:
        for row, text in enumerate(load_rows(source, columns=["text"], split=split)["text"]):
            if not isinstance(text, str):
                raise DataError(f"{source}: row {row} has no text in the column 'text' but {text!r}; give strings")
            yield text


def _visible_files(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """Files of some kinds at any depth, hidden ones and caches left out."""
    found = (file for file in folder.rglob("*") if file.suffix.lower() in suffixes and file.is_file())
    inside = ((file, file.relative_to(folder).parts) for file in found)
    return sorted(file for file, parts in inside if not any(p.startswith(".") or p == "__pycache__" for p in parts))


def _read(path: Path) -> str:
    if path.suffix.lower() not in TEXT_SUFFIXES:
        known = ", ".join((*TEXT_SUFFIXES, *DATA_SUFFIXES))
        raise DataError(f"{path}: cannot read '{path.suffix}' files; use one of {known}")
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as UTF-8 text: {error}") from error


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogatepass")
