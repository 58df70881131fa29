"""The dialogue task: the next turn of a friendly conversation.

The rows are turns that people gave in conversations with strangers (fetched once, 8 MB), kept where the rewards find
them relevant, harmless and fluent. A conversation is in one split only.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from typing import Any

from reward_models import dialogue as rewards
from rlgen.human_pairs import conversations
from rlgen.tasks import Task
from rlgen.tasks.rows import Row, deal, digest, make_row, refuse_source, split_of, splitter

SHORTEST, LONGEST = 5, 40  # words of a turn
CONTEXT = 3  # turns
PER_CONVERSATION = 2
GOOD_ENOUGH = 0.6  # of the reward: below, a turn is a change of topic or chatter
_PERSONAL = re.compile(r"https?:|@|\d{3}|[^\x00-\x7f]")


def build(source: str | None = None) -> Task:
    """Make the dialogue task.

    Args:
        source: Must be None: the task has one source.

    Raises:
        ConfigError: A source is given.
    """
    refuse_source("dialogue", source)
    return Task(
        name="dialogue",
        description="Give the next turn of a conversation.",
        split=splitter("dialogue", _split),
        rewards={"dialogue": 1.0},
        reward_functions={"dialogue": rewards.composite, **rewards.REWARDS},
        metrics={name: rewards.REWARDS[name] for name in ("relevance", "engagement", "safety", "fluent")},
        max_prompt_tokens=256,
        max_completion_tokens=64,
        public_data="HuggingFaceTB/everyday-conversations-llama3.1-2k (split train_sft; "
        "the last of its messages is the completion)",
    )


@functools.cache
def _split(name: str) -> list[Row]:
    rows = [row for row in _rows() if split_of(str(row["conversation"]), "dialogue") == name]
    scores = rewards.composite([row["prompt"] for row in rows], [row["completion"] for row in rows])
    good = (row for row, score in zip(rows, scores, strict=True) if score is not None and score >= GOOD_ENOUGH)
    return deal(good, "dialogue", shares={name: 1.0})[name]


@functools.cache
def _rows() -> list[Row]:
    chats = conversations()
    return [row for key in sorted(chats) for row in _turns(key, chats[key])]


def _turns(key: str, chat: Mapping[str, Any]) -> Iterator[Row]:
    said = [" ".join(" ".join(message["text"] for message in turn).split()) for turn in chat["messages"]]
    fitting = [
        index
        for index in range(1, len(said))
        if all(_fits(turn) for turn in said[index - 1 : index + 1]) and said[index] != said[index - 1]
    ]
    for index in sorted(fitting, key=lambda index: digest(key, str(index)))[:PER_CONVERSATION]:
        context = said[max(0, index - CONTEXT) : index]
        roles = ("user", "assistant")
        prompt = [{"role": roles[back % 2], "content": text} for back, text in enumerate(reversed(context))][::-1]
        if all(text and not _PERSONAL.search(text) for text in context):
            # A template wants the user to begin.
            prompt = prompt if prompt[0]["role"] == "user" else prompt[1:]
            yield make_row(prompt, said[index], conversation=key)


def _fits(turn: str) -> bool:
    return SHORTEST <= len(turn.split()) <= LONGEST and not _PERSONAL.search(turn)
