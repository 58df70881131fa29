"""Prompting without training: examples before the question (few-shot), as a chat or as plain text.

A checkpoint with examples is written `PATH@4shot`: four examples, as earlier turns of the chat. `PATH@4shot-plain`
writes everything as one plain text, for models without a chat template; `PATH@0shot-plain` is the question alone as
plain text. `-seed7` at the end draws other examples, in another order. The examples come from training rows, and are
the same for every prompt.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from datasets import Dataset

from reward_models._text import completion_text
from rlgen.data import conversational, row_hashes
from rlgen.errors import ConfigError, DataError

Message = dict[str, str]
Prompt = str | list[Message]
Example = tuple[Prompt, str]

STYLES = ("chat", "plain")
_SHOTS = re.compile(r"(\d+)shots?(?:-(?!seed\d)(\w+))?(?:-seed(\d+))?")


@dataclass(frozen=True)
class Shots:
    """How a model is prompted.

    Args:
        number: How many examples stand before the question, at least 0.
        style: "chat": earlier turns, rendered by the model's chat template. "plain": one text without any template.
        seed: Chooses the examples and their order.
    """

    number: int
    style: str = "chat"
    seed: int = 0

    def __str__(self) -> str:
        """As it is written after a path."""
        style = "" if self.style == "chat" else f"-{self.style}"
        return f"{self.number}shot{style}" + (f"-seed{self.seed}" if self.seed else "")


def split_shots(path: str) -> tuple[str, Shots | None]:
    """Part `PATH@4shot` into the path and the way of prompting; None where there is no such ending.

    Raises:
        ConfigError: The ending is one, but malformed.
    """
    folder, at, ending = path.rpartition("@")
    if not at or "shot" not in ending:
        return path, None
    match = _SHOTS.fullmatch(ending)
    style = (match[2] or "chat") if match else ""
    if not folder or match is None or style not in STYLES:
        raise ConfigError(f"{path}: write the examples as PATH@4shot, PATH@4shot-plain or PATH@4shot-plain-seed1")
    shots = Shots(int(match[1]), style, int(match[3] or 0))
    if shots == Shots(0):
        raise ConfigError(f"{path}: no examples in a chat is the model as it is; leave @{ending} out")
    return folder, shots


def choose_examples(rows: Dataset, shots: Shots, heldout: Dataset | None = None) -> list[Example]:
    """Choose examples by seed.

    Args:
        rows: Rows with `prompt` and `completion`, plain or conversational.
        shots: How many, and the seed.
        heldout: Rows of which none may be an example.

    Returns:
        Prompts with their answers, in the order in which they are shown. More examples with the same seed begin with
        the same ones.

    Raises:
        DataError: There are too few rows, or none that is not held out.
    """
    forbidden = set(row_hashes(heldout)) if heldout is not None else set()
    order = list(range(len(rows)))
    random.Random(shots.seed).shuffle(order)
    keys = row_hashes(rows)
    chosen: dict[str, int] = {}
    for index in order:
        if len(chosen) < shots.number and keys[index] not in forbidden:
            chosen.setdefault(keys[index], index)
    if len(chosen) < shots.number:
        raise DataError(f"{shots.number} examples are asked for, but there are {len(chosen)} rows to take them from")
    picked = [rows[index] for index in chosen.values()]
    return [(row["prompt"], completion_text(row["completion"]).strip()) for row in picked]


def with_examples(prompts: Sequence[Prompt], examples: Sequence[Example], style: str = "chat") -> list[Prompt]:
    """Put examples before every prompt.

    Args:
        prompts: Plain or conversational.
        examples: See `choose_examples`.
        style: See `Shots`. Plain prompts are always continued as plain text.

    Returns:
        Conversations for `chat`, with a system message of the prompt kept in front; texts for `plain`.
    """
    return [_asked(prompt, examples, style) for prompt in prompts]


def _asked(prompt: Prompt, examples: Sequence[Example], style: str) -> Prompt:
    if style == "plain" or isinstance(prompt, str):
        shown = [f"{_text(question)}\n\nAnswer: {answer}\n\n" for question, answer in examples]
        return "---\n\n".join([*shown, f"{_text(prompt)}\n\nAnswer:"])
    first = [message for message in prompt[:1] if message["role"] == "system"]
    turns: list[Message] = []
    for question, answer in examples:
        asked = conversational(question) if isinstance(question, str) else question
        turns += [message for message in asked if message["role"] != "system"]
        turns.append({"role": "assistant", "content": answer})
    return [*first, *turns, *prompt[len(first) :]]


def _text(prompt: Prompt) -> str:
    """A conversation as text; a single message is its content."""
    if isinstance(prompt, str):
        return prompt.strip()
    if len(prompt) == 1:
        return prompt[0]["content"].strip()
    return "\n".join(f"{message['role'].capitalize()}: {message['content'].strip()}" for message in prompt)
