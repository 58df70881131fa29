"""Rewards of single tokens: the contract of `rlgen.rewards.check` with a list of numbers per completion.

    def no_repeats(prompts, completions, completion_ids, **columns) -> list[list[float] | None]:
        return [[-1.0 if a == b else 0.0 for a, b in zip(ids, [None, *ids])] for ids in completion_ids]

The signature is that of TRL's rewards. Each list has one number for each of the row's `completion_ids`, the token that
ends it included; None means that the reward does not apply to the row.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rlgen.errors import RewardError
from rlgen.rewards.check import AsyncCheckedReward, CheckedReward, is_async, listed

TokenReward = Callable[..., Any]


class CheckedTokenReward(CheckedReward):
    """A token-level reward function that either keeps the contract or raises a `RewardError`."""

    def contract(self, output: Any, rows: int, columns: Mapping[str, Any]) -> list[Any]:
        """One list of finite floats per row, as long as the row's `completion_ids`, or None."""
        return contract_token_floats(self.__name__, output, columns["completion_ids"])


class AsyncCheckedTokenReward(CheckedTokenReward, AsyncCheckedReward):
    """`CheckedTokenReward` for a coroutine function."""


def checked_tokens(function: TokenReward, name: str | None = None) -> CheckedTokenReward:
    """Wrap a token-level `function` once; async functions stay async."""
    if isinstance(function, CheckedTokenReward):
        return function
    return (AsyncCheckedTokenReward if is_async(function) else CheckedTokenReward)(function, name)


def contract_token_floats(name: str, output: Any, completion_ids: Sequence[Sequence[int]]) -> list[list[float] | None]:
    """Turn a token-level reward's output into lists of floats and None.

    Args:
        name: the reward's name, for messages.
        output: what the function returned.
        completion_ids: the tokens that it was asked about.

    Raises:
        RewardError: not a sequence, a wrong length, or a value that is no finite number.
    """
    rows = listed(f"token reward '{name}'", output, len(completion_ids), "a list of numbers or None per completion")
    if len(rows) != len(completion_ids):
        raise RewardError(
            f"token reward '{name}' returned {len(rows)} rows for {len(completion_ids)} completions; "
            "return exactly one list per completion"
        )
    return [
        _contract_row(name, row, len(ids), i) for i, (row, ids) in enumerate(zip(rows, completion_ids, strict=True))
    ]


def _contract_row(name: str, output: Any, tokens: int, row: int) -> list[float] | None:
    if output is None:
        return None
    who = f"token reward '{name}', row {row},"
    values = listed(who, output, tokens, "a list with one number per token, or None")
    if len(values) != tokens:
        raise RewardError(
            f"token reward '{name}' returned {len(values)} values for row {row}, whose completion has {tokens} "
            "tokens; return one number per token of completion_ids, or None where it does not apply",
            row=row,
        )
    try:
        numbers = [float("not a number" if isinstance(value, (str, bytes)) else value) for value in values]
    except (TypeError, ValueError, RuntimeError) as error:
        raise RewardError(
            f"token reward '{name}' returned something other than numbers for row {row}: {error}; return floats",
            row=row,
        ) from error
    broken = next((i for i, number in enumerate(numbers) if not math.isfinite(number)), None)
    if broken is not None:
        raise RewardError(
            f"token reward '{name}' returned {numbers[broken]} for token {broken} of row {row}; return finite numbers",
            row=row,
        )
    return numbers
