"""Finding a task by name or by file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rlgen.data import check_disjoint
from rlgen.errors import ConfigError, DataError
from rlgen.tasks import SPLITS, get_task, register_task, task_names

OWN_TASK = """
from datasets import Dataset
from rlgen.data import conversational
from rlgen.tasks import Task


def polite(completions, **_):
    return [float("please" in str(completion)) for completion in completions]


def build(source=None):
    rows = Dataset.from_list(
        [{"prompt": conversational("Ask for tea."), "completion": conversational(source)}]
    )
    rewards = {"polite": polite}
    return Task("tea", "Ask politely.", lambda name, max_rows=None: rows, {"polite": 1.0}, rewards, {}, 32, 8)
"""


def test_known_tasks() -> None:
    assert "docstring" in task_names()
    task = get_task("docstring")
    assert (task.name, task.max_prompt_tokens, task.max_completion_tokens) == ("docstring", 256, 32)
    assert set(task.rewards) <= set(task.reward_functions)
    assert sum(task.rewards.values()) == pytest.approx(1.0)
    assert "rouge_l" in task.metrics
    assert "rouge_l" not in task.rewards
    assert len(SPLITS) == 5


def test_unknown_task_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown task 'docstrings' .*did you mean 'docstring'"):
        get_task("docstrings")


def test_a_name_is_registered_once() -> None:
    register_task("docstring", "rlgen.tasks.docstring")
    with pytest.raises(ConfigError, match="already registered"):
        register_task("docstring", "elsewhere")


def test_a_task_file_is_a_real_module(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("NAME = 'tea'\n")
    path = tmp_path / "tea.py"
    path.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom beside import NAME\n"
        "from rlgen.tasks import Task\n\n@dataclass\nclass Leaf:\n    name: str\n\n"
        "def build(source):\n    return Task(NAME, NAME, lambda *_: None, {}, {}, {}, 8, 8)\n"
    )
    assert get_task(str(path)).name == "tea"


def test_own_task_file(tmp_path: Path) -> None:
    path = tmp_path / "tea.py"
    path.write_text(OWN_TASK)
    task = get_task(str(path), "Tea, please.")
    assert task.split("rl")[0]["completion"][0]["content"] == "Tea, please."
    assert task.reward_functions["polite"](completions=["please"]) == [1.0]


def test_the_task_that_the_docs_show_works(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text(encoding="utf-8")
    example = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert example is not None
    (tmp_path / "sums.py").write_text(example[1])
    task = get_task(str(tmp_path / "sums.py"))
    splits = {name: task.split(name) for name in SPLITS}
    check_disjoint(splits)
    rows = splits["rl"]
    correct = task.reward_functions["correct"]
    assert correct(completions=rows["completion"], total=rows["total"]) == [1.0] * len(rows)
    assert correct(completions=rows["completion"], total=[-1] * len(rows)) == [0.0] * len(rows)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("x = 1", r"has no function build\(source\)"),
        ("def build(source): return 1", "returned int, not"),
        ("import nothing_here", "ModuleNotFoundError"),
        ("def build(source): raise ValueError('no tea')", r"bad_task.py: build\(source\) raised ValueError: no tea"),
        ("def build(): return 1", r"bad_task.py: build\(source\) raised TypeError: .*takes 0 positional arguments"),
    ],
)
def test_bad_task_files(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "bad_task.py"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        get_task(str(path))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("def split(name): return 1", r"split\('rl', 2\) raised TypeError: .*takes 1 positional argument"),
        ("def split(name, count): return {}['question']", r"split\('rl', 2\) raised KeyError: 'question'"),
        ("def split(name, count): return [{'prompt': 'Tea?'}]", r"gave list, not datasets.Dataset: take Dataset.from"),
        ("def split(name, count): return Dataset.from_list([])", r"split\('rl', 2\) gave no rows"),
        ("def split(name, count): return Dataset.from_list([{'text': 'Tea?'}])", "without a column prompt; found: te"),
    ],
)
def test_bad_splits_of_a_task_file_are_named(tmp_path: Path, body: str, message: str) -> None:
    path = tmp_path / "tea.py"
    path.write_text(
        f"from datasets import Dataset\nfrom rlgen.tasks import Task\n{body}\ndef build(source):\n"
        "    return Task('tea', 'Tea.', split, {}, {}, {}, 64, 64)\n"
    )
    with pytest.raises(DataError, match=message):
        get_task(str(path)).split("rl", 2)


def test_missing_task_file() -> None:
    with pytest.raises(ConfigError, match="no such file"):
        get_task("nowhere.py")
