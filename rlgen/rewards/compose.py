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
    function = checked(function)
    if not is_async(function):
        return list(function(prompts=prompts, completions=completions, **columns))

    awaitable: Reward = function

    async def ask() -> list[float | None]:
        scores: list[float | None] = await awaitable(prompts=prompts, completions=completions, **columns)
        return scores

    # A thread of its own: the caller may be inside a running event loop (a notebook), where asyncio.run refuses.
    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(asyncio.run, ask()).result()


def weighted_sum(functions: Sequence[Reward], weights: Sequence[float]) -> Callable[..., list[float | None]]:
    """One reward that is the weighted sum of `functions`, as TRL adds them.

    Args:
        functions: rewards with TRL's signature.
        weights: one factor each.

    Returns:
        A function with the reward signature; rows where a reward is None count without it, None where all are.
    """

    def composite(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float | None]:
        scores = [call_reward(function, prompts, completions, **columns) for function in functions]
        totals: list[float | None] = []
        for row in range(len(prompts)):
            terms = [
                weight * value
                for weight, values in zip(weights, scores, strict=True)
                if (value := values[row]) is not None
            ]
            totals.append(sum(terms) if terms else None)
        return totals

    return composite
