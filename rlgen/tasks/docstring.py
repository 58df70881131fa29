"""The docstring task: from the source of a Python function to its one-line docstring.

The rows come from a source tree that the user has anyway: the standard library of the running Python, or any other
folder or installed package given as the task's source. Nothing is downloaded and nothing is imported; the files are
only parsed. Each module's rows stay in one split, so no split can be answered from memory of another.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import logging
import re
import sysconfig
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset

from reward_models import docstring as rewards
from reward_models._text import VERBS, imperative
from rlgen.data import row_hash
from rlgen.documents import NO_PROSE
from rlgen.errors import ConfigError, DataError
from rlgen.tasks import SPLITS, Task
from rlgen.tasks.rows import Row, digest, make_row, split_of

logger = logging.getLogger(__name__)

INSTRUCTION = (
    "Write the one-line docstring of this Python function: one imperative sentence in plain English, "
    "at most 80 characters, ending with a period."
)
MAX_CODE_CHARS = 500
MAX_SUMMARY_CHARS = 80
MAX_ROWS_PER_MODULE = 300  # so that no single package sets the tone of a split

# Shares of the modules, as upper ends of hash ranges. The salt is chosen so that the standard libraries of current
# Pythons fall into splits of useful sizes; any other would be as deterministic.
_SHARES = {"sft": 0.28, "preference": 0.42, "rl": 0.74, "validation": 0.81, "heldout": 1.0}
_SALT = "docstring-5320"
_FEW_MODULES = 40  # a source with fewer top-level modules is split by file, and one with fewer files by function

_SKIPPED_PARTS = NO_PROSE | {"_vendor", "node_modules", "build"}
_NOT_A_SUMMARY = re.compile(
    r"^(internal|private|todo|xxx|fixme|hack|deprecated|see|same|like|just like|helper|undocumented|dummy|obsolete)\b"
    r"|>>>|->|=>|::|[=<>{}|\\$@^~#\[\]]|\.\.\.|https?:|\be\.g|\bi\.e|\betc\b|\bcf\.|\bTODO\b|\bXXX\b",
    re.IGNORECASE,
)
_RAW_CODE = re.compile(r"\w_\w|\b_+\w|\w\(|[A-Za-z]\w*\.[A-Za-z]|\b[a-z]+[A-Z]")
_MARKUP = re.compile(r":[a-z:]+:`([^`<>]+)`|``([^`]+)``|`([^`]+)`|\*{1,2}([^*\s]+)\*{1,2}")


@dataclass(frozen=True)
class Function:
    """A documented function: its code without the docstring, and what its author wrote about it."""

    module: str
    qualname: str
    code: str
    summary: str


def build(source: str | None = None) -> Task:
    """Make the docstring task.

    Args:
        source: A folder of .py files or the name of an installed package; None takes the standard library.

    Returns:
        The task; its rows are harvested when a split is first asked for (a few seconds).

    Raises:
        DataError: The source does not exist.
    """
    root = source_root(source)

    def split(name: str, max_rows: int | None = None) -> Dataset:
        return load_split(root, name, max_rows)

    return Task(
        name="docstring",
        description="Write the one-line docstring of a Python function.",
        split=split,
        rewards=rewards.WEIGHTS,
        reward_functions=rewards.REWARDS,
        metrics={"rouge_l": rewards.rouge_l},
        max_prompt_tokens=256,
        max_completion_tokens=32,
        public_data="code-search-net/code_search_net:python (func_code_string without its docstring -> code and "
        "prompt, first line of func_documentation_string -> completion)",
    )


def source_root(source: str | None) -> Path:
    """Find the folder or file to harvest, without importing anything from it.

    Args:
        source: A path, an installed package's name, or None for the standard library.

    Raises:
        DataError: There is no such path or package.
    """
    if source is None:
        root = Path(sysconfig.get_path("stdlib"))
        if not (root / "os.py").is_file():
            raise DataError(f"{root}: this Python carries no standard library sources; give a folder of .py files")
        return root
    path = Path(source).expanduser()
    if path.exists():
        return path.resolve()
    try:
        spec = importlib.util.find_spec(source) if re.fullmatch(r"\w+", source) else None
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        raise DataError(f"task source '{source}': no such folder and no installed package of that name")
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    if spec.origin is None or not spec.origin.endswith(".py"):
        raise DataError(f"task source '{source}': the package carries no Python sources")
    return Path(spec.origin)


def load_split(root: Path, name: str, max_rows: int | None = None) -> Dataset:
    """Load the rows of one split.

    Args:
        root: Folder (or single file) of Python sources.
        name: One of `rlgen.tasks.SPLITS`.
        max_rows: Keep at most this many rows, spread over the modules; None keeps all.

    Returns:
        Rows with `prompt` and `completion` (conversational), `reference`, `code`, `module` and `qualname`, in the
        order of their content hashes.

    Raises:
        ConfigError: There is no such split.
        DataError: The source gives no rows for it.
    """
    if name not in SPLITS:
        raise ConfigError(f"unknown split '{name}' of task docstring; use one of {', '.join(SPLITS)}")
    functions = _split_functions(root)[name]
    if not functions:
        raise DataError(
            f"{root}: no usable documented functions for split '{name}'; "
            "give a larger source tree (at least some hundred functions with one-line docstrings)"
        )
    rows = [_row(function) for function in functions]
    rows.sort(key=row_hash)
    return Dataset.from_list(rows if max_rows is None else rows[:max_rows])


def render(code: str) -> str:
    """Write the prompt that asks for the docstring of a function."""
    return f"{INSTRUCTION}\n\n```python\n{code}\n```"


def harvest(root: Path) -> list[Function]:
    """Collect the documented functions of a source tree, duplicates included, in the order of the files.

    Args:
        root: Folder (or single file) of Python sources. Files that the running Python cannot parse are skipped.
    """
    base = root.parent if root.is_file() else root
    functions: list[Function] = []
    for file in [root] if root.is_file() else python_files(root):
        module = ".".join(file.relative_to(base).with_suffix("").parts).removesuffix(".__init__")
        functions.extend(_functions_of(file, module))
    return functions


def summary_line(docstring: str) -> str | None:
    """Turn a human docstring into the one-line summary that PEP 257 asks for, if it holds one.

    Mended are what changes no meaning: the final period, the first capital, reST markup and "Returns" for "Return".

    Args:
        docstring: As `ast.get_docstring` gives it.

    Returns:
        One sentence in plain English of at most 80 characters, or None.
    """
    lines = docstring.strip().split("\n\n")[0].splitlines()
    if not lines or _NOT_A_SUMMARY.search(lines[0]):
        return None
    next_starts_anew = len(lines) > 1 and not lines[1].strip()[:1].islower()
    text = lines[0].strip() if next_starts_anew and not lines[0].rstrip().endswith(",") else " ".join(lines)
    text = without_markup(text)
    text = re.split(r"(?<=[a-z0-9)])\.\s+(?=[A-Z])", text)[0].rstrip(" .:;") + "."
    if re.match(r"(true|false|whether)\b", text, re.IGNORECASE):
        text = f"Return {text if text[0] in 'TF' else text[0].lower() + text[1:]}"
    words = text.split()
    if not 3 <= len(words) <= 16 or len(text) > MAX_SUMMARY_CHARS:
        return None
    first = imperative(words[0].lower())
    if (
        first not in VERBS
        or words[1] == "of"
        or not text.isascii()
        or re.search(r"[\"'`*?!%]", text.replace("n't", "").replace("'s", ""))
    ):
        return None
    text = " ".join([first.capitalize(), *words[1:]])
    if _NOT_A_SUMMARY.search(text) or _RAW_CODE.search(text) or text.count("(") != text.count(")"):
        return None
    return text


def without_markup(text: str) -> str:
    """Take reST markup off a text, and line breaks with it."""
    return _MARKUP.sub(lambda match: next(group for group in match.groups() if group), " ".join(text.split()))


def python_files(folder: Path) -> Iterator[Path]:
    """Find the .py files of a source tree, without tests and vendored packages, in the order of their names."""
    for entry in sorted(folder.iterdir()):
        if entry.name.removesuffix(".py") in _SKIPPED_PARTS or entry.name.startswith(("config-", "test_", ".")):
            continue
        if entry.is_dir() and not entry.is_symlink():
            yield from python_files(entry)
        elif entry.suffix == ".py":
            yield entry


def _functions_of(file: Path, module: str) -> Iterator[Function]:
    try:
        source = file.read_text(encoding="utf-8")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # stray escapes in the source read are none of the user's business
            tree = ast.parse(source)
    except (SyntaxError, UnicodeDecodeError, ValueError, OSError) as error:
        logger.debug("%s skipped: %s", file, error)
        return
    lines = [f"{line}\n" for line in source.split("\n")]  # as ast counts them: a form feed ends none
    stack: list[tuple[ast.AST, str]] = [(tree, "")]
    while stack:
        parent, prefix = stack.pop()
        for node in ast.iter_child_nodes(parent):
            if isinstance(node, ast.ClassDef):
                stack.append((node, f"{prefix}{node.name}."))
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                summary = summary_line(ast.get_docstring(node) or "")
                code = _code_without_docstring(node, lines) if summary else None
                if summary and code:
                    yield Function(module, prefix + node.name, code, summary)


def _code_without_docstring(node: ast.FunctionDef | ast.AsyncFunctionDef, lines: Sequence[str]) -> str | None:
    """Cut a function's own lines, its docstring taken out; None where that leaves nothing to describe."""
    docstring, *body = node.body
    if not body or all(_does_nothing(statement) for statement in body):
        return None
    start, end = docstring.lineno - 1, docstring.end_lineno or docstring.lineno
    alone = not lines[start][: docstring.col_offset].strip() and body[0].lineno > end
    if not alone or end - node.lineno == 0:
        return None
    kept = [*lines[node.lineno - 1 : start], *_without_leading_blanks(lines[end : node.end_lineno])]
    indent = node.col_offset
    code = "".join(line[indent:] if not line[:indent].strip() else line.lstrip() for line in kept).rstrip()
    return code if len(code) <= MAX_CODE_CHARS and _parses(code) else None


def _parses(code: str) -> bool:
    try:
        ast.parse(code)
    except SyntaxError:  # dedenting broke a string over several lines
        return False
    return True


def _without_leading_blanks(lines: Sequence[str]) -> list[str]:
    first = next((index for index, line in enumerate(lines) if line.strip()), len(lines))
    return list(lines[first:])


def _does_nothing(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Raise):
        return "NotImplemented" in ast.dump(statement)
    if isinstance(statement, ast.Return):
        return statement.value is None or "NotImplemented" in ast.dump(statement.value)
    constant = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return constant or isinstance(statement, ast.Pass | ast.Import | ast.ImportFrom | ast.Global)


@functools.lru_cache(maxsize=4)
def _split_functions(root: Path) -> dict[str, list[Function]]:
    """Harvest, drop repetitions, cap what one module gives, and deal whole modules out to the splits."""
    functions = sorted(harvest(root), key=lambda function: digest(function.module, function.code))
    seen: set[str] = set()
    splits: dict[str, list[Function]] = {name: [] for name in SPLITS}
    unit_of = _unit(functions)
    taken: Counter[str] = Counter()
    for function in functions:
        keys = _likeness(function)
        unit = unit_of(function)
        if seen.isdisjoint(keys) and taken[unit] < MAX_ROWS_PER_MODULE:
            splits[split_of(unit, _SALT, _SHARES)].append(function)
            taken[unit] += 1
        seen.update(keys)
    return splits


def _unit(functions: Sequence[Function]) -> Callable[[Function], str]:
    """Choose what stays together in one split: the top-level module, or something finer in a small source."""
    grains: tuple[Callable[[Function], str], ...] = (
        lambda function: function.module.partition(".")[0],
        lambda function: function.module,
        lambda function: f"{function.module}.{function.qualname}",
    )
    for grain in grains:
        if len({grain(function) for function in functions}) >= _FEW_MODULES:
            return grain
    return grains[-1]


def _likeness(function: Function) -> set[str]:
    """Keys of which near-identical functions share one.

    Two functions are alike when they have the same code up to comments, layout and the function's name; when they
    have the same summary and the same code up to all names and constants; or the same summary and function name.
    """
    name = function.qualname.rpartition(".")[2]
    bare = re.sub(r"#[^\n]*", "", function.code).replace(f"def {name}(", "def f(", 1)
    exact = "".join(bare.split())
    shape = re.sub(r"\w+", "_", exact)
    summary = function.summary.lower()
    return {digest("code", exact), digest("shape", shape, summary), digest("name", name, summary)}


def _row(function: Function) -> Row:
    where = {"module": function.module, "qualname": function.qualname}
    return make_row(render(function.code), function.summary, code=function.code, **where)
