"""The reward contract, enforced: one finite number or None per row, and an error that names reward, row and reason."""

import asyncio
import contextlib
import functools
import inspect
import itertools
import math
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence, Set, Sized
from pathlib import Path
from typing import Any

from reward_models._text import completion_text
from rlgen.errors import RewardError
from rlgen.rewards.timeout import OverdueError, call_within

Reward = Callable[..., Any]

# What TRL passes beside the rows' columns; these are not split by row.
NOT_COLUMNS = ("trainer_state", "log_extra", "log_metric", "environments")


class CheckedReward:
    """A reward function that either keeps the contract or raises a `RewardError`.

    It has the wrapped function's name, takes whatever TRL passes, and can be pickled when the function can.

    Args:
        function: the reward.
        name: under which it is logged; its own by default.
        timeout: seconds that one call may take, None for any; see `rlgen.rewards.timeout` for what it can stop.
    """

    def __init__(self, function: Reward, name: str | None = None, *, timeout: float | None = None) -> None:
        self.function = function
        self.__name__ = name or reward_name(function)
        self.timeout = timeout

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float | None]:
        """Score the rows.

        Args:
            prompts: one per row, plain or conversational.
            completions: one per row, likewise.
            columns: the dataset's other columns, one value per row, and TRL's extras.

        Returns:
            One float per row, None where the reward does not apply.

        Raises:
            RewardError: the function raised, took too long, or broke the contract; says which row and shows it.
        """

        def scored() -> list[float | None]:
            output = self.function(prompts=prompts, completions=completions, **columns)
            return self._contract(output, prompts, completions, columns)

        try:
            return scored() if self.timeout is None else call_within(self.timeout, scored)
        except RewardError:
            raise
        except (Exception, SystemExit) as error:  # a reward must not end the run without a word
            row = _failing_row(self, prompts, completions, columns)
            raise _raised(self, error, row, prompts, completions, columns) from error
        except OverdueError as error:
            row = _hanging_row(self, prompts, completions, columns)
            raise _raised(self, error, row, prompts, completions, columns) from error

    def contract(self, output: Any, rows: int, columns: Mapping[str, Any]) -> list[Any]:
        """What the function returned for some rows and columns as the contract has it, or `RewardError`."""
        return contract_floats(self.__name__, output, rows)

    def _contract(
        self, output: Any, prompts: Sequence[Any], completions: Sequence[Any], columns: Mapping[str, Any]
    ) -> list[Any]:
        try:
            return self.contract(output, len(prompts), columns)
        except RewardError as error:
            if error.row is None:
                raise
            raise RewardError(f"{error}{shown_row(error.row, prompts, completions)}", row=error.row) from error


class AsyncCheckedReward(CheckedReward):
    """`CheckedReward` for a coroutine function: TRL recognises it as async and runs it beside others."""

    async def __call__(  # type: ignore[override]
        self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any
    ) -> list[float | None]:
        """Score the rows, as `CheckedReward` does."""
        began = time.monotonic()
        try:
            output = await asyncio.wait_for(
                self.function(prompts=prompts, completions=completions, **columns), self.timeout
            )
            return self._contract(output, prompts, completions, columns)
        except RewardError:
            raise
        except (Exception, SystemExit) as error:
            # Rows are not tried one by one: an async reward usually asks a service, which may bill each call.
            late = isinstance(error, TimeoutError) and time.monotonic() - began >= (self.timeout or math.inf)
            reason = OverdueError(self.timeout or 0.0) if late else error
            raise _raised(self, reason, None, prompts, completions, columns) from error


def checked(function: Reward, name: str | None = None) -> CheckedReward:
    """Wrap `function` once; async functions stay async."""
    if isinstance(function, CheckedReward):
        return function
    return (AsyncCheckedReward if is_async(function) else CheckedReward)(function, name)


def is_async(function: Reward) -> bool:
    """Whether calling `function` gives a coroutine (functions, partials, and objects with an async `__call__`)."""
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def reward_name(function: Reward) -> str:
    """The name under which a reward is logged."""
    while isinstance(function, functools.partial):
        function = function.func
    return str(getattr(function, "__name__", type(function).__name__))


def contract_floats(name: str, output: Any, rows: int) -> list[float | None]:
    """Turn a reward's output into floats and None.

    Args:
        name: the reward's name, for messages.
        output: what the function returned: a list, tuple, array, tensor, or an iterator such as a generator.
        rows: how many values are due.

    Raises:
        RewardError: nothing with an order, wrong length, or a value that is no finite number.
    """
    values = listed(f"reward '{name}'", output, rows, "a list with one number or None per completion")
    if len(values) != rows:
        raise RewardError(
            f"reward '{name}' returned {len(values)} values for {rows} completions; return exactly one per completion"
        )
    return [_contract_float(name, value, row) for row, value in enumerate(values)]


def listed(who: str, output: Any, limit: int, wanted: str) -> list[Any]:
    """Turn what a reward returned into a list, of any length.

    Args:
        who: the reward, for messages.
        output: what it returned; the body of a generator runs here.
        limit: how many values an iterator may have, which could go on forever.
        wanted: what it should return, for messages.

    Raises:
        RewardError: nothing with an order, or a longer iterator.
    """
    if isinstance(output, (str, bytes, Mapping, Set)) or not isinstance(output, Iterable):
        raise RewardError(f"{who} returned {type(output).__name__}; return {wanted}")
    try:
        values = iter(output)
    except TypeError as error:  # a tensor without dimensions claims to be iterable
        raise RewardError(f"{who} returned a single value; return {wanted}") from error
    if isinstance(output, Sized):
        return list(values)
    found = list(itertools.islice(values, limit + 1))
    if len(found) > limit:
        raise RewardError(f"{who} returned {type(output).__name__} with more than {limit} values; return {wanted}")
    return found


def check_rewards(
    functions: Sequence[CheckedReward],
    rows: Iterable[Mapping[str, Any]],
    tokenize: Callable[[str], Sequence[int]] = lambda _: [0],
    *,
    probe: bool = True,
) -> None:
    """Try rewards on the first two rows with their reference completions, so that errors surface before long work.

    Args:
        functions: what `load_rewards` or `load_token_rewards` returned.
        rows: dataset rows with `prompt` and, if known, `completion`; other columns are passed on.
        tokenize: token ids of a completion's text, for rewards that read them; by default a stand-in.
        probe: also ask again, in another order, row by row, and about odd completions, as long as that is cheap; see
            `rlgen.rewards.probes.probe_quickly`.

    Raises:
        RewardError: a function raised or broke the contract.
    """
    from rlgen.rewards.probes import Batch, ask, probe_quickly

    sample = [dict(row) for _, row in zip(range(2), rows, strict=False)]
    if not sample:
        return
    batch = Batch.of_rows(sample, tokenize)
    for function in functions:
        began = time.monotonic()
        scores = ask(function, batch)
        # An async reward usually asks a service, which may bill each call.
        if probe and not is_async(function):
            probe_quickly(function, batch, scores, time.monotonic() - began)


def shown_row(row: int, prompts: Sequence[Any], completions: Sequence[Any]) -> str:
    """The prompt and completion of a row, shortened, to be added to a message."""
    try:
        prompt, completion = completion_text(prompts[row]), completion_text(completions[row])
    except Exception:  # not of the form that rows have; the reward's complaint counts, not ours
        prompt, completion = str(prompts[row]), str(completions[row])
    return f"; prompt {shortened(prompt, 80)}, completion {shortened(completion, 80)}"


def shortened(value: Any, limit: int = 200) -> str:
    """A value on one line, in quotes if it is text, of at most `limit` characters."""
    return without_middle(" ".join((repr(value) if isinstance(value, (str, bytes)) else str(value)).split()), limit)


def without_middle(text: str, limit: int) -> str:
    """Beginning and end of a text, since prompts of one task begin alike; at most `limit` characters."""
    half = (limit - 5) // 2
    return text if len(text) <= limit else f"{text[:half]} ... {text[-half:]}"


def _contract_float(name: str, value: Any, row: int) -> float | None:
    if value is None:
        return None
    try:
        number = float("not a number" if isinstance(value, (str, bytes)) else value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise RewardError(
            f"reward '{name}' returned {shortened(value)} ({type(value).__name__}) for row {row}; "
            "return a number, or None where it does not apply",
            row=row,
        ) from error
    if not math.isfinite(number):
        raise RewardError(
            f"reward '{name}' returned {number} for row {row}; "
            "return a finite number, or None where it does not apply",
            row=row,
        )
    return number


def _failing_row(
    reward: CheckedReward, prompts: Sequence[Any], completions: Sequence[Any], columns: Mapping[str, Any]
) -> int | None:
    """Index of the first row that fails on its own; None if no single row does."""
    for row in range(len(prompts)):
        try:
            _ask_row(reward, one_row(row, prompts, completions, columns))
        except (Exception, SystemExit):
            return row
    return None


def _ask_row(reward: CheckedReward, arguments: dict[str, Any]) -> None:
    """Call a reward as its wrapper does, whether or not it keeps the contract: a generator runs when it is read."""
    with contextlib.suppress(RewardError):
        reward.contract(reward.function(**arguments), 1, arguments)


def _hanging_row(
    reward: CheckedReward, prompts: Sequence[Any], completions: Sequence[Any], columns: Mapping[str, Any]
) -> int | None:
    """Index of a row that takes most of one more timeout on its own; None if no single row does."""
    at = [0, time.monotonic()]

    def each() -> None:
        for row in range(len(prompts)):
            at[:] = row, time.monotonic()
            with contextlib.suppress(Exception):
                _ask_row(reward, one_row(row, prompts, completions, columns))

    seconds = reward.timeout or 0.0
    try:
        call_within(seconds, each)
    except OverdueError:
        return int(at[0]) if time.monotonic() - at[1] > seconds / 2 else None
    return None


def one_row(
    row: int, prompts: Sequence[Any], completions: Sequence[Any], columns: Mapping[str, Any]
) -> dict[str, Any]:
    """The keyword arguments of a reward for one row of a batch."""
    rows = len(prompts)
    own = {
        key: [value[row]]
        if key not in NOT_COLUMNS and isinstance(value, (list, tuple)) and len(value) == rows
        else value
        for key, value in columns.items()
    }
    return {"prompts": [prompts[row]], "completions": [completions[row]], **own}


def _raised(
    reward: CheckedReward,
    error: BaseException,
    row: int | None,
    prompts: Sequence[Any],
    completions: Sequence[Any],
    columns: Mapping[str, Any],
) -> RewardError:
    where = [] if row is None else [f"row {row}"]
    where += _user_line(reward.function, error)
    late = isinstance(error, OverdueError)
    reason = str(error) if late else f"raised {type(error).__name__}: {shortened(error)}"
    place = f" ({', '.join(where)})" if where else ""
    hint = ""
    if isinstance(error, TypeError) and "argument" in str(error):
        hint = f"; it gets prompts, completions, {', '.join(columns)}: accept **kwargs and ask for columns that exist"
    elif late:
        hint = (
            f" for {len(prompts)} completions; make it faster, or allow more time (--reward_timeout of ppo, --timeout "
        )
        hint += "of reward check)"
    shown = "" if row is None else shown_row(row, prompts, completions)
    return RewardError(f"reward '{reward.__name__}' {reason}{place}{hint}{shown}", row=row)


def _user_line(function: Reward, error: BaseException) -> list[str]:
    """File and line inside the function's own file where the error passed, as a list of one or none."""
    target: Any = inspect.unwrap(function)
    code = getattr(target, "__code__", None) or getattr(type(target).__call__, "__code__", None)
    if code is None:
        return []
    running = getattr(error, "frame", None)
    stack = traceback.extract_stack(running) if running else traceback.extract_tb(error.__traceback__)
    frames = [frame for frame in stack if frame.filename == code.co_filename]
    return [f"{Path(frames[-1].filename).name}:{frames[-1].lineno}"] if frames else []
