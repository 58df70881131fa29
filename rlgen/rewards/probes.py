"""Asking a reward the same thing in several ways: whatever it is asked with, a row has one score."""

import copy
import logging
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reward_models._text import completion_text
from rlgen.errors import RewardError
from rlgen.rewards.check import CheckedReward
from rlgen.rewards.compose import call_reward

logger = logging.getLogger(__name__)

TOLERANCE = 0.01  # of the largest score
# A network in bfloat16 gives scores that change with the padding and the company of a row: up to 0.09 of a standard
# deviation on a trained reward model, which in float32 has the same to four digits. Scores below 1 count as 1 here,
# since a network's zero is arbitrary.
MODEL_TOLERANCE = 0.2
ROUNDING = 1e-9  # the same for what is exact up to the order of a sum
QUICK_SECONDS = 1.0  # what the fast form may spend on a reward beside its first two calls
SLOW_SECONDS = 5.0  # a reward whose first call took longer is not called again by the fast form
# What training will meet and tests forget: nothing, blanks, a wall of text, text that is not ASCII, markup.
ODD_TEXTS = (
    "",
    " \n\t ",
    "word " * 1000,
    "\u202ea\u0301\u200b \U0001f600 \u4f60\u597d",
    '{"a": [1, {"b": null}',
    "```",
)

Scores = list[Any]


@dataclass(frozen=True)
class Batch:
    """Rows as a trainer passes them to a reward."""

    prompts: list[Any]
    completions: list[Any]
    columns: dict[str, list[Any]]
    """The dataset's other columns, one value per row."""
    tokenize: Callable[[str], Sequence[int]] = field(default=lambda _: [0], repr=False)

    @classmethod
    def of_rows(
        cls, rows: Iterable[Mapping[str, Any]], tokenize: Callable[[str], Sequence[int]] = lambda _: [0]
    ) -> "Batch":
        """Dataset rows with their references as completions; where there is none, with a stand-in."""
        rows = [dict(row) for row in rows]
        keys = dict.fromkeys(key for row in rows for key in row)
        columns = {
            key: [row.get(key) for row in rows]
            for key in keys
            if key not in ("prompt", "completion", "completion_ids")
        }
        completions = [in_form(reference_text(row) or "A sentence.", row["prompt"]) for row in rows]
        kept = [
            row["completion"] if row.get("completion") is not None else completions[i] for i, row in enumerate(rows)
        ]
        return cls([row["prompt"] for row in rows], kept, columns, tokenize)

    def __len__(self) -> int:
        return len(self.prompts)

    def with_texts(self, texts: Sequence[str]) -> "Batch":
        """The same rows with other completions, in the form of their prompts."""
        completions = [in_form(text, prompt) for text, prompt in zip(texts, self.prompts, strict=True)]
        return Batch(self.prompts, completions, self.columns, self.tokenize)

    def take(self, order: Sequence[int]) -> "Batch":
        """Some of the rows, in an order."""
        columns = {key: [values[i] for i in order] for key, values in self.columns.items()}
        return Batch([self.prompts[i] for i in order], [self.completions[i] for i in order], columns, self.tokenize)

    def texts(self) -> list[str]:
        """The completions as text."""
        return [completion_text(completion) for completion in self.completions]


def in_form(text: str, prompt: Any) -> Any:
    """A completion's text as the prompt wants it: plain, or one message of the assistant."""
    return text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]


def reference_text(row: Mapping[str, Any]) -> str | None:
    """The text that a row holds for good: its completion, else its column `reference`."""
    if row.get("completion") is not None:
        return completion_text(row["completion"])
    return str(row["reference"]) if row.get("reference") is not None else None


def ask(function: CheckedReward, batch: Batch) -> Scores:
    """Call a reward as a trainer does, with all that TRL passes.

    Raises:
        RewardError: it raised, broke the contract, or changed the rows that other rewards will get.
    """
    from transformers import TrainerState

    # A model's answer has one token at least, the one that ends it.
    given = {
        **copy.deepcopy(batch.columns),
        "completion_ids": [list(batch.tokenize(text)) or [0] for text in batch.texts()],
    }
    prompts, completions = copy.deepcopy(batch.prompts), copy.deepcopy(batch.completions)
    before = repr((prompts, completions, given))
    extras = {"trainer_state": TrainerState(), "log_extra": _ignore, "log_metric": _ignore}
    scores = call_reward(function, prompts, completions, **given, **extras)
    if repr((prompts, completions, given)) != before:
        raise RewardError(
            f"reward '{function.__name__}' changes the prompts, completions or columns that it is given; other "
            "rewards get the same lists, so work on copies"
        )
    return scores


def difference(first: Scores, second: Scores, least: float = 0.0) -> tuple[int, float]:
    """Row where two lists of scores differ most, and by how much in terms of the largest score.

    Args:
        first: scores of some rows.
        second: other scores of the same rows.
        least: what the largest score counts as if it is smaller.

    Returns:
        Row and relative difference; (0, 0.0) for equal lists, infinity where one of the two is None.
    """
    scale = max((abs(value) for scores in (first, second) for row in scores for value in _flat(row)), default=0.0)
    scale = max(scale, least) or 1.0
    worst = (0, 0.0)
    for row, (left, right) in enumerate(zip(first, second, strict=True)):
        if left is None or right is None:
            gap = 0.0 if left is right else float("inf")
        else:
            gap = max((abs(a - b) for a, b in zip(_flat(left), _flat(right), strict=True)), default=0.0) / scale
        if gap > worst[1]:
            worst = row, gap
    return worst


def deviation(function: CheckedReward, first: Scores, second: Scores) -> tuple[int, float, bool]:
    """`difference`, and whether it is more than the rounding that this reward is excused for."""
    model = holds_model(function)
    row, gap = difference(first, second, 1.0 if model else 0.0)
    return row, gap, gap > (MODEL_TOLERANCE if model else TOLERANCE)


def holds_model(value: Any, depth: int = 5) -> bool:
    """Whether an object has a torch module among its attributes, or those of its parts."""
    torch = sys.modules.get("torch")
    if torch is None or depth == 0:
        return False
    if isinstance(value, torch.nn.Module):
        return True
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    parts = parts if len(parts) <= 100 else ()  # a vocabulary, not parts
    return any(holds_model(part, depth - 1) for part in [*parts, *getattr(value, "__dict__", {}).values()])


def ask_in_order(function: CheckedReward, batch: Batch, order: Sequence[int]) -> Scores:
    """Scores of the rows, asked in another order, put back into their own."""
    scores = ask(function, batch.take(order))
    return [score for _, score in sorted(zip(order, scores, strict=True), key=lambda pair: pair[0])]


def ask_in_parts(function: CheckedReward, batch: Batch, size: int) -> Scores:
    """Scores of the rows, asked `size` at a time."""
    starts = range(0, len(batch), size)
    parts = [ask(function, batch.take(range(start, min(start + size, len(batch))))) for start in starts]
    return [score for part in parts for score in part]


def probe_quickly(function: CheckedReward, batch: Batch, scores: Scores, seconds: float) -> None:
    """The fast form of the harness: the contract on a few rows, as long as it is cheap.

    Asks again, in reverse order, row by row, and about odd completions. A reward whose scores depend on which other
    rows stand beside a row is allowed (some compare the samples of one prompt), and warned of.

    Args:
        function: the reward.
        batch: two rows or so.
        scores: what the first call gave.
        seconds: what it took; after `SLOW_SECONDS` there is no second.

    Raises:
        RewardError: the scores are not reproducible, depend on the order, or an odd completion breaks the contract.
    """
    if seconds > SLOW_SECONDS:
        return
    began = time.monotonic()
    _same(function, batch, scores, ask(function, batch), "the same call twice gives", "fix its seed")
    cost = time.monotonic() - began
    end = began + 2 * cost + QUICK_SECONDS

    def affordable(calls: int) -> bool:
        return time.monotonic() + calls * cost < end

    if len(batch) > 1 and affordable(1):
        backwards = ask_in_order(function, batch, range(len(batch) - 1, -1, -1))
        _same(
            function, batch, scores, backwards, "with the rows in another order it gives", "score each row by itself"
        )
    if len(batch) > 1 and affordable(len(batch)):
        row, _, differs = deviation(function, scores, ask_in_parts(function, batch, 1))
        if differs:
            logger.warning(
                "reward '%s' scores row %d differently alone than in a batch: its scores change with the batch size",
                function.__name__,
                row,
            )
    for text in ODD_TEXTS:
        if not affordable(1):
            return
        ask(function, batch.with_texts([text] * len(batch)))


def _same(function: CheckedReward, batch: Batch, first: Scores, second: Scores, what: str, remedy: str) -> None:
    row, _, differs = deviation(function, first, second)
    if differs:
        raise RewardError(
            f"reward '{function.__name__}' is not reproducible: {what} {first[row]} and {second[row]} for row {row}; "
            f"{remedy}, or switch this check off (--reward_check false); completion {batch.texts()[row][:80]!r}",
            row=row,
        )


def _flat(row: Any) -> list[float]:
    return [] if row is None else list(row) if isinstance(row, list) else [row]


def _ignore(*_: Any) -> None:
    return None
