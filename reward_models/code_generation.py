"""Rewards for Python functions that a model writes, all in [0, 1], 1 best: does it parse, pass tests, read well.

Every reward has TRL's signature. Columns, all optional but `tests` of `passes_tests`, one value a row, None for none:

- `tests`: a list of tests, or one. A test is statements with `assert` (MBPP), doctest examples, or source with a
  function `check(candidate)` (HumanEval).
- `entry_point`: the name of the function that is asked for.
- `code_prompt`: source that the completion continues (HumanEval's prompt: imports, helpers, signature, docstring).
- `test_setup`: source that the tests need.

The code of a completion is its fenced block that defines the entry point, or else its first one; without a fence it is
the whole text. Run as they are, the examples of `EXAMPLES` get full marks for parsing and tests.
"""

from __future__ import annotations

import ast
import functools
import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from reward_models._style import style_faults
from reward_models._text import completion_text
from reward_models.sandbox import Sandbox

MAX_CODE_CHARS = 20_000  # longer code is not looked at
FAULT_FACTOR = 0.85  # what one fault of style leaves of the score
WORKERS_VARIABLE = "RLGEN_SANDBOX_WORKERS"

Scores = list[float | None]

_FENCE = re.compile(r"^[ \t]*(```|~~~)[ \t]*([\w+-]*)[^\n]*\n(.*?)(?:^[ \t]*\1[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
_PYTHON = ("", "python", "py", "python3", "pycon")


def parses(
    completions: Sequence[Any],
    entry_point: Sequence[str | None] | None = None,
    code_prompt: Sequence[str | None] | None = None,
    **_: Any,
) -> Scores:
    """Score whether the completion is Python.

    Range: 0 or 1; 1 if its code (after `code_prompt`) compiles, does more than state constants, and defines the entry
    point with a body, where one is named.
    Gaming: any function with any body gets full marks; passes_tests guards against that.
    """
    rows = _rows(completions, entry_point=entry_point, code_prompt=code_prompt)
    return [float(_tree(row) is not None) for row in rows]


def passes_tests(
    completions: Sequence[Any],
    tests: Sequence[Sequence[str] | str | None],
    entry_point: Sequence[str | None] | None = None,
    code_prompt: Sequence[str | None] | None = None,
    test_setup: Sequence[str | None] | None = None,
    **_: Any,
) -> Scores:
    """Score the share of a row's tests that the code passes, run in a sandbox (`reward_models.sandbox`).

    Range: [0, 1]; doctests count by example. None for rows without tests, and where no test can be run. 0 for code
    that does not parse, raises when loaded, exceeds a limit, or ends its process.
    Source: Chen et al. 2021, "Evaluating Large Language Models Trained on Code" (functional correctness).
    Gaming: an answer that fits few tests, such as a constant or a table of the examples in the prompt, earns their
    share: give several tests, with varied answers, that the prompt does not show. Code never runs where verdicts are
    reached and never sees expected values, so that leaving early, changing builtins, `__eq__` or the result is no way.

    Raises:
        ValueError: the tests or their setup are no valid Python, or fail by themselves.
        SandboxUnavailable: this machine cannot isolate code, and running it without was not asked for.
    """
    rows = _rows(completions, entry_point=entry_point, code_prompt=code_prompt, tests=tests, test_setup=test_setup)
    scores: Scores = [None if not row["tests"] else 0.0 for row in rows]
    judged = [index for index, row in enumerate(rows) if row["tests"] and _tree(row) is not None]
    jobs = [
        {
            "program": _program(rows[index]),
            "tests": _listed(rows[index]["tests"]),
            "setup": _setup(rows[index]),
            "entry_point": rows[index]["entry_point"],
        }
        for index in judged
    ]
    for index, result in zip(judged, default_sandbox().run_many(jobs), strict=True):
        scores[index] = result.fraction
    return scores


def code_style(
    completions: Sequence[Any],
    entry_point: Sequence[str | None] | None = None,
    code_prompt: Sequence[str | None] | None = None,
    **_: Any,
) -> Scores:
    """Score what can be verified about the style of the code, from its syntax tree.

    Range: [0, 1]; 1 without faults, 0 for what does not parse. Each fault multiplies the score down: bare or silent
    `except`, star imports, imports and locals that nothing reads, mutable defaults, comparison with None by `==`,
    `eval` and the like, `global`, names that hide builtins or are not PEP 8's, names of one letter all over,
    lines above 100 characters, functions above 50 lines, nesting above 5, several statements in a line, code after
    `return`, tabs, and text beside the code.
    Source: PEP 8, and the rules that linters have made of it.
    Gaming: the less code, the fewer faults; an empty function has none. `composite` counts style only where all
    tests pass.
    """
    rows = _rows(completions, entry_point=entry_point, code_prompt=code_prompt)
    return [_style(row) for row in rows]


REWARDS: dict[str, Callable[..., Scores]] = {
    "parses": parses,
    "passes_tests": passes_tests,
    "code_style": code_style,
}
WEIGHTS = {"passes_tests": 0.8, "parses": 0.1, "code_style": 0.1}


def composite(completions: Sequence[Any], tests: Sequence[Sequence[str] | str | None], **columns: Any) -> Scores:
    """Score a completion by the weighted sum of the three rewards, in [0, 1]; style counts only if all tests pass.

    Range: [0, 1]; None where passes_tests is None.
    Gaming: what passes_tests says about answers that fit few tests.
    """
    passed = passes_tests(completions=completions, tests=tests, **columns)
    parsed = parses(completions=completions, **columns)
    style = code_style(completions=completions, **columns)
    return [
        None
        if fraction is None
        else WEIGHTS["passes_tests"] * fraction
        + WEIGHTS["parses"] * (parsed[row] or 0.0)
        + WEIGHTS["code_style"] * (style[row] or 0.0) * (fraction == 1.0)
        for row, fraction in enumerate(passed)
    ]


def configure_sandbox(**options: Any) -> None:
    """Have `passes_tests` use a sandbox with these options, `Sandbox`'s, from now on in this process."""
    default_sandbox().close()
    _state["options"] = options
    default_sandbox.cache_clear()


_state: dict[str, dict[str, Any]] = {"options": {}}


@functools.cache
def default_sandbox() -> Sandbox:
    """The sandbox of `passes_tests`: a worker for each processor, at most 16, or as RLGEN_SANDBOX_WORKERS says.

    Processors are shared with the other training processes of the machine.
    """
    share = (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE") or 1)
    workers = int(os.environ.get(WORKERS_VARIABLE) or min(16, max(1, share)))
    return Sandbox(**{"workers": workers, **_state["options"]})


def extract_code(text: str, entry_point: str | None = None) -> str:
    """Find the code of a completion.

    Args:
        text: a completion, with fenced blocks or without.
        entry_point: name of the function that is wanted.

    Returns:
        The fenced block that defines the entry point, or else the first one in Python, or else the text as it is. A
        fence that is not closed reaches to the end.
    """
    blocks = [body for _, language, body in _FENCE.findall(text) if language.lower() in _PYTHON]
    if not blocks:
        return text
    wanted = [block for block in blocks if entry_point and re.search(rf"\bdef {re.escape(entry_point)}\b", block)]
    return str((wanted or blocks)[0])


def _rows(completions: Sequence[Any], **columns: Sequence[Any] | None) -> list[dict[str, Any]]:
    """A dictionary for each row, with the code of the completion in it."""
    rows = []
    for index, completion in enumerate(completions):
        row = {name: None if values is None else values[index] for name, values in columns.items()}
        text = completion_text(completion)
        rows.append({**row, "text": text, "code": extract_code(text, row["entry_point"])})
    return rows


def _listed(tests: Sequence[str] | str) -> list[str]:
    return [tests] if isinstance(tests, str) else list(tests)


def _program(row: Mapping[str, Any]) -> str:
    prompt = row["code_prompt"]
    return f"{prompt.rstrip()}\n{row['code']}" if prompt else str(row["code"])


def _setup(row: Mapping[str, Any]) -> str:
    """Source for the tests: their own, and the prompt's imports and helpers, which are not the model's to define."""
    return "\n".join(part for part in (_helpers(row["code_prompt"], row["entry_point"]), row["test_setup"]) if part)


def _helpers(prompt: str | None, entry_point: str | None) -> str:
    if not prompt:
        return ""
    try:
        tree = ast.parse(prompt)
    except SyntaxError:  # a signature without a docstring is no function yet
        try:
            tree = ast.parse(f"{prompt.rstrip()}\n    pass")
        except SyntaxError:
            return ""
    kept = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign)
    body: list[ast.stmt] = [
        node for node in tree.body if isinstance(node, kept) and getattr(node, "name", "") != entry_point
    ]
    return ast.unparse(ast.Module(body, []))


def _tree(row: Mapping[str, Any]) -> ast.Module | None:
    """The syntax tree of a program that does something, and what is asked for; else None."""
    program = _program(row)
    if len(program) > MAX_CODE_CHARS or not row["code"].strip():
        return None
    tree = _parsed(program)
    if tree is None or all(isinstance(node, (ast.Expr, ast.Pass)) and not _calls(node) for node in tree.body):
        return None
    name = row["entry_point"]
    return tree if not name or any(_defines(node, name) for node in tree.body) else None


@functools.lru_cache(maxsize=512)
def _parsed(program: str) -> ast.Module | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "invalid escape sequence" and the like
            tree = ast.parse(program)
            compile(tree, "<completion>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError):
        return None
    return tree


def _calls(node: ast.AST) -> bool:
    return any(isinstance(part, ast.Call) for part in ast.walk(node))


def _defines(node: ast.stmt, name: str) -> bool:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return node.name == name and not all(
            isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant) for part in node.body
        )
    if isinstance(node, (ast.Assign, ast.AnnAssign)):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return any(isinstance(target, ast.Name) and target.id == name for target in targets)
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return any((alias.asname or alias.name) == name for alias in node.names)
    return any(_defines(part, name) for part in ast.iter_child_nodes(node) if isinstance(part, ast.stmt))


def _style(row: Mapping[str, Any]) -> float:
    if _tree(row) is None:
        return 0.0
    # Of a continuation only what the model wrote is judged, where that can be read alone.
    tree = _parsed(row["code"]) or _parsed(_program(row))
    assert tree is not None
    code = row["code"]
    beside = len(row["text"].replace(code, "").strip())
    talk = min(2.0, max(0, beside - 200) / 400)  # some words around the code are fine
    return float(FAULT_FACTOR ** (style_faults(tree, code) + talk))


def _example(task: str, name: str, code: str, tests: list[str], code_prompt: str | None = None) -> dict[str, Any]:
    prompt = f"Write a Python function `{name}` that {task}." if code_prompt is None else code_prompt
    completion = f"```python\n{code.strip()}\n```" if code_prompt is None else code
    columns = {"tests": tests, "entry_point": name, "code_prompt": code_prompt, "test_setup": None}
    return {"prompt": prompt, "completion": completion, **columns}


# Tasks with a good answer each, to check rewards with.
EXAMPLES: list[dict[str, Any]] = [
    _example(
        "returns the number of vowels in a text",
        "count_vowels",
        "def count_vowels(text):\n    return sum(letter in 'aeiou' for letter in text.lower())",
        ["assert count_vowels('Audio') == 4", "assert count_vowels('rhythm') == 0", "assert count_vowels('') == 0"],
    ),
    _example(
        "returns the greatest common divisor of two positive integers",
        "common_divisor",
        "def common_divisor(first, second):\n    while second:\n        first, second = second, first % second\n"
        "    return first",
        ["assert common_divisor(12, 18) == 6", "assert common_divisor(7, 5) == 1", "assert common_divisor(9, 9) == 9"],
    ),
    _example(
        "turns a list of numbers into the list of its running sums",
        "running_sums",
        "from itertools import accumulate\n\n\ndef running_sums(numbers):\n    return list(accumulate(numbers))",
        [
            "assert running_sums([1, 2, 3]) == [1, 3, 6]",
            "assert running_sums([]) == []",
            ">>> running_sums([5, -5])\n[5, 0]",
        ],
    ),
    _example(
        "tells whether a text reads the same in both directions, apart from case and from what is no letter",
        "is_palindrome",
        "def is_palindrome(text):\n    letters = [letter.lower() for letter in text if letter.isalpha()]\n"
        "    return letters == letters[::-1]",
        [
            "assert is_palindrome('Never odd, or even') is True",
            "assert is_palindrome('palindrome') is False",
            "assert is_palindrome('') is True",
            "assert is_palindrome('ab') is False",
        ],
    ),
    _example(
        "groups words by their first letter, as a dictionary of lists in the order of the words",
        "by_initial",
        "def by_initial(words):\n    groups = {}\n    for word in words:\n"
        "        groups.setdefault(word[0], []).append(word)\n    return groups",
        [
            "assert by_initial(['ant', 'bee', 'asp']) == {'a': ['ant', 'asp'], 'b': ['bee']}",
            "assert by_initial([]) == {}",
        ],
    ),
    _example(
        "returns the n-th Fibonacci number, the 0th being 0, and raises ValueError below 0",
        "fibonacci",
        "def fibonacci(n):\n    if n < 0:\n        raise ValueError('n must not be negative')\n    low, high = 0, 1\n"
        "    for _ in range(n):\n        low, high = high, low + high\n    return low",
        [
            "assert fibonacci(0) == 0",
            "assert [fibonacci(n) for n in range(1, 8)] == [1, 1, 2, 3, 5, 8, 13]",
            "assert fibonacci(90) == 2880067194370816120",
            "try:\n    fibonacci(-1)\nexcept ValueError:\n    pass\nelse:\n    raise AssertionError('no error')",
        ],
    ),
    _example(
        "sorts a list of pairs in place by their second members, greatest first",
        "sort_pairs",
        "def sort_pairs(pairs):\n    pairs.sort(key=lambda pair: pair[1], reverse=True)",
        [
            "pairs = [('a', 1), ('b', 3), ('c', 2)]\nsort_pairs(pairs)\n"
            "assert pairs == [('b', 3), ('c', 2), ('a', 1)]",
            "pairs = []\nsort_pairs(pairs)\nassert pairs == []",
        ],
    ),
    _example(
        "returns the distance between two points of the plane",
        "distance",
        "import math\n\n\ndef distance(first, second):\n    return math.dist(first, second)",
        ["assert math.isclose(distance((0, 0), (3, 4)), 5)", "assert distance((1, 1), (1, 1)) == 0"],
    ),
    _example(
        "",
        "trim_mean",
        "    kept = sorted(numbers)[cut : len(numbers) - cut]\n    return mean(kept)\n",
        [
            "def check(candidate):\n    assert candidate([1, 2, 3, 100, -50], 1) == 2\n"
            "    assert candidate([4, 8], 0) == mean([4, 8])\n"
        ],
        "from typing import List\n\n\n"
        "def mean(numbers: List[float]) -> float:\n    return sum(numbers) / len(numbers)"
        "\n\n\n"
        "def trim_mean(numbers: List[float], cut: int) -> float:\n"
        '    """Return the mean of the numbers without the cut smallest and the cut greatest."""\n',
    ),
    _example(
        "",
        "flatten",
        "    flat = []\n    for item in nested:\n        if isinstance(item, list):\n"
        "            flat.extend(flatten(item))\n"
        "        else:\n            flat.append(item)\n    return flat\n",
        [
            "def check(candidate):\n    assert candidate([1, [2, [3]], []]) == [1, 2, 3]\n"
            "    assert candidate([]) == []\n",
            ">>> flatten([[0], [[1]]])\n[0, 1]\n",
        ],
        'def flatten(nested):\n    """Return the items of nested lists as one list.\n\n'
        "    >>> flatten([[4], 5])\n    [4, 5]\n"
        '    """\n',
    ),
]
