"""The contract of token-level rewards: what passes, and one clear line for everything that does not."""

import asyncio
import itertools
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from rlgen.errors import RewardError
from rlgen.rewards import CheckedTokenReward, call_reward, check_rewards, checked_tokens, load_token_rewards

IDS = [[5, 6, 7], [8]]
FILE = """
def ones(prompts, completions, completion_ids, **columns):
    return [[1.0] * len(ids) for ids in completion_ids]

def too_long(prompts, completions, completion_ids, **columns):
    return [[1.0] * (len(ids) + 1) for ids in completion_ids]
"""


def position(prompts, completions, completion_ids, **_):
    return [list(range(len(ids))) for ids in completion_ids]


async def async_position(prompts, completions, completion_ids, **_):
    await asyncio.sleep(0)
    return position(prompts, completions, completion_ids)


def returns(value):
    def reward(prompts, completions, completion_ids, **_):
        return value

    return reward


def call(function):
    return call_reward(checked_tokens(function), ["a", "b"], ["x", "y"], completion_ids=IDS)


@pytest.mark.parametrize("function", [position, async_position])
def test_plain_and_async_functions_give_lists_of_floats(function):
    assert call(function) == [[0.0, 1.0, 2.0], [0.0]]
    assert all(type(value) is float for row in call(function) for value in row)


def test_it_is_wrapped_once_keeps_its_name_and_can_be_pickled():
    wrapped = checked_tokens(position)
    assert checked_tokens(wrapped) is wrapped
    assert wrapped.__name__ == "position"
    assert isinstance(pickle.loads(pickle.dumps(wrapped)), CheckedTokenReward)


@pytest.mark.parametrize(
    "output",
    [
        [[1, True, 0.5], None],
        (np.array([1.0, 1.0, 0.5], dtype=np.float32), None),
        [torch.tensor([1.0, 1.0, 0.5]), None],
        iter([[1, 1, 0.5], None]),
        [(value for value in (1, 1, 0.5)), None],
    ],
)
def test_what_counts_as_numbers_becomes_floats(output):
    assert call(returns(output)) == [[1.0, 1.0, 0.5], None]


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (None, "token reward 'reward' returned NoneType; return a list of numbers or None per completion"),
        ("abc", "token reward 'reward' returned str"),
        (torch.tensor(1.0), "returned a single value"),
        ({(1.0, 1.0, 0.5), None}, "token reward 'reward' returned set"),
        ([{1.0, 2.0, 3.0}, None], "row 0, returned set; return a list with one number per token"),
        (itertools.repeat(None), "returned repeat with more than 2 values"),
        ([itertools.repeat(1.0), None], "row 0, returned repeat with more than 3 values"),
        ([[1.0] * 3], "returned 1 rows for 2 completions"),
        ([[1.0] * 3, 2.0], "token reward 'reward', row 1, returned float; return a list with one number per token"),
        ([[1.0] * 3, []], "returned 0 values for row 1, whose completion has 1 tokens"),
        ([[1.0, 2.0], [1.0]], "returned 2 values for row 0, whose completion has 3 tokens"),
        ([[1.0, float("nan"), 2.0], [1.0]], "returned nan for token 1 of row 0; return finite numbers"),
        ([[1.0] * 3, [float("inf")]], "returned inf for token 0 of row 1"),
        ([[1.0] * 3, ["1.0"]], "something other than numbers for row 1"),
        ([[1.0] * 3, [None]], "something other than numbers for row 1"),
    ],
)
def test_a_broken_contract_is_one_line_that_names_reward_and_row(output, message):
    with pytest.raises(RewardError, match=message) as caught:
        call(returns(output))
    assert "\n" not in str(caught.value)


def test_an_exception_is_reported_with_the_row():
    def fails(prompts, completions, completion_ids, **_):
        return [[1.0 / (token - 8) for token in ids] for ids in completion_ids]

    with pytest.raises(RewardError, match=r"reward 'fails' raised ZeroDivisionError: .* \(row 1, test_tokens.py:"):
        call(fails)


def test_they_are_loaded_by_file_or_module_and_get_names_of_their_own(tmp_path: Path):
    (tmp_path / "mine.py").write_text(FILE)
    (tmp_path / "other.py").write_text(FILE)
    functions = load_token_rewards([f"{tmp_path}/mine.py:ones", f"{tmp_path}/other.py:ones"])
    assert [function.__name__ for function in functions] == ["ones", "ones_2"]
    assert call(functions[0]) == [[1.0] * 3, [1.0]]
    assert load_token_rewards(None) == []
    with pytest.raises(RewardError, match=r"unknown token reward pep257; give path/to/file\.py:function"):
        load_token_rewards(["pep257"])
    with pytest.raises(RewardError, match=r"no function 'one'.*did you mean ones"):
        load_token_rewards([f"{tmp_path}/mine.py:one"])


def test_the_dry_run_gives_them_the_tokens_of_the_completions(tmp_path: Path):
    (tmp_path / "mine.py").write_text(FILE)
    seen = []

    def spy(prompts, completions, completion_ids, **_):
        seen.extend(completion_ids)
        return [[0.0] * len(ids) for ids in completion_ids]

    rows = [{"prompt": "a", "completion": "abc"}, {"prompt": "b", "completion": "d"}]
    check_rewards([checked_tokens(spy)], rows, lambda text: [ord(letter) for letter in text])
    assert seen[:2] == [[97, 98, 99], [100]]
    assert all(seen), "an empty completion has the token that ends it"
    with pytest.raises(RewardError, match="too_long"):
        check_rewards(load_token_rewards([f"{tmp_path}/mine.py:too_long"]), rows)
