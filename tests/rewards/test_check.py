"""The contract of a reward: what passes, and one clear line for everything that does not."""

import asyncio
import inspect
import itertools
import logging
import math
import pickle
import random
import re
import sys
import threading
import time
from collections import deque
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from trl.trainer.utils import get_callable_name, is_async_callable

from rlgen.errors import RewardError
from rlgen.rewards import CheckedReward, call_reward, check_rewards, checked

PROMPTS = ["a", "b", "c"]
COMPLETIONS = ["x", "yy", "zzz"]


def length(completions, **kwargs):
    return [float(len(completion)) for completion in completions]


async def async_length(completions, **kwargs):
    await asyncio.sleep(0)
    return length(completions)


def returns(value):
    def reward(completions, **kwargs):
        return value

    return reward


class Callable:
    def __call__(self, completions, **kwargs):
        return length(completions)


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ([1, 2.5, None], [1.0, 2.5, None]),
        ((True, False, 0), [1.0, 0.0, 0.0]),
        (np.array([1.0, 2.0, 3.0], dtype=np.float32), [1.0, 2.0, 3.0]),
        ([np.float64(1), np.int64(2), np.bool_(True)], [1.0, 2.0, 1.0]),
        (torch.tensor([1.0, 2.0, 3.0]), [1.0, 2.0, 3.0]),
        ([torch.tensor(1.0), torch.tensor([2.0]), 3], [1.0, 2.0, 3.0]),
        ((value for value in (1, 2, 3)), [1.0, 2.0, 3.0]),
        (map(float, (1, 2, 3)), [1.0, 2.0, 3.0]),
        ({"a": 1, "b": 1, "c": 3}.values(), [1.0, 1.0, 3.0]),
        (deque([1, None, 3]), [1.0, None, 3.0]),
    ],
)
def test_what_counts_as_numbers_becomes_floats(output, expected):
    scores = checked(returns(output))(PROMPTS, COMPLETIONS)
    assert scores == expected
    assert all(value is None or type(value) is float for value in scores)


@pytest.mark.parametrize(
    ("output", "complaint"),
    [
        ([1.0, 2.0], "returned 2 values for 3 completions"),
        ([1.0] * 4, "returned 4 values for 3 completions"),
        ([0.0, float("nan"), 0.0], "returned nan for row 1"),
        ([0.0, 0.0, float("-inf")], "returned -inf for row 2"),
        ([0.0, "0.5", 0.0], "returned '0.5' (str) for row 1"),
        ([[1.0], 0.0, 0.0], "(list) for row 0"),
        ([torch.zeros(2), 0.0, 0.0], "(Tensor) for row 0"),
        ([1j, 0.0, 0.0], "(complex) for row 0"),
        (None, "returned NoneType"),
        (1.0, "returned float"),
        (torch.tensor(1.0), "returned a single value"),
        ("abc", "returned str"),
        ({0: 1.0, 1: 1.0, 2: 1.0}, "returned dict"),
        ({1.0, 2.0, 3.0}, "returned set"),  # which has no order
        (frozenset((1.0, 2.0, 3.0)), "returned frozenset"),
        ((value for value in (1.0, 2.0)), "returned 2 values for 3 completions"),
        ((value for value in (1.0, 2.0, "3")), "returned '3' (str) for row 2"),
        (itertools.repeat(1.0), "returned repeat with more than 3 values"),
    ],
)
def test_a_broken_contract_is_one_line_with_name_and_row(output, complaint):
    with pytest.raises(RewardError) as caught:
        checked(returns(output))(PROMPTS, COMPLETIONS)
    message = str(caught.value)
    assert complaint in message
    assert "'reward'" in message
    assert "\n" not in message
    row = re.search(r"row (\d)", message)
    if row:
        assert f"; prompt '{PROMPTS[int(row[1])]}', completion '{COMPLETIONS[int(row[1])]}'" in message
        assert caught.value.row == int(row[1])


async def generates_without_end(completions, **kwargs):
    while True:
        yield 1.0


def test_an_async_generator_is_refused():
    with pytest.raises(RewardError, match="'generates_without_end' returned async_generator; return a list"):
        checked(generates_without_end)(PROMPTS, COMPLETIONS)


def test_an_exception_in_a_generator_names_its_row_and_line():
    def lazy(completions, **kwargs):
        for completion in completions:
            if completion == "yy":
                raise TypeError("no twins")
            yield 1.0

    async def later(completions, **kwargs):
        return lazy(completions)

    with pytest.raises(
        RewardError, match=r"'lazy' raised TypeError: no twins \(row 1, test_check\.py:\d+\)"
    ) as caught:
        checked(lazy)(PROMPTS, COMPLETIONS)
    assert "prompt 'b', completion 'yy'" in str(caught.value)
    assert caught.value.row == 1
    with pytest.raises(RewardError, match="'later' raised TypeError: no twins"):
        asyncio.run(checked(later)(PROMPTS, COMPLETIONS))


def test_a_generator_that_takes_too_long_is_stopped_and_its_row_found():
    def lazy(completions, **kwargs):
        for completion in completions:
            while completion == "yy":
                pass
            yield 1.0

    reward = checked(lazy)
    reward.timeout = 0.3
    with pytest.raises(RewardError, match=r"\(row 1, test_check\.py:\d+\)"):
        reward(PROMPTS, COMPLETIONS)


def test_an_exception_names_type_message_row_and_line():
    def fragile(completions, word, **kwargs):
        return [1 / (len(completion) - expected) for completion, expected in zip(completions, word, strict=True)]

    line = inspect.getsourcelines(fragile)[1] + 1
    with pytest.raises(RewardError) as caught:
        checked(fragile)(PROMPTS, COMPLETIONS, word=[9, 2, 9])
    assert f"reward 'fragile' raised ZeroDivisionError: float division by zero (row 1, test_check.py:{line})" in str(
        caught.value
    ) or f"raised ZeroDivisionError: division by zero (row 1, test_check.py:{line})" in str(caught.value)


def test_an_exception_of_the_whole_batch_names_no_row():
    def needs_two(completions, **kwargs):
        if len(completions) > 1:
            raise ValueError("one at a time,\nplease")
        return [0.0]

    with pytest.raises(RewardError, match="raised ValueError: one at a time, please ") as caught:
        checked(needs_two)(PROMPTS, COMPLETIONS)
    assert "row" not in str(caught.value)


def test_a_missing_column_lists_the_columns_there_are():
    def wants(completions, answer):
        return [0.0 for _ in completions]

    with pytest.raises(RewardError, match=r"raised TypeError.*it gets prompts, completions, reference"):
        checked(wants)(PROMPTS, COMPLETIONS, reference=["r"] * 3)


@pytest.mark.parametrize("function", [async_length, partial(async_length, extra=1)])
def test_async_rewards_stay_async_for_trl_and_are_checked(function):
    reward = checked(function)
    assert is_async_callable(reward)
    assert call_reward(reward, PROMPTS, COMPLETIONS) == [1.0, 2.0, 3.0]

    async def broken(completions, **kwargs):
        return [float("nan")] * len(completions)

    with pytest.raises(RewardError, match="'broken' returned nan for row 0"):
        call_reward(checked(broken), PROMPTS, COMPLETIONS)

    async def raises(completions, **kwargs):
        raise RuntimeError("no answer")

    with pytest.raises(RewardError, match="'raises' raised RuntimeError: no answer"):
        call_reward(checked(raises), PROMPTS, COMPLETIONS)


def test_async_rewards_can_be_called_inside_a_running_loop():
    async def notebook():
        return call_reward(async_length, PROMPTS, COMPLETIONS)

    assert asyncio.run(notebook()) == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("function", "name"), [(length, "length"), (partial(length, extra=1), "length"), (Callable(), "Callable")]
)
def test_names_are_those_that_trl_logs(function, name):
    reward = checked(function)
    assert reward.__name__ == name == get_callable_name(reward)
    assert not is_async_callable(reward)
    assert reward(PROMPTS, COMPLETIONS) == [1.0, 2.0, 3.0]


def test_wrapping_twice_changes_nothing_and_pickling_keeps_the_reward():
    reward = checked(length)
    assert checked(reward) is reward
    copy = pickle.loads(pickle.dumps(reward))
    assert isinstance(copy, CheckedReward)
    assert (copy.__name__, copy(PROMPTS, COMPLETIONS)) == ("length", [1.0, 2.0, 3.0])
    assert is_async_callable(pickle.loads(pickle.dumps(checked(async_length))))


def test_everything_trl_passes_reaches_the_function():
    seen = {}

    def spy(**kwargs):
        seen.update(kwargs)
        return [0.0] * 3

    checked(spy)(prompts=PROMPTS, completions=COMPLETIONS, completion_ids=[[1]] * 3, column=[1, 2, 3], trainer_state=7)
    assert seen == {
        "prompts": PROMPTS,
        "completions": COMPLETIONS,
        "completion_ids": [[1]] * 3,
        "column": [1, 2, 3],
        "trainer_state": 7,
    }


@given(st.lists(st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False, width=32), st.booleans())))
def test_valid_outputs_pass_unchanged(values):
    scores = checked(returns(values))([""] * len(values), [""] * len(values))
    assert scores == values


ROWS = [
    {"prompt": [{"role": "user", "content": "q"}], "completion": [{"role": "assistant", "content": "r"}], "code": "c"},
    {
        "prompt": [{"role": "user", "content": "q2"}],
        "completion": [{"role": "assistant", "content": "s"}],
        "code": "d",
    },
    {
        "prompt": [{"role": "user", "content": "q3"}],
        "completion": [{"role": "assistant", "content": "t"}],
        "code": "e",
    },
]


def test_the_dry_run_gives_two_rows_as_training_will():
    def spy(prompts, completions, completion_ids, code, trainer_state, log_extra, log_metric):
        log_metric("seen", 1.0)
        log_extra("seen", ["a", "b"])
        assert prompts == [row["prompt"] for row in ROWS[:2]]
        assert completions == [row["completion"] for row in ROWS[:2]]
        assert code == ["c", "d"]
        assert len(completion_ids) == 2
        assert trainer_state.global_step == 0
        return [0.0, None]

    check_rewards([checked(spy)], ROWS, probe=False)


@pytest.mark.parametrize("row", [{"prompt": "q"}, {"prompt": [{"role": "user", "content": "q"}], "reference": "r"}])
def test_the_dry_run_needs_no_reference(row):
    seen = []

    def spy(prompts, completions, **kwargs):
        seen.extend(completions)
        return [0.0]

    check_rewards([checked(spy)], [row])
    assert isinstance(seen[0], type(row["prompt"]))


def test_the_dry_run_finds_what_training_would_find_late():
    def broken(completions, **kwargs):
        return [float("inf")] * len(completions)

    check_rewards([checked(broken)], [])  # nothing to try it on
    with pytest.raises(RewardError, match="'broken' returned inf"):
        check_rewards([checked(length), checked(broken)], [{"prompt": "q", "completion": "r"}])


def test_the_input_of_a_bad_row_is_shown_and_shortened():
    prompts = [[{"role": "user", "content": "first " * 100}], [{"role": "user", "content": "second"}]]
    completions = [[{"role": "assistant", "content": "line one\nline two"}], [{"role": "assistant", "content": "b"}]]

    def raises(completions, **kwargs):
        raise ValueError("no")

    with pytest.raises(RewardError) as caught:
        checked(raises)(prompts, completions)
    assert "prompt 'first first" in str(caught.value)
    assert "completion 'line one\\nline two'" in str(caught.value)
    assert len(str(caught.value)) < 400


# Time limit


def stuck_on(word, wait):
    def reward(completions, **kwargs):
        for completion in completions:
            if completion == word:
                wait()
        return [0.0] * len(completions)

    return reward


def spin():
    while True:
        pass


def slow_pattern():
    re.fullmatch(r"(a+)+b", "a" * 40)


def swallow():
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            time.sleep(60)
        except Exception:
            continue


@pytest.mark.skipif(sys.platform == "win32", reason="alarm signals")
@pytest.mark.parametrize("wait", [spin, slow_pattern, swallow, lambda: time.sleep(60)])
def test_a_reward_that_hangs_is_named_with_row_and_line(wait):
    reward = CheckedReward(stuck_on("yy", wait), timeout=0.3)
    began = time.monotonic()
    with pytest.raises(RewardError) as caught:
        reward(PROMPTS, COMPLETIONS)
    assert time.monotonic() - began < 10
    message = str(caught.value)
    assert re.search(r"reward 'reward' took longer than 0.3 s \(row 1, test_check.py:\d+\) for 3 completions", message)
    assert message.endswith("; prompt 'b', completion 'yy'")
    assert caught.value.row == 1
    assert reward(["a"], ["x"]) == [0.0], "the next call is as good as ever"


def test_a_slow_batch_without_a_slow_row_names_no_row():
    def slow(completions, **kwargs):
        time.sleep(0.1 * len(completions))
        return [0.0] * len(completions)

    reward = CheckedReward(slow, timeout=0.5)
    with pytest.raises(RewardError, match=r"took longer than 0.5 s \(test_check.py:\d+\) for 8 completions") as caught:
        reward(["q"] * 8, ["c"] * 8)
    assert caught.value.row is None


def test_the_time_limit_works_in_a_thread():
    stop = threading.Event()
    reward = CheckedReward(stuck_on("yy", lambda: stop.wait(20)), timeout=0.3)
    caught = []

    def work():
        try:
            reward(PROMPTS, COMPLETIONS)
        except RewardError as error:
            caught.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(10)
    stop.set()
    assert caught[0].row == 1
    assert "test_check.py:" in str(caught[0])


def test_the_time_limit_of_an_async_reward():
    async def asks(completions, **kwargs):
        await asyncio.sleep(60)

    reward = checked(asks)
    reward.timeout = 0.1
    with pytest.raises(RewardError, match=r"'asks' took longer than 0\.1 s"):
        call_reward(reward, PROMPTS, COMPLETIONS)

    async def own_timeout(completions, **kwargs):
        raise TimeoutError("the service did not answer")

    reward = checked(own_timeout)
    reward.timeout = 5
    with pytest.raises(RewardError, match="raised TimeoutError: the service did not answer"):
        call_reward(reward, PROMPTS, COMPLETIONS)


def test_a_reward_in_time_is_not_touched():
    reward = CheckedReward(length, timeout=5)
    assert reward(PROMPTS, COMPLETIONS) == [1.0, 2.0, 3.0]
    assert pickle.loads(pickle.dumps(reward)).timeout == 5

    def raises(completions, **kwargs):
        raise ValueError("mine")

    with pytest.raises(RewardError, match="raised ValueError: mine"):
        CheckedReward(raises, timeout=5)(PROMPTS, COMPLETIONS)


# The fast form of the harness

TEXT_ROWS = [{"prompt": "q", "completion": "a long answer"}, {"prompt": "p", "completion": "short"}]


def test_a_sound_reward_passes_the_fast_form():
    calls = []

    def counted(completions, **kwargs):
        calls.append(list(completions))
        return length(completions)

    check_rewards([checked(counted)], TEXT_ROWS)
    assert ["short", "a long answer"] in calls
    assert ["short"] in calls
    assert ["", ""] in calls


def dice(completions, **kwargs):
    return [random.random() for _ in completions]


def place(completions, **kwargs):
    return [float(i) for i in range(len(completions))]


def greedy(completions, **kwargs):
    scores = length(completions)
    completions.clear()
    return scores


def no_blanks(completions, **kwargs):
    return [1 / len(completion.split()) for completion in completions]


def no_letters(completions, **kwargs):
    return [math.log(completion.count("a") + completion.count("o")) for completion in completions]


def ascii_only(completions, **kwargs):
    return [float(len(completion.encode("ascii"))) for completion in completions]


@pytest.mark.parametrize(
    ("function", "complaint"),
    [
        (dice, "'dice' is not reproducible: the same call twice"),
        (place, "'place' is not reproducible: with the rows in another order"),
        (no_blanks, "'no_blanks' raised ZeroDivisionError: .*row 0.*completion ''"),
        (no_letters, "'no_letters' raised ValueError: .*completion ''"),
        (ascii_only, "'ascii_only' raised UnicodeEncodeError"),
    ],
)
def test_the_fast_form_finds_what_a_dry_run_does_not(function, complaint):
    check_rewards([checked(function)], TEXT_ROWS, probe=False)
    with pytest.raises(RewardError, match=complaint):
        check_rewards([checked(function)], TEXT_ROWS)


@pytest.mark.parametrize("probe", [False, True])
def test_a_reward_that_changes_what_others_get_is_refused(probe):
    with pytest.raises(RewardError, match="'greedy' changes the prompts, completions or columns"):
        check_rewards([checked(greedy)], TEXT_ROWS, probe=probe)


def test_the_fast_form_warns_of_rewards_that_compare_rows(caplog):
    def share(completions, **kwargs):
        total = sum(length(completions))
        return [value / total if total else 0.0 for value in length(completions)]

    with caplog.at_level(logging.WARNING, logger="rlgen"):
        check_rewards([checked(share)], TEXT_ROWS)
    assert "'share' scores row 1 differently alone than in a batch" in caplog.text


def test_the_fast_form_is_cheap_for_slow_and_paid_rewards():
    calls = []

    def slow(completions, **kwargs):
        calls.append(len(completions))
        time.sleep(0.6)
        return length(completions)

    check_rewards([checked(slow)], TEXT_ROWS)
    assert len(calls) <= 4

    async def paid(completions, **kwargs):
        calls.append(len(completions))
        return length(completions)

    calls.clear()
    check_rewards([checked(paid)], TEXT_ROWS)
    assert calls == [2]
