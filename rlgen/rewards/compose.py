"""Several rewards as one number per row."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rlgen.rewards.check import Reward, checked, is_async


def call_reward(
    function: Reward, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any
) -> list[float | None]:
    """Call a reward outside a trainer, waiting for it if it is async.

    Raises:
        RewardError: it raised or broke the contract.
    """
    return call_rewards([function], prompts, completions, **columns)[0]


def call_rewards(
    functions: Sequence[Reward], prompts: Sequence[Any], completions: Sequence[Any], **columns: Any
) -> list[list[float | None]]:
    """Call several rewards outside a trainer; async ones run beside each other and beside the others.

    Returns:
        The scores of each.

    Raises:
        RewardError: one raised or broke the contract.
    """
    every: list[Reward] = [checked(function) for function in functions]
    waiting = [function for function in every if is_async(function)]

    async def ask() -> list[list[float | None]]:
        calls = (function(prompts=prompts, completions=completions, **columns) for function in waiting)
        return list(await asyncio.gather(*calls))

    # A thread of its own: the caller may be inside a running event loop (a notebook), where asyncio.run refuses.
    with ThreadPoolExecutor(max_workers=1) as pool:
        asked = pool.submit(asyncio.run, ask()) if waiting else None
        at_once = [
            None if is_async(function) else list(function(prompts=prompts, completions=completions, **columns))
            for function in every
        ]
        answers = iter(asked.result() if asked else ())
    return [next(answers) if scores is None else scores for scores in at_once]


def add_up(parts: Sequence[Sequence[float | None]], weights: Sequence[float]) -> list[float | None]:
    """The weighted sum of several scores, row by row.

    Args:
        parts: parts x rows; a part that is None in a row counts as absent.
        weights: one factor per part.

    Returns:
        One sum per row, None where all parts are.
    """
    sums: list[float | None] = []
    for row in zip(*parts, strict=True):
        terms = [weight * value for weight, value in zip(weights, row, strict=True) if value is not None]
        sums.append(sum(terms) if terms else None)
    return sums


def weighted_sum(functions: Sequence[Reward], weights: Sequence[float]) -> Callable[..., list[float | None]]:
    """One reward that is the weighted sum of `functions`, as TRL adds them.

    Args:
        functions: rewards with TRL's signature.
        weights: one factor each.

    Returns:
        A function with the reward signature; rows where a reward is None count without it, None where all are.
    """

    def composite(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float | None]:
        return add_up(call_rewards(functions, prompts, completions, **columns), weights)

    return composite
