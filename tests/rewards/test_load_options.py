"""Options from a configuration file, functions of one row, and rewards of other libraries by name."""

import asyncio
import functools
import pickle
import sys

import pytest

from rlgen.errors import RewardError
from rlgen.rewards import call_reward, load_reward
from rlgen.rewards.adapters import AsyncRowReward, RowReward, adapted
from rlgen.rewards.check import CheckedReward

SOURCE = """
import asyncio
import functools

def near(completions, target=3, *, scale=1.0, **kwargs):
    return [-abs(len(c) - target) * scale for c in completions]

def make(word, bonus=1.0):
    def reward(completions, **kwargs):
        return [bonus * (word in c) for c in completions]
    return reward

def plain():
    return near

def nothing(word):
    return word

class Counts:
    def __init__(self, letter, **more):
        if len(letter) != 1:
            raise ValueError("one letter, please")
        self.letter = letter
    def __call__(self, completions, **kwargs):
        return [c.count(self.letter) for c in completions]

def exact(completion, answer, **kwargs) -> float:
    return float(completion == answer)

async def slow_exact(prompt, completion, answer, state):
    await asyncio.sleep(0.01)
    assert state["answer"] == answer and state["prompt"] == prompt
    return None if answer is None else float(completion == answer)

def parsed(completion, parser, strict=False):
    return float(parser(completion)) + strict

def fails(completion, answer):
    return 1 / (completion != "bad")

def batched(function):
    @functools.wraps(function)
    def every(completions, **kwargs):
        return [function(c) for c in completions]
    return every

@batched
def letters(completion):
    return len(completion)
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(SOURCE)
    return path


def test_parameters_of_a_function_are_its_options(file):
    reward = load_reward(f"{file}:near", options={"target": 1, "scale": 0.5})
    assert reward.__name__ == "near"
    assert reward(["p"], ["abc"], target=["a column"]) == [-1.0]  # the option, not a column of its name
    assert pickle.loads(pickle.dumps(reward))(["p"], ["abc"]) == [-1.0]
    assert load_reward(f"{file}:near", options={})(["p"], ["abc"]) == [0.0]


def test_what_makes_a_reward_gets_its_options(file):
    assert load_reward(f"{file}:make", options={"word": "x", "bonus": 2})(["p"], ["xy"]) == [2.0]
    assert load_reward(f"{file}:plain", options={})(["p"], ["abc"]) == [0.0]
    assert load_reward(f"{file}:Counts", options={"letter": "a"})(["p"], ["banana"]) == [3.0]
    reward = load_reward(
        "trl.rewards:get_soft_overlong_punishment", options={"max_completion_len": 4, "soft_punish_cache": 2}
    )
    assert call_reward(reward, ["p"] * 3, ["c"] * 3, completion_ids=[[1], [1] * 3, [1] * 9]) == [0.0, -0.5, -1.0]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("near", {"targt": 1}, "mine.py:near has no option 'targt': did you mean target?"),
        ("near", {"completions": []}, "no option 'completions'"),
        ("make", {"word": "x", "bonsu": 1}, "no option 'bonsu': did you mean bonus?"),
        ("make", {}, "cannot be made from its options: TypeError"),
        ("make", None, "makes a reward and is none itself; give its options"),
        ("Counts", {"letter": "ab"}, "cannot be made from its options: ValueError: one letter, please"),
        ("Counts", None, "is a class"),
        ("nothing", {"word": "x"}, "made a str from its options"),
        ("exact", {"answre": 1}, "did you mean answer?"),
    ],
)
def test_wrong_options_are_one_clear_line(file, name, options, message):
    with pytest.raises(RewardError) as caught:
        load_reward(f"{file}:{name}", options=options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_options_of_a_reward_model_are_checked_before_it_is_loaded(tmp_path):
    (tmp_path / "config.json").write_text('{"architectures": ["LlamaForSequenceClassification"]}')
    with pytest.raises(RewardError, match="no option 'batchsize': did you mean batch_size"):
        load_reward(str(tmp_path), options={"batchsize": 2})


def test_functions_of_one_row_as_verifiers_has_them(file):
    rows = {"prompts": ["p", "q", "r"], "completions": ["a", "b", "c"], "answer": ["a", "x", None]}
    extras = {"completion_ids": [[1], [2], [3]], "log_metric": print, "trainer_state": object()}
    assert load_reward(f"{file}:exact")(**rows, **extras) == [1.0, 0.0, 0.0]
    reward = load_reward(f"{file}:slow_exact")
    assert isinstance(reward.function, AsyncRowReward)
    assert call_reward(reward, **rows, **extras) == [1.0, 0.0, None]
    assert pickle.loads(pickle.dumps(load_reward(f"{file}:exact")))(**rows) == [1.0, 0.0, 0.0]


def test_rows_are_asked_beside_each_other(file):
    reward = load_reward(f"{file}:slow_exact").function

    async def timed():
        started = asyncio.get_running_loop().time()
        await reward(["p"] * 50, ["a"] * 50, answer=["a"] * 50)
        return asyncio.get_running_loop().time() - started

    assert asyncio.run(timed()) < 0.4


def test_what_no_column_has_is_asked_for_or_given_as_an_option(file):
    reward = load_reward(f"{file}:parsed")
    with pytest.raises(RewardError, match="'parsed' asks for 'parser', which no column has"):
        reward(["p"], ["1"])
    assert load_reward(f"{file}:parsed", options={"parser": int, "strict": True})(["p"], ["1"]) == [2.0]


def test_a_failing_row_is_named_with_the_users_line(file):
    with pytest.raises(RewardError, match=r"'fails' raised ZeroDivisionError.*\(row 1, mine.py:\d+\)"):
        load_reward(f"{file}:fails")(["p"] * 2, ["good", "bad"], answer=["a", "b"])


def test_a_decorator_that_makes_it_a_reward_of_a_batch_is_believed(file):
    assert load_reward(f"{file}:letters")(["p"] * 2, ["a", "bcd"]) == [1.0, 3.0]


def test_rewards_of_a_batch_stay_as_they_are():
    def trl(completions, **kwargs):
        return [0.0]

    def passes_on(*args, **kwargs):
        return trl(*args, **kwargs)

    def row(completion, length=2):
        return float(len(completion) > length)

    assert adapted(trl) is trl
    assert adapted(passes_on) is passes_on
    checked = CheckedReward(trl)
    assert adapted(checked) is checked
    assert isinstance(adapted(functools.partial(row, length=3)), RowReward)
    assert adapted(functools.partial(row, length=3))(["p"], ["abc"]) == [0.0]


def test_reasoning_gyms_scorers(monkeypatch):
    gym = pytest.importorskip("reasoning_gym")
    items = [gym.create_dataset(name, size=1, seed=3)[0] for name in ("basic_arithmetic", "word_sorting")]
    right = [item["answer"] for item in items]
    columns = {"answer": right, "metadata": [item["metadata"] for item in items]}
    reward = load_reward("reasoning_gym")  # whichever each row comes from
    assert reward(["p"] * 2, [f"I think <answer> {a} </answer>" for a in right], **columns) == [1.0, 1.0]
    scores = reward(["p"] * 2, [f"<answer>{right[0]}</answer><answer>17.5</answer>", "nope"], **columns)
    assert all(score < 0.5 for score in scores)
    import json

    one = load_reward("reasoning_gym:basic_arithmetic", options={"threshold": 0.5})
    assert one.__name__ == "basic_arithmetic"
    text = [json.dumps(items[0]["metadata"]), None]
    assert one(["p"] * 2, [right[0], "x"], answer=right, metadata=text) == [1.0, None]
    monkeypatch.setattr("rlgen.rewards.adapters._scorer", lambda name: lambda answer, entry: float(answer))
    assert one(["p"] * 3, ["0.05", "0.5", "1"], answer=["1"] * 3, metadata=[{}] * 3) == [0.0, 0.5, 1.0]
    monkeypatch.undo()
    with pytest.raises(RewardError, match="no dataset 'basic_arithmetik': did you mean basic_arithmetic"):
        load_reward("reasoning_gym:basic_arithmetik")
    with pytest.raises(RewardError, match="no option 'treshold': did you mean threshold"):
        load_reward("reasoning_gym:basic_arithmetic", options={"treshold": 1})
    with pytest.raises(RewardError, match="has no 'source_dataset'"):
        reward(["p"], ["x"], answer=["x"], metadata=[{}])
    monkeypatch.setitem(sys.modules, "reasoning_gym.factory", None)
    with pytest.raises(RewardError, match=r"pip install 'rlgen\[rewards\]'"):
        load_reward("reasoning_gym:word_ladder")
