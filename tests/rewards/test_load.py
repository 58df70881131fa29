"""Rewards by name: files, modules, short names, entry points, models; and what is said when a name is wrong."""

import json
import pickle
import subprocess
import sys
from importlib.metadata import EntryPoint, EntryPoints
from types import SimpleNamespace

import pytest

from rlgen.errors import ConfigError, RewardError
from rlgen.rewards import load, load_reward, load_rewards
from rlgen.rewards.check import AsyncCheckedReward

SOURCE = """
from helper import UNIT

def politeness(completions, **kwargs):
    return [UNIT * ("please" in completion) for completion in completions]

def brevity(completions, **kwargs):
    return [-float(len(completion)) for completion in completions]

async def slow(completions, **kwargs):
    return [0.0 for _ in completions]

class Judge:
    def __call__(self, completions, **kwargs):
        return [1.0 for _ in completions]

judge = Judge()
LIMIT = 3
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "helper", raising=False)
    (tmp_path / "helper.py").write_text("UNIT = 2.0\n")
    path = tmp_path / "my_rewards.py"
    path.write_text(SOURCE)
    yield path
    sys.modules.pop("helper", None)


@pytest.fixture
def task():
    def grounded(completions, **kwargs):
        return [0.5 for _ in completions]

    return SimpleNamespace(
        name="toy", reward_functions={"grounded": grounded, "plain": grounded}, rewards={"grounded": 2.0, "plain": 1.0}
    )


def complaint(name, **kwargs):
    with pytest.raises(RewardError) as caught:
        load_reward(name, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_function_in_a_file_with_a_module_beside_it(file):
    reward = load_reward(f"{file}:politeness")
    assert reward.__name__ == "politeness"
    assert reward(["p", "p"], ["please", "no"]) == [2.0, 0.0]
    assert load_reward(f"{file}:judge")(["p"], ["c"]) == [1.0]
    assert isinstance(load_reward(f"{file}:slow"), AsyncCheckedReward)
    assert pickle.loads(pickle.dumps(reward))(["p"], ["please"]) == [2.0]


def test_a_file_named_relative_to_the_working_folder(file, monkeypatch):
    monkeypatch.chdir(file.parent)
    assert load_reward("my_rewards.py:brevity")(["p"], ["abc"]) == [-3.0]
    assert load_reward("./my_rewards.py:brevity")(["p"], ["abc"]) == [-3.0]


def test_two_functions_of_a_file_share_one_module_and_a_changed_file_is_read_anew(file):
    one, two = load_reward(f"{file}:politeness"), load_reward(f"{file}:brevity")
    assert one.function.__globals__ is two.function.__globals__
    file.write_text("def brevity(completions, **kwargs):\n    return [7.0 for _ in completions]\n")
    assert load_reward(f"{file}:brevity")(["p"], ["abc"]) == [7.0]


def test_files_of_one_name_do_not_meet(tmp_path):
    for folder, value in (("a", 1.0), ("b", 2.0)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same.py").write_text(f"def score(completions, **_):\n    return [{value}]\n")
    a, b = (load_reward(f"{tmp_path}/{folder}/same.py:score") for folder in "ab")
    assert (a(["p"], ["c"]), b(["p"], ["c"])) == ([1.0], [2.0])


def test_a_function_of_a_module_installed_or_in_the_working_folder(file, monkeypatch):
    monkeypatch.chdir(file.parent)
    assert load_reward("my_rewards:brevity")(["p"], ["ab"]) == [-2.0]
    assert load_reward("trl.rewards:think_format_reward").__name__ == "think_format_reward"
    sys.modules.pop("my_rewards", None)


def test_short_names_of_the_task_come_before_trl(task):
    assert load_reward("grounded", task=task)(["p"], ["c"]) == [0.5]
    reward = load_reward("think_format_reward")
    assert reward(["p"], [[{"role": "assistant", "content": "<think>a</think>b"}]]) == [1.0]
    task.reward_functions["think_format_reward"] = task.reward_functions["grounded"]
    assert load_reward("think_format_reward", task=task)(["p"], ["c"]) == [0.5]


def test_entry_points_of_installed_packages(file, monkeypatch):
    monkeypatch.chdir(file.parent)
    monkeypatch.syspath_prepend(str(file.parent))
    entries = EntryPoints([EntryPoint("polite", "my_rewards:politeness", "rlgen.rewards")])
    monkeypatch.setattr(load, "entry_points", lambda **query: entries.select(**query))
    assert load_reward("polite")(["p"], ["please"]) == [2.0]
    assert "did you mean polite?" in complaint("polit")
    broken = EntryPoints([EntryPoint("polite", "my_rewards:missing", "rlgen.rewards")])
    monkeypatch.setattr(load, "entry_points", lambda **query: broken.select(**query))
    assert "reward 'polite' of an installed package cannot be imported: AttributeError" in complaint("polite")
    sys.modules.pop("my_rewards", None)


def test_missing_file_and_missing_function_suggest_the_nearest(file):
    assert "did you mean my_rewards.py?" in complaint(f"{file.parent}/my_reward.py:politeness")
    assert "there is no reward file" in complaint("/nowhere/at_all.py:politeness")
    message = complaint(f"{file}:politness")
    assert "has no function 'politness' (did you mean politeness?)" in message
    assert "it has: brevity, judge, politeness, slow" in message
    assert "it defines none" in complaint(f"{file.parent}/helper.py:score")
    assert "is a class; give a function" in complaint(f"{file}:Judge")
    assert "is no function but of type int" in complaint(f"{file}:LIMIT")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import os\nx = undefined_name\n", "NameError: name 'undefined_name' is not defined (bad.py, line 2)"),
        ("def f(:\n    pass\n", "SyntaxError: invalid syntax (bad.py, line 1)"),
        ("\n\nimport no_such_thing\n", "ModuleNotFoundError: No module named 'no_such_thing' (bad.py, line 3)"),
        ("import json\njson.loads('{')\n", "(bad.py, line 2)"),
        ("raise SystemExit(3)\n", "SystemExit: 3 (bad.py, line 1)"),
    ],
)
def test_an_error_inside_the_users_file_names_its_line(tmp_path, source, expected):
    path = tmp_path / "bad.py"
    path.write_text(source)
    for _ in range(2):  # a failed import leaves nothing half made behind
        message = complaint(f"{path}:f")
        assert "bad.py cannot be imported" in message
        assert expected in message


def test_missing_modules(file, monkeypatch):
    assert "there is no module no_such_module" in complaint("no_such_module:f")
    assert "there is no module trl.nothing" in complaint("trl.nothing:f")
    monkeypatch.chdir(file.parent)
    (file.parent / "needs.py").write_text("import absent_dependency\n")
    assert "needs cannot be imported: no module named absent_dependency" in complaint("needs:f")
    (file.parent / "fails.py").write_text("1 / 0\n")
    assert "fails cannot be imported: ZeroDivisionError: division by zero (fails.py, line 1)" in complaint("fails:f")


def test_unknown_names_list_what_there_is(task, tmp_path, monkeypatch):
    near = complaint("ground", task=task)
    assert "did you mean grounded?" in near
    assert "known: " not in near  # the list is long
    message = complaint("xyzzy", task=task)
    assert "known: " in message
    assert "grounded" in message
    assert "think_format_reward" in message
    assert "add :function" in complaint("rewards/my.py")
    assert "no such folder" in complaint("./runs/missing")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    assert "no such folder" in complaint("runs/rewrd")


def test_folders_that_are_no_reward_model(tmp_path):
    assert "holds no model" in complaint(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    assert "is no reward model but LlamaForCausalLM" in complaint(str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    assert "not valid JSON" in complaint(str(tmp_path))
    (tmp_path / "adapter_config.json").write_text(json.dumps({"task_type": "CAUSAL_LM"}))
    assert "is no reward model but CAUSAL_LM" in complaint(str(tmp_path))


def test_several_rewards_with_weights(file, task):
    names = [f"{file}:politeness", "grounded"]
    functions, weights = load_rewards(names, [0.5, 2], task)
    assert [function.__name__ for function in functions] == ["politeness", "grounded"]
    assert weights == [0.5, 2.0]
    assert load_rewards(names, None, task)[1] == [1.0, 1.0]


def test_the_task_gives_the_default_mix(task):
    functions, weights = load_rewards(None, None, task)
    assert len(functions) == 2
    assert weights == [2.0, 1.0]
    assert load_rewards([], [3.0, 4.0], task)[1] == [3.0, 4.0]


def test_rewards_of_one_name_are_logged_apart(tmp_path, task):
    functions, _ = load_rewards(None, None, task)
    assert [function.__name__ for function in functions] == ["grounded", "grounded_2"]


@pytest.mark.parametrize(
    ("names", "weights", "complaint"),
    [
        (["grounded"], [1.0, 2.0], "2 reward weights for 1 rewards"),
        (None, [1.0], "1 reward weights for 2 rewards"),
        (["grounded", "grounded"], None, "named twice"),
        (["grounded"], [float("nan")], "finite"),
    ],
)
def test_names_and_weights_that_do_not_fit(task, names, weights, complaint):
    with pytest.raises(ConfigError, match=complaint):
        load_rewards(names, weights, task)


def test_no_reward_at_all():
    with pytest.raises(ConfigError, match="give --reward"):
        load_rewards(None, None, None)


def test_importing_the_package_brings_no_torch():
    code = "import sys, rlgen.rewards; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
