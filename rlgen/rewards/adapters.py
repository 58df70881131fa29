"""Rewards of other libraries: functions of one row, as verifiers has them, and the scorers of reasoning-gym."""

import asyncio
import difflib
import functools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from reward_models._text import completion_text
from rlgen.errors import RewardError
from rlgen.rewards.check import Reward, is_async, reward_name
from rlgen.rewards.options import EXTRAS, ONE_ROW, ROWS, parameters, signature

REASONING_GYM = "reasoning_gym"
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


class RowReward:
    """A function of one row as a reward of a batch.

    The function gets by name what it asks for: `prompt`, `completion`, any column of the row (`answer`, `info`, ...),
    and `state`, a dictionary of all of them. With `**kwargs` it gets everything.

    Args:
        function: returns one number or None for one row.
    """

    def __init__(self, function: Reward) -> None:
        self.function = self.__wrapped__ = function
        self.__name__ = reward_name(function)
        asked = signature(function).parameters.values()
        self._asked = {
            parameter.name: parameter.default is parameter.empty
            for parameter in asked
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        }
        self._takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in asked)

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[Any]:
        """One call per row."""
        return [self.function(**row) for row in self._rows(prompts, completions, columns)]

    def _rows(
        self, prompts: Sequence[Any], completions: Sequence[Any], columns: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        per_row = {name: values for name, values in columns.items() if name not in EXTRAS}
        extras = {name: value for name, value in columns.items() if name in EXTRAS}
        rows = []
        for i, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
            row = {name: values[i] for name, values in per_row.items()} | {"prompt": prompt, "completion": completion}
            row = {"state": dict(row), **row, **extras}
            missing = [name for name, needed in self._asked.items() if needed and name not in row]
            if missing:
                raise RewardError(
                    f"reward '{self.__name__}' asks for '{missing[0]}', which no column has "
                    f"({', '.join(sorted(per_row)) or 'there are none'}): add the column, or give it as an option"
                )
            rows.append(row if self._takes_all else {name: row[name] for name in self._asked if name in row})
        return rows


class AsyncRowReward(RowReward):
    """`RowReward` of a coroutine function: all rows at once."""

    async def __call__(  # type: ignore[override]
        self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any
    ) -> list[Any]:
        """One call per row, beside each other."""
        rows = self._rows(prompts, completions, columns)
        return list(await asyncio.gather(*(self.function(**row) for row in rows)))


def adapted(function: Reward) -> Reward:
    """A function with TRL's signature as it is; a function of one row (`completion` or `prompt`) as a reward."""
    asked = parameters(function)
    if asked & ROWS or not asked & ONE_ROW:
        return function
    return (AsyncRowReward if is_async(function) else RowReward)(function)


class ReasoningGym:
    """Scores answers with the verifier of a reasoning-gym dataset, in [0, 1].

    Reads the columns `answer` and `metadata` as reasoning-gym's items have them; `metadata` may be JSON text, since
    Arrow tables give rows of different shape each other's keys. The answer is what stands in the last
    `<answer>...</answer>`, else the whole completion.

    Args:
        dataset: its name; None takes each row's `metadata["source_dataset"]`.
        threshold: scores below it count as 0. Several scorers give 0.01 to 0.05 for any wrong answer of the right
            form, which a policy can collect without ever solving anything.

    Raises:
        RewardError: reasoning-gym is not installed, or has no such dataset.
    """

    def __init__(self, dataset: str | None = None, threshold: float = 0.0) -> None:
        self.__name__ = dataset or REASONING_GYM
        self.dataset = dataset
        self.threshold = threshold
        if dataset is not None:
            _scorer(dataset)

    def __call__(
        self, completions: Sequence[Any], answer: Sequence[Any], metadata: Sequence[Any], **_: Any
    ) -> list[float | None]:
        """Score each row; None where it has no metadata.

        Raises:
            RewardError: metadata that names no dataset.
        """
        scores: list[float | None] = []
        for completion, right, described in zip(completions, answer, metadata, strict=True):
            if described is None:
                scores.append(None)
                continue
            known = json.loads(described) if isinstance(described, str) else described
            name = self.dataset or known.get("source_dataset")
            if not name:
                raise RewardError("reasoning_gym: the metadata has no 'source_dataset'; name it as reasoning_gym:NAME")
            score = float(_scorer(name)(_answer(completion), {"answer": right, "metadata": known}))
            scores.append(score if score >= self.threshold else 0.0)
        return scores


def reasoning_gym_names() -> list[str]:
    """Names of reasoning-gym's datasets.

    Raises:
        RewardError: it is not installed.
    """
    try:
        from reasoning_gym.factory import DATASETS
    except ImportError as error:
        raise RewardError("reasoning-gym is not installed: pip install 'rlgen[rewards]'") from error
    return sorted(DATASETS)


@functools.cache
def _scorer(name: str) -> Any:
    names = reasoning_gym_names()
    if name not in names:
        close = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {len(names)}, such as {', '.join(names[:5])}"
        raise RewardError(f"reasoning-gym has no dataset '{name}': {hint}")
    from reasoning_gym.factory import create_dataset

    return create_dataset(name, size=1, seed=0).score_answer


def _answer(completion: Any) -> str:
    text = completion_text(completion)
    marked = _ANSWER.findall(text)
    return (marked[-1] if marked else text).strip()
