"""Rewards for generated code: ordered examples, properties, the examples that ship, and ways to fool them."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reward_models import code_generation as rewards
from reward_models.sandbox import SandboxUnavailable, available_isolation

ALL = {**rewards.REWARDS, "composite": rewards.composite}
COLUMNS = ("tests", "entry_point", "code_prompt", "test_setup")
ROW = rewards.EXAMPLES[3]  # is_palindrome
TESTS, NAME = ROW["tests"], ROW["entry_point"]
GOOD = ROW["completion"]


@pytest.fixture(scope="module", autouse=True)
def _sandbox() -> Iterator[None]:
    rewards.configure_sandbox(workers=1, wall_seconds=1.5, cpu_seconds=1, memory_mb=64)
    yield
    rewards.configure_sandbox()


@pytest.fixture
def _isolated() -> None:
    if available_isolation() is None:
        pytest.skip("this machine has neither user namespaces nor bubblewrap to isolate code with")


def score(name: str, *completions: Any, **columns: Any) -> list[float | None]:
    given_columns = {"tests": TESTS, "entry_point": NAME, **columns}
    return ALL[name](completions=list(completions), **{k: [v] * len(completions) for k, v in given_columns.items()})


@pytest.mark.usefixtures("_isolated")
@pytest.mark.parametrize("name", ALL)
def test_references_get_full_marks(name: str) -> None:
    columns = {column: [row[column] for row in rewards.EXAMPLES] for column in COLUMNS}
    completions = [row["completion"] for row in rewards.EXAMPLES]
    prompts = [row["prompt"] for row in rewards.EXAMPLES]
    scores = ALL[name](prompts=prompts, completions=completions, completion_ids=[[1]] * len(prompts), **columns)
    assert scores == [pytest.approx(1.0)] * len(prompts)
    # Each alone, and in another order, gives the same.
    backward = {column: values[::-1] for column, values in columns.items()}
    assert ALL[name](completions=completions[::-1], **backward) == scores[::-1]
    chat = [[{"role": "assistant", "content": text}] for text in completions]
    assert ALL[name](completions=chat, **columns) == scores


@pytest.mark.usefixtures("_isolated")
def test_another_tasks_answer_passes_nothing() -> None:
    count = len(rewards.EXAMPLES)
    columns = {column: [row[column] for row in rewards.EXAMPLES] for column in COLUMNS}
    moved = [rewards.EXAMPLES[(index + 3) % count]["completion"] for index in range(count)]
    assert all((value or 0.0) < 0.2 for value in rewards.composite(completions=moved, **columns))


TYPE_CHECKED = "def is_palindrome(text):\n    assert isinstance(text, str)\n    return text == text[::-1]"
# Each list goes from best to worst, strictly.
ORDERED = {
    "parses": [GOOD, "def is_palindrome(text): return"[:-7]],
    "passes_tests": [
        GOOD,
        TYPE_CHECKED,  # minds case and spaces: 3 of 4
        "def is_palindrome(text): return True",  # 2 of 4
        "def is_palindrome(text): return None",
    ],
    "code_style": [
        GOOD,
        "def is_palindrome(text):\n    l = [x for x in text if x.isalpha()]; unused = 1\n    return l == l[::-1]",
        "from re import *\ndef is_palindrome(Text, list=[]):\n    try:\n        return eval('Text') == None\n"
        "    except:\n        pass",
        "def is_palindrome(text):",
    ],
    "composite": [
        GOOD,
        "def is_palindrome(text):\n    try:\n        text = [x for x in text.lower() if x.isalpha()]\n"
        "    except: pass\n    return text == text[::-1]",
        TYPE_CHECKED,
        "def is_palindrome(text): return True",
        "def is_palindrome(text): return 0 / 0",
        "I cannot write that function.",
    ],
}


@pytest.mark.usefixtures("_isolated")
@pytest.mark.parametrize("name", ORDERED)
def test_better_code_scores_higher(name: str) -> None:
    scores = [value or 0.0 for value in score(name, *ORDERED[name])]
    assert all(better > worse for better, worse in itertools.pairwise(scores)), scores


@pytest.mark.usefixtures("_isolated")
def test_the_composite_is_its_documented_sum() -> None:
    assert sum(rewards.WEIGHTS.values()) == pytest.approx(1.0)
    assert set(rewards.WEIGHTS) == set(rewards.REWARDS)
    completions = ORDERED["composite"]
    parts = {name: score(name, *completions) for name in rewards.REWARDS}
    for row, total in enumerate(score("composite", *completions)):
        part = {name: values[row] or 0.0 for name, values in parts.items()}
        gate = part["passes_tests"] == 1.0
        by_hand = 0.8 * part["passes_tests"] + 0.1 * part["parses"] + (0.1 * part["code_style"] if gate else 0.0)
        assert total == pytest.approx(by_hand)


@pytest.mark.usefixtures("_isolated")
@pytest.mark.parametrize(
    "hack",
    [
        "import os\nos._exit(0)",
        "raise SystemExit(0)",
        "def is_palindrome(text): raise SystemExit(0)",
        "class A:\n    def __eq__(self, o): return True\n    def __bool__(self): return True\n"
        "def is_palindrome(text): return A()",
        "import builtins\nbuiltins.AssertionError = Exception\ndef is_palindrome(text): return None",
        "def is_palindrome(text):\n    while True: pass",
        "def is_palindrome(text): return is_palindrome(text)",
        "def is_palindrome(text): return input()",
        "\n".join(TESTS),
        "assert is_palindrome('') is True",
        "def check(*_): return True\ndef is_palindrome(text): pass",
        "is_palindrome = None",
        "print('def is_palindrome(text): ...')",
        "",
        " \n",
        "```python\n```",
        "is_palindrome " * 500,
        "def is_palindrome(text):\n    ...\n" * 800,
        "def is_p\u0430lindrome(text): return True",
        "这是一个函数。",
        "Write a Python function `is_palindrome`.",
        "x = " + "-" * 15_000 + "1",
        "x = " + "[" * 15_000,
        "x = '\ud800'",
        "x = 1\0",
    ],
)
def test_hacks_earn_next_to_nothing(hack: str) -> None:
    (value,) = score("composite", hack)
    assert value is not None
    assert value <= 0.1


@pytest.mark.usefixtures("_isolated")
def test_constants_and_tables_earn_only_their_share() -> None:
    table = "def is_palindrome(text): return {'Never odd, or even': True}.get(text, False)"
    (value,) = score("passes_tests", table)
    assert value == 0.75
    assert (score("composite", table)[0] or 0.0) < 0.71


@pytest.mark.parametrize("name", ["parses", "code_style"])
@settings(max_examples=60, deadline=None)
@given(
    text=st.one_of(
        st.text(max_size=80),
        st.lists(
            st.sampled_from(
                ["def f(x):", "\n", "    ", "return x", "```", "python", "(", "if x:", "lambda: 0", "\t", ";"]
            ),
            max_size=15,
        ).map("".join),
    )
)
def test_any_text_has_a_score(name: str, text: str) -> None:
    (value,) = ALL[name](completions=[text])
    assert value is not None
    assert math.isfinite(value)
    assert 0.0 <= value <= 1.0
    assert ALL[name](completions=[text]) == [value]


@pytest.mark.usefixtures("_isolated")
@settings(max_examples=6, deadline=None)
@given(st.lists(st.sampled_from([GOOD, "", *ORDERED["passes_tests"], "def is_palindrome(t): 1/0"]), max_size=5))
def test_a_row_is_scored_alone(batch: list[str]) -> None:
    assert score("passes_tests", *batch) == [score("passes_tests", text)[0] for text in batch]


def test_rows_without_tests_are_not_graded() -> None:
    for tests in (None, [], ""):
        assert score("passes_tests", GOOD, tests=tests) == [None]
        assert score("composite", GOOD, tests=tests) == [None]


@pytest.mark.usefixtures("_isolated")
def test_unfit_tests() -> None:
    with pytest.raises(ValueError, match="SyntaxError"):
        score("passes_tests", GOOD, tests=["assert ("])
    with pytest.raises(ValueError, match="no_such_package"):
        score("passes_tests", GOOD, test_setup="import no_such_package")
    apply = "def apply(function): return function(1)"
    assert score("passes_tests", apply, tests=["assert apply(lambda x: x) == 1"], entry_point="apply") == [None]


@pytest.mark.usefixtures("_isolated")
def test_humaneval_and_mbpp_shapes() -> None:
    signature = "def area(radius: float) -> float:\n"
    prompt = f'import math\n\n{signature}    """Area of a circle.\n\n    >>> area(0)\n    0.0\n    """\n'
    check = "METADATA = {}\n\n\ndef check(candidate):\n    assert abs(candidate(1) - math.pi) < 1e-6\n"
    columns = {"tests": check, "entry_point": "area", "code_prompt": prompt}
    body = "    return math.pi * radius**2\n"
    whole = f"Sure:\n```python\n{prompt}{body}```\nThat is it."
    wrong = "    return math.pi * radius\n    # " + "x" * 20
    assert score("passes_tests", body, whole, **columns) == [1.0, 1.0]
    assert score("passes_tests", wrong, "    return 3.2\n", **columns) == [1.0, 0.0]
    # The helpers of the prompt are not the model's to replace.
    cheat = "    return 0.0\n\ndef abs(x): return 0\nclass math:\n    pi = 0\n"
    assert score("passes_tests", cheat, **columns) == [0.0]
    assert score("parses", body, "    return (", "", **columns) == [1.0, 0.0, 0.0]


def test_extracting_code() -> None:
    assert rewards.extract_code("x = 1") == "x = 1"
    assert rewards.extract_code("a\n```python\nx = 1\n```\nb") == "x = 1\n"
    assert rewards.extract_code("```\nx = 1") == "x = 1"
    assert rewards.extract_code("~~~py\nx = 1\n~~~") == "x = 1\n"
    several = "```bash\nls\n```\n```python\nx = 1\n```\n```python\ndef f(): pass\n```"
    assert rewards.extract_code(several) == "x = 1\n"
    assert rewards.extract_code(several, "f") == "def f(): pass\n"


@pytest.mark.parametrize(
    ("fault", "clean"),
    [
        ("try:\n    f()\nexcept:\n    g()", "try:\n    f()\nexcept ValueError:\n    g()"),
        ("try:\n    f()\nexcept ValueError:\n    pass", "try:\n    f()\nexcept ValueError:\n    g()"),
        ("from os import *\nf()", "from os import path\nf(path)"),
        ("import os\nf()", "import os\nf(os)"),
        ("def f(value=[]):\n    return value", "def f(value=()):\n    return value"),
        ("f(value == None)", "f(value is None)"),
        ("f(eval('1'))", "f(int('1'))"),
        ("def f():\n    global value\n    value = 1\n    g(value)", "def f():\n    value = 1\n    g(value)"),
        ("def f():\n    list = g()\n    return list", "def f():\n    items = g()\n    return items"),
        ("def F():\n    return 1", "def f():\n    return 1"),
        ("class thing:\n    value = 1", "class Thing:\n    value = 1"),
        ("def f():\n    unused = 1\n    return 2", "def f():\n    used = 1\n    return used"),
        ("def f():\n    badName = 1\n    return badName", "def f():\n    good_name = 1\n    return good_name"),
        ("def f():\n    return 1\n    g()", "def f():\n    g()\n    return 1"),
        ("x = 1; y = 2", "x = 1\ny = 2"),
        ("def f():\n\treturn 1", "def f():\n    return 1"),
        ("value = '" + "x" * 100 + "'", "value = '" + "x" * 50 + "'"),
        ("def f():\n" + "    g()\n" * 90, "def f():\n" + "    g()\n" * 40),
        (
            "for i in f():\n" + "\n".join(" " * n + f"if i > {n}:" for n in range(1, 7)) + "\n" + " " * 8 + "g()",
            "for i in f():\n    if i > 1:\n        g()",
        ),
    ],
)
def test_faults_of_style(fault: str, clean: str) -> None:
    low, high = rewards.code_style(completions=[fault, clean])
    assert (low or 0.0) < 0.95
    assert high == 1.0
    assert (low or 0.0) > 0.0


def test_equality_with_one_is_no_fault() -> None:
    assert rewards.code_style(completions=["def f(number):\n    return number == 1"]) == [1.0]


def test_without_isolation_the_reward_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    class Worker:
        def __init__(self, settings: object) -> None:
            raise OSError("no namespaces")

    rewards.configure_sandbox(workers=1)
    monkeypatch.setattr("reward_models.sandbox._pool.Worker", Worker)
    with pytest.raises(SandboxUnavailable, match="cannot be isolated"):
        score("passes_tests", GOOD)
    rewards.configure_sandbox(workers=1, wall_seconds=1.5, cpu_seconds=1, memory_mb=64)


def test_hostile_code_does_not_hold_up_what_reads_it() -> None:
    begin = time.monotonic()
    hostile = ["```\n" * 4000, "x = " + "(" * 19_000, "`" * 20_000, "def f(" * 3000, "\\" * 20_000, "f'{" * 6000]
    rewards.parses(completions=hostile)
    rewards.code_style(completions=hostile)
    assert time.monotonic() - begin < 10


def test_the_module_is_light_and_starts_nothing() -> None:
    check = (
        "import sys, reward_models.code_generation as c; "
        "heavy = [name for name in ('torch', 'numpy', 'doctest') if name in sys.modules]; "
        "sys.exit(heavy or c.default_sandbox.cache_info().currsize)"
    )
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
