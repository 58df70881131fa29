"""The reward contract, enforced: one finite number or None per row, and an error that names reward, row and reason."""

import functools
import inspect
import math
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from reward_models._text import completion_text
from rlgen.errors import RewardError

Reward = Callable[..., Any]

# What TRL passes beside the rows' columns; these are not split by row.
_NOT_COLUMNS = ("trainer_state", "log_extra", "log_metric", "environments")


class CheckedReward:
    """A reward function that either keeps the contract or raises a `RewardError`.

    It has the wrapped function's name, takes whatever TRL passes, and can be pickled when the function can.
    """

    def __init__(self, function: Reward, name: str | None = None) -> None:
        self.function = function
        self.__name__ = name or reward_name(function)

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float | None]:
        """Score the rows.

        Args:
            prompts: one per row, plain or conversational.
            completions: one per row, likewise.
            columns: the dataset's other columns, one value per row, and TRL's extras.

        Returns:
            One float per row, None where the reward does not apply.

        Raises:
            RewardError: the function raised, or broke the contract.
        """
        try:
            output = self.function(prompts=prompts, completions=completions, **columns)
        except RewardError:
            raise
        except Exception as error:
            row = _failing_row(self.function, prompts, completions, columns)
            raise _raised(self.__name__, self.function, error, row, columns) from error
        return self.contract(output, len(prompts), columns)

    def contract(self, output: Any, rows: int, columns: Mapping[str, Any]) -> list[Any]:
        """What the function returned for some rows and columns as the contract has it, or `RewardError`."""
        return contract_floats(self.__name__, output, rows)


class AsyncCheckedReward(CheckedReward):
    """`CheckedReward` for a coroutine function: TRL recognises it as async and runs it beside others."""

    async def __call__(  # type: ignore[override]
        self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any
    ) -> list[float | None]:
        """Score the rows, as `CheckedReward` does."""
        try:
            output = await self.function(prompts=prompts, completions=completions, **columns)
        except RewardError:
            raise
        except Exception as error:
            # Rows are not tried one by one: an async reward usually asks a service, which may bill each call.
            raise _raised(self.__name__, self.function, error, None, columns) from error
        return self.contract(output, len(prompts), columns)


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
        output: what the function returned: a list, tuple, array or tensor.
        rows: how many values are due.

    Raises:
        RewardError: not a sequence, wrong length, or a value that is no finite number.
    """
    if isinstance(output, (str, bytes, Mapping)) or not isinstance(output, Iterable):
        raise RewardError(
            f"reward '{name}' returned {type(output).__name__}; return a list with one number or None per completion"
        )
    try:
        values = list(output)
    except TypeError as error:  # a tensor without dimensions claims to be iterable
        raise RewardError(f"reward '{name}' returned a single value; return a list with one per completion") from error
    if len(values) != rows:
        raise RewardError(
            f"reward '{name}' returned {len(values)} values for {rows} completions; return exactly one per completion"
        )
    return [_contract_float(name, value, row) for row, value in enumerate(values)]


def check_rewards(
    functions: Sequence[CheckedReward],
    rows: Iterable[Mapping[str, Any]],
    tokenize: Callable[[str], Sequence[int]] = lambda _: [0],
) -> None:
    """Dry run on the first two rows with their reference completions, so that errors surface before long work.

    Args:
        functions: what `load_rewards` or `load_token_rewards` returned.
        rows: dataset rows with `prompt` and, if known, `completion`; other columns are passed on.
        tokenize: token ids of a completion's text, for rewards that read them; by default a stand-in.

    Raises:
        RewardError: a function raised or broke the contract.
    """
    from transformers import TrainerState

    from rlgen.rewards.compose import call_reward

    sample = [dict(row) for _, row in zip(range(2), rows, strict=False)]
    if not sample:
        return
    prompts = [row["prompt"] for row in sample]
    completions = [row["completion"] if "completion" in row else _stand_in(row) for row in sample]
    columns: dict[str, Any] = {
        key: [row[key] for row in sample] for key in sample[0] if key not in ("prompt", "completion", "completion_ids")
    }
    columns["completion_ids"] = [list(tokenize(completion_text(completion))) for completion in completions]
    columns["trainer_state"] = TrainerState()
    columns["log_extra"] = columns["log_metric"] = _ignore
    for function in functions:
        call_reward(function, prompts, completions, **columns)


def _ignore(*_: Any) -> None:
    return None


def _stand_in(row: Mapping[str, Any]) -> Any:
    text = str(row.get("reference", "A sentence."))
    return text if isinstance(row["prompt"], str) else [{"role": "assistant", "content": text}]


def _contract_float(name: str, value: Any, row: int) -> float | None:
    if value is None:
        return None
    try:
        number = float("not a number" if isinstance(value, (str, bytes)) else value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise RewardError(
            f"reward '{name}' returned {_short(value)} ({type(value).__name__}) for row {row}; "
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
    function: Reward, prompts: Sequence[Any], completions: Sequence[Any], columns: Mapping[str, Any]
) -> int | None:
    """Index of the first row that fails on its own; None if no single row does."""
    rows = len(prompts)
    for row in range(rows):
        one_row = {
            key: [value[row]]
            if key not in _NOT_COLUMNS and isinstance(value, (list, tuple)) and len(value) == rows
            else value
            for key, value in columns.items()
        }
        try:
            function(prompts=[prompts[row]], completions=[completions[row]], **one_row)
        except Exception:
            return row
    return None


def _raised(name: str, function: Reward, error: Exception, row: int | None, columns: Mapping[str, Any]) -> RewardError:
    where = [] if row is None else [f"row {row}"]
    where += _user_line(function, error)
    reason = f"{type(error).__name__}: {_short(error)}"
    place = f" ({', '.join(where)})" if where else ""
    hint = ""
    if isinstance(error, TypeError) and "argument" in str(error):
        hint = f"; it gets prompts, completions, {', '.join(columns)}: accept **kwargs and ask for columns that exist"
    return RewardError(f"reward '{name}' raised {reason}{place}{hint}", row=row)


def _user_line(function: Reward, error: Exception) -> list[str]:
    """File and line inside the function's own file where the error passed, as a list of one or none."""
    target: Any = inspect.unwrap(function)
    code = getattr(target, "__code__", None) or getattr(type(target).__call__, "__code__", None)
    if code is None:
        return []
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == code.co_filename]
    return [f"{Path(frames[-1].filename).name}:{frames[-1].lineno}"] if frames else []


def _short(value: Any, limit: int = 200) -> str:
    text = " ".join((repr(value) if isinstance(value, (str, bytes)) else str(value)).split())
    return text if len(text) <= limit else text[: limit - 3] + "..."
