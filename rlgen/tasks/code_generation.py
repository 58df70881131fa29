"""The code generation task: write a Python function from its signature, docstring and two examples.

The functions are generated: which items to keep, what to make of each, how to sum up, on numbers and on words. Their
tests are other inputs than the examples that the prompt shows, with the results of the reference. The source
`packages` takes the held-out rows from functions of more-itertools and toolz with their doctests, which stand in the
prompt (for evaluation; fetched once, 0.2 MB; beyond small models), and leaves the other splits as they are.
"""

from __future__ import annotations

import ast
import builtins
import doctest
import functools
import itertools
import random
import re
from collections.abc import Iterator
from typing import Any

from reward_models import code_generation as rewards
from rlgen.tasks import Task
from rlgen.tasks.rows import Row, deal, digest, make_row, splitter, unknown_source
from rlgen.wheels import PackageFile, package_files

MORE_ITERTOOLS = PackageFile(
    file="more_itertools-11.2.1-py3-none-any.whl",
    sha256="35a7377edd1dd6608dcb2cdf534ded55ea32d49448875ad042cd3f879fb1ded0",
    megabytes=1,
    purpose="functions with doctests",
)
TOOLZ = PackageFile(
    file="toolz-1.2.0-py3-none-any.whl",
    sha256="890f820b1cb8152785aaf9386d8707770110809035800985ca65cb24ce1120ef",
    megabytes=1,
    purpose="functions with doctests",
)
_MODULES = (
    (MORE_ITERTOOLS, ["more_itertools/more.py", "more_itertools/recipes.py"]),
    (TOOLZ, ["toolz/itertoolz.py", "toolz/dicttoolz.py", "toolz/functoolz.py", "toolz/recipes.py"]),
)
INSTRUCTION = "Write this Python function. Answer with the whole function in one code block and nothing else."
SHOWN, TESTS = 2, 6
LONGEST_FUNCTION = 1200  # characters, docstring included

# Parts of a function: name, words, code. `x` is the item.
_NUMBER_FILTERS = [
    ("", "the numbers", ""),
    ("even", "the even numbers", "x % 2 == 0"),
    ("odd", "the odd numbers", "x % 2 == 1"),
    ("positive", "the positive numbers", "x > 0"),
    ("negative", "the negative numbers", "x < 0"),
    *((f"above_{k}", f"the numbers greater than {k}", f"x > {k}") for k in (2, 5, 10)),
    *((f"below_{k}", f"the numbers less than {k}", f"x < {k}") for k in (4, 8)),
    *((f"by_{k}", f"the numbers that are divisible by {k}", f"x % {k} == 0") for k in (3, 4, 5)),
]
_NUMBER_MAPS = [
    ("", "{}", "x"),
    ("squares", "the squares of {}", "x**2"),
    ("cubes", "the cubes of {}", "x**3"),
    ("doubles", "the doubles of {}", "2 * x"),
    ("absolute", "the absolute values of {}", "abs(x)"),
    ("negated", "{} with the opposite sign", "-x"),
    *((f"plus_{k}", f"{{}} increased by {k}", f"x + {k}") for k in (1, 3)),
]
_NUMBER_ENDS = [
    ("sum", "the sum of {}", "sum({} )"),
    ("list", "a list of {}", "[{}]"),
    ("sorted", "a sorted list of {}", "sorted({} )"),
    ("descending", "a list of {}, the largest first", "sorted(({}), reverse=True)"),
    ("largest", "the largest of {}, or 0 if there is none", "max(({}), default=0)"),
    ("smallest", "the smallest of {}, or 0 if there is none", "min(({}), default=0)"),
    ("count", "how many there are of {}", "len([{}])"),
]
_WORD_FILTERS = [
    ("", "the words", ""),
    *((f"longer_{k}", f"the words with more than {k} letters", f"len(x) > {k}") for k in (3, 4, 5)),
    *((f"with_{c}", f'the words that contain the letter "{c}"', f'"{c}" in x') for c in "aeo"),
    *((f"from_{c}", f'the words that start with "{c}"', f'x.startswith("{c}")') for c in "bst"),
]
_WORD_MAPS = [
    ("", "{}", "x"),
    ("upper", "{} in capital letters", "x.upper()"),
    ("backward", "{} spelled backward", "x[::-1]"),
    ("lengths", "the lengths of {}", "len(x)"),
    ("initials", "the first letters of {}", "x[0]"),
    ("endings", "the last letters of {}", "x[-1]"),
]
_WORD_ENDS = [
    ("list", "a list of {}", "[{}]"),
    ("sorted", "a sorted list of {}", "sorted({} )"),
    ("reversed", "a list of {} in reverse order", "[{}][::-1]"),
    ("joined", "one string with a comma between {}", '",".join(str(y) for y in [{}])'),
    ("count", "how many there are of {}", "len([{}])"),
]
_WORDS = (
    "apple bell book bread boat table tree stone star sun salt tea toast river road moon house leaf cloud green ocean "
    "tower window bridge silver summer winter basket tomato".split()
)


def build(source: str | None = None) -> Task:
    """Make the code generation task.

    Args:
        source: None for generated functions alone; `packages` to hold out those of two packages.

    Raises:
        ConfigError: There is no such source.
    """
    if source not in (None, "packages"):
        raise unknown_source("code_generation", str(source), ["packages"])
    return Task(
        name="code_generation",
        description="Write a Python function that passes tests.",
        split=splitter("code_generation", lambda name: _split(name, source == "packages")),
        rewards={"code_generation": 1.0},
        reward_functions={"code_generation": rewards.composite, **rewards.REWARDS},
        metrics={"passed_all": passed_all, "parses": rewards.parses, "code_style": rewards.code_style},
        max_prompt_tokens=320,
        max_completion_tokens=96,
        public_data="google-research-datasets/mbpp:full (text -> prompt, code -> completion, test_list -> tests)",
    )


def passed_all(completions: list[Any], tests: list[Any], **columns: Any) -> list[float | None]:
    """Score whether the code passes all tests, 0 or 1."""
    shares = rewards.passes_tests(completions, tests=tests, **columns)
    return [None if share is None else float(share == 1.0) for share in shares]


def _split(name: str, packages: bool) -> list[Row]:
    return _package_rows() if packages and name == "heldout" else _generated()[name]


@functools.cache
def _generated() -> dict[str, list[Row]]:
    kinds = (
        ("numbers", "number", _NUMBER_FILTERS, _NUMBER_MAPS, _NUMBER_ENDS),
        ("words", "word", _WORD_FILTERS, _WORD_MAPS, _WORD_ENDS),
    )
    rows = []
    for argument, item, filters, maps, ends in kinds:
        for chosen, made, end in itertools.product(filters, maps, ends):
            if not (end[0] == "count" and made[0]):  # counting does not care what is counted
                rows.append(_function(argument, item, chosen, made, end))
    return deal(rows, "code_generation")


def _function(
    argument: str, item: str, chosen: tuple[str, str, str], made: tuple[str, str, str], end: tuple[str, str, str]
) -> Row:
    name = "_".join(part for part in (end[0], made[0], chosen[0], argument) if part)
    what = end[1].format(made[1].format(chosen[1]))
    loop = f"{made[2]} for x in {argument}" + (f" if {chosen[2]}" if chosen[2] else "")
    body = re.sub(r"\bx\b", item, end[2].format(loop)).replace(" )", ")")
    body = re.sub(r"\by\b", "part", body)
    code = f"def {name}({argument}):\n    return {body}"
    inputs = _inputs(argument, name)
    scope: dict[str, Any] = {}
    exec(code, scope)  # our own line, from the parts above
    results = [(value, scope[name](list(value))) for value in inputs]
    examples = "".join(f"    >>> {name}({value!r})\n    {result!r}\n" for value, result in results[:SHOWN])
    stub = f'def {name}({argument}):\n    """Return {what}.\n\n{examples}    """'
    return make_row(
        render(stub),
        f"```python\n{code}\n```",
        tests=[f"assert {name}({value!r}) == {result!r}" for value, result in results[SHOWN:]],
        entry_point=name,
        code_prompt=None,
    )


def _inputs(argument: str, name: str) -> list[list[Any]]:
    rng = random.Random(digest("inputs", name))
    if argument == "numbers":
        return [[rng.randint(-9, 20) for _ in range(rng.randint(4, 8))] for _ in range(SHOWN + TESTS - 1)] + [[]]
    return [rng.sample(_WORDS, rng.randint(3, 7)) for _ in range(SHOWN + TESTS - 1)] + [[]]


def render(stub: str) -> str:
    """Write the prompt that asks for a function."""
    return f"{INSTRUCTION}\n\n```python\n{stub}\n```"


@functools.cache
def _package_rows() -> list[Row]:
    rows = [row for package, members in _MODULES for row in _documented(package, members)]
    passed = rewards.passes_tests(
        [row["completion"] for row in rows],
        **{name: [row[name] for row in rows] for name in ("tests", "entry_point", "code_prompt")},
    )
    good = (row for row, share in zip(rows, passed, strict=True) if share == 1.0)
    return deal(good, "code_generation", shares={"heldout": 1.0})["heldout"]


def _documented(package: PackageFile, members: list[str]) -> Iterator[Row]:
    for file in package_files(package, members):
        source = file.read_text(encoding="utf-8")
        tree = ast.parse(source)
        imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        imports = [node for node in imports if not (isinstance(node, ast.ImportFrom) and node.level)]
        imported = {alias.asname or alias.name for node in imports for alias in node.names}
        setup = "\n".join(ast.unparse(node) for node in imports if not _is_of(node, package)) + "\n"
        for node in tree.body:
            text = ast.get_source_segment(source, node) or ""
            if (
                isinstance(node, ast.FunctionDef)
                and not node.name.startswith("_")
                and not node.decorator_list
                and len(text) <= LONGEST_FUNCTION
                and _doctests(ast.get_docstring(node) or "")
                and _free_names(node) <= imported | set(dir(builtins)) | {node.name}
            ):
                yield _from_package(node, setup)


def _doctests(docstring: str) -> str:
    """The examples of a docstring, without the prose; "" where there are none, or such as do not even compile."""
    try:
        examples = doctest.DocTestParser().get_examples(docstring)
        for example in examples:
            compile(example.source, "doctest", "single")
    except (ValueError, SyntaxError):
        return ""
    lines = [
        line
        for example in examples
        for line in [
            *(f"{'...' if number else '>>>'} {part}" for number, part in enumerate(example.source.splitlines())),
            *example.want.splitlines(),
        ]
    ]
    return "\n".join(lines)


def _is_of(node: ast.Import | ast.ImportFrom, package: PackageFile) -> bool:
    own = package.package.replace("-", "_")
    names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
    return any(name.partition(".")[0] == own for name in names)


def _free_names(function: ast.FunctionDef) -> set[str]:
    names = [node for node in ast.walk(function) if isinstance(node, ast.Name)]
    bound = {node.id for node in names if not isinstance(node.ctx, ast.Load)}
    bound |= {node.arg for node in ast.walk(function) if isinstance(node, ast.arg)}
    bound |= {node.name for node in ast.walk(function) if isinstance(node, ast.FunctionDef)}
    bound |= {node.name for node in ast.walk(function) if isinstance(node, ast.ExceptHandler) and node.name}
    return {node.id for node in names} - bound


def _from_package(node: ast.FunctionDef, setup: str) -> Row:
    stub = ast.unparse(ast.FunctionDef(**{**vars(node), "body": [node.body[0]]}))
    bare = ast.unparse(ast.FunctionDef(**{**vars(node), "body": node.body[1:]}))
    imports = f"These imports stand above it:\n\n```python\n{setup}```\n\n" if setup.strip() else ""
    return make_row(
        render(stub).replace("\n\n```", f"\n\n{imports}```", 1),
        f"```python\n{bare}\n```",
        tests=[_doctests(ast.get_docstring(node) or "")],
        entry_point=node.name,
        code_prompt=setup,
    )
