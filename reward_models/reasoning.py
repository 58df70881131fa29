"""Rewards for commonsense and maths reasoning: is the final answer right, and is it stated as one answer.

Rows carry the right answer in columns; a row whose column is None (or missing) is not graded by that reward:

- `answer`: the right answer: a number or an expression, LaTeX or not; for multiple choice the letter ("B", "B. text");
- `choices`: the options of a multiple-choice question in order, which makes the row one for `choice`;
- `entry`: an item of a reasoning-gym data set, a dictionary or its JSON, with `metadata.source_dataset`; or give
  the data set's name in the column `dataset`.

All rewards lie in [0, 1], 1 best. An answer is read as people write it (`final_answer`); a completion that
hedges, with several different final answers, has none. `composite` pays nothing unless the answer is right.
"""

from __future__ import annotations

import functools
import importlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reward_models._library_examples import REASONING
from reward_models._math import MAX_ANSWER, equivalent, normalized
from reward_models._overlap import MAX_READ, Scores, clean, tokens, varied
from reward_models._text import completion_text

EXAMPLES = REASONING  # rows with good answers, for checks

WORKING_WORDS = (5, 250)  # words of a working that is neither missing nor a filibuster
CORRECT_SHARE = 0.7  # what the composite pays for a right answer, however it is written up
LETTERS = "ABCDEFGHIJ"

_BOXED = re.compile(r"\\(?:boxed|fbox)\s*\{")
_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_HASHES = re.compile(r"^[ \t]*####[ \t]*(.*)$", re.MULTILINE)
_STATED = re.compile(
    r"\b(?:final answer|correct answer|right answer|best answer|correct option|correct choice|answer|option)"
    r"(?: (?:to|for|of) [^.:\n]{1,60}?)?\s*(?:\bis\b|\bare\b|:|=)\s*:?",
    re.IGNORECASE,
)
_NUMERAL = re.compile(r"-?\$?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:/\d+)?%?")
_CLAUSE_END = re.compile(r"\.(?=\s|$)|\n|,? (?:because|since|as it|which|so that)\b")
_OPTION = re.compile(
    r"(?<![A-Za-z'])\(?([A-J])(?:\)|\.(?=\s|$)|:|(?=\s*[,;/&]|\s*$|\s+(?:or|and|is|because|since)\b))"
)
_LETTER = re.compile(r"(?<![A-Za-z'’])([A-J])(?![A-Za-z'’])")


def final_answer(text: str) -> str | None:
    r"""Read the one answer that a completion ends with.

    Looked for in this order: `\boxed{x}`, `<answer>x</answer>`, `#### x`, "the answer is x", the last number.

    Returns:
        The answer as written; None where there is none, where it is empty, or where different ones are given in the
        same way (a completion that boxes 3 and 4 has not decided).
    """
    text = text[-MAX_READ:]
    for found in (_boxed(text), _TAGGED.findall(text), _HASHES.findall(text), _stated(text)):
        if found:
            distinct = {_comparable(answer) for answer in found}
            answer = found[-1].strip()
            return answer if len(distinct) == 1 and _comparable(answer) else None
    numerals = _NUMERAL.findall(text)
    return numerals[-1] if numerals else None


def correct(completions: Sequence[Any], answer: Sequence[str | None] | None = None, **_: Any) -> Scores:
    """Score whether the final answer is the right one.

    Range: {0, 1}; answers are equal if they are as text, as exact numbers ("0.5" and "1/2", "1,234" and "$1234"), or
    as expressions by math-verify. An expression that cannot be compared in 5 seconds counts as different.
    Source: math-verify (Kydlicek 2025); answer forms after Hendrycks et al. 2021 and Cobbe et al. 2021.
    Gaming: guessing likely numbers. Lists of answers, several different boxes and empty boxes score 0; without any
    statement of an answer the last number counts, so that counting up until the text is cut off is one guess.
    """
    return [
        None if gold is None else float(_correct(completion_text(completion), str(gold)))
        for completion, gold in zip(completions, _column(answer, completions), strict=True)
    ]


def choice(
    completions: Sequence[Any],
    answer: Sequence[str | None] | None = None,
    choices: Sequence[Sequence[str] | None] | None = None,
    **_: Any,
) -> Scores:
    """Score whether the right option of a multiple-choice question is picked.

    Range: {0, 1}; the pick is the letter, or the text of an option, in the final statement ("the answer is (B)",
    a box, "#### B"); without one, the only letter or option the text names. Naming several options there is no pick.
    None where the row has no `choices` or no `answer`.
    Gaming: always the same letter earns its share of the rows: balance the letters.

    Raises:
        ValueError: the column `answer` names no option.
    """
    columns = zip(completions, _column(answer, completions), _column(choices, completions), strict=True)
    return [
        None
        if gold is None or not options
        else float(_chosen(completion_text(completion), options) == _key(gold, options))
        for completion, gold, options in columns
    ]


@dataclass(frozen=True)
class Gym:
    """Score the final answer with the scorer of its reasoning-gym data set; see `gym`.

    Args:
        threshold: score of reasoning-gym from which an answer is right, in (0, 1]. Many scorers give wrong answers
            0.01 or 0.05 for trying, and some give part marks for nearly right ones.
        partial: part of the score below the threshold that is paid all the same, in [0, 1].
    """

    threshold: float = 0.99
    partial: float = 0.0

    @property
    def __name__(self) -> str:
        """Name under which the reward is logged."""
        return "gym"

    def __call__(
        self,
        completions: Sequence[Any],
        entry: Sequence[Mapping[str, Any] | str | None] | None = None,
        dataset: Sequence[str | None] | None = None,
        **_: Any,
    ) -> Scores:
        """Score each completion in [0, 1], None where there is no entry."""
        columns = zip(completions, _column(entry, completions), _column(dataset, completions), strict=True)
        return [
            None if item is None else self._score(completion_text(completion), item, name)
            for completion, item, name in columns
        ]

    def _score(self, text: str, item: Mapping[str, Any] | str, name: str | None) -> float:
        read: Mapping[str, Any] = json.loads(item) if isinstance(item, str) else item
        known = name or (read.get("metadata") or {}).get("source_dataset")
        if known is None:
            raise ValueError("column entry lacks metadata.source_dataset; give the column dataset with its name")
        scorer, given = _scorer(known), _given(text)
        if given is None:
            return 0.0
        try:
            score = float(scorer(given, read))
        except Exception:  # scorers parse the answer, and an answer they cannot parse is a wrong one
            return 0.0
        return 1.0 if score >= self.threshold else self.partial * max(0.0, score)


def gym(
    completions: Sequence[Any],
    entry: Sequence[Mapping[str, Any] | str | None] | None = None,
    dataset: Sequence[str | None] | None = None,
    **_: Any,
) -> Scores:
    """Score whether reasoning-gym's own scorer calls the final answer right.

    Range: {0, 1}; 1 from a score of 0.99, for part marks below are given to wrong answers too (`make_gym` changes
    both). The answer is read as by `final_answer`; a completion that states none counts as the answer itself.
    Source: Stojanovski et al. 2025, "Reasoning Gym".
    Gaming: what the scorer of the data set allows; that of game_of_life_halting 0.1.25 takes any text for right.

    Raises:
        ValueError: no or an unknown data set is named.
    """
    return Gym()(completions, entry, dataset)


def make_gym(threshold: float = 0.99, partial: float = 0.0) -> Gym:
    """Make the reward `gym` with another threshold, or with part marks below it: see `Gym`."""
    return Gym(threshold, partial)


def working(completions: Sequence[Any], **_: Any) -> Scores:
    r"""Score the write-up: some working, without filibuster, and one explicit answer at the end.

    Range: [0, 1]; half for stating exactly one answer (a box, `<answer>`, "####" or "the answer is") with at most a
    few words after it, half for 5 to 250 words of working that don't repeat themselves.
    Gaming: any text that ends with an answer, whether right or not; the composite pays for it only if it is right.
    """
    return [_working(completion_text(completion)) for completion in completions]


REWARDS: dict[str, Callable[..., Scores]] = {"correct": correct, "choice": choice, "gym": gym, "working": working}


def composite(completions: Sequence[Any], **columns: Any) -> Scores:
    """Score an answer: 0 unless right, then 0.7 and up to 0.3 for the write-up; None where no right answer is known.

    Rows with an `entry` are judged by `gym`, others with `choices` by `choice`, all others by `correct`. Look-alike
    and invisible characters lower the whole score.
    """
    judged = zip(
        gym(completions, **_only(columns, "entry", "dataset")),
        choice(completions, **_only(columns, "answer", "choices")),
        correct(completions, **_only(columns, "answer")),
        working(completions),
        strict=True,
    )
    scores: Scores = []
    for completion, (*graded, written) in zip(completions, judged, strict=True):
        right = next((score for score in graded if score is not None), None)
        paid = CORRECT_SHARE + (1.0 - CORRECT_SHARE) * (written or 0.0)
        scores.append(None if right is None else right * paid * clean(completion_text(completion)))
    return scores


def _column(column: Sequence[Any] | None, completions: Sequence[Any]) -> Sequence[Any]:
    return [None] * len(completions) if column is None else column


def _only(columns: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: columns[name] for name in names if name in columns}


def _comparable(answer: str) -> str:
    return re.sub(r"\s+", "", normalized(answer)).casefold().strip("().,;:!*'\"")


def _correct(text: str, gold: str) -> bool:
    answer = final_answer(text)
    if answer is None:
        return False
    if re.fullmatch(r"\(?[A-J]\)?\.?", gold.strip()):
        picked = {LETTERS[index] for index in _picks(answer, LETTERS)}
        return picked == {gold.strip(" ().")}
    right = final_answer(gold) if "####" in gold or "\\boxed" in gold else gold
    return equivalent(answer, right or gold) or equivalent(_lead(answer), right or gold)


def _lead(answer: str) -> str:
    """An answer without the words before and after its only numeral: "about 16 oranges" gives 16."""
    numerals = _NUMERAL.findall(answer)
    plain = len(numerals) == 1 and len(answer) <= 60 and not re.search(r"[\\^=*/+{}]|\d[A-Za-z]\b", answer)
    return numerals[0] if plain else answer


def _boxed(text: str) -> list[str]:
    """Contents of all boxes with balanced braces; an unclosed one reaches to the end."""
    found = []
    for opening in _BOXED.finditer(text):
        depth, end = 1, opening.end()
        while end < len(text) and depth:
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
        found.append(text[opening.end() : end - (depth == 0)])
    return found


def _stated(text: str) -> list[str]:
    """What follows each "the answer is", up to the end of its clause."""
    said = (text[match.end() : match.end() + 2 * MAX_ANSWER].strip() for match in _STATED.finditer(text))
    answers = (_CLAUSE_END.split(answer, maxsplit=1)[0].strip(" *:") for answer in said)
    return ["" if answer.lower().startswith("not ") else answer for answer in answers]


def _explicit(text: str) -> list[str]:
    return _boxed(text) or _TAGGED.findall(text) or _HASHES.findall(text) or _stated(text)


def _given(text: str) -> str | None:
    """The answer for a free-form scorer: a stated one, else the whole completion, for some answers fill a page."""
    if _explicit(text):
        return final_answer(text)
    stripped = text.strip()
    return stripped if stripped and len(stripped) <= MAX_READ else None


def _key(gold: str, options: Sequence[str]) -> int:
    """Number of the right option, from its letter, its letter and text, or its text."""
    plain = str(gold).strip()
    if found := re.match(r"\(?([A-Za-z])(?:[).:]|\s*$)", plain):
        index = LETTERS.find(found.group(1).upper())
        if 0 <= index < len(options):
            return index
    same = [index for index, option in enumerate(options) if _comparable(str(option)) == _comparable(plain)]
    if len(same) != 1:
        raise ValueError(f"column answer {plain!r} is neither a letter nor the text of one of {len(options)} choices")
    return same[0]


def _chosen(text: str, options: Sequence[str]) -> int | None:
    """Number of the one option that a completion picks, None where it picks none or several."""
    text = text[-MAX_READ:]
    explicit = _explicit(text)
    if explicit:
        if len({_comparable(answer) for answer in explicit}) > 1 and len({_picks(a, options) for a in explicit}) > 1:
            return None
        picked = _picks(explicit[-1], options)
    else:
        picked = _picks(text, options)
    return next(iter(picked)) if len(picked) == 1 else None


def _picks(text: str, options: Sequence[str]) -> frozenset[int]:
    """Numbers of all options that a statement names, by letter or, where it names no letter, by text."""
    # "A" and "I" open sentences, so that in a long text a letter needs a bracket or a stop to be an option.
    if re.fullmatch(r"\W*[a-j]\W*", text):
        text = text.upper()
    pattern = _LETTER if len(text) <= 12 else _OPTION
    letters = {LETTERS.index(letter) for letter in pattern.findall(text)}
    letters = {index for index in letters if index < len(options)}
    if letters:
        return frozenset(letters)
    said = f" {' '.join(tokens(text))} "
    named = {index for index, option in enumerate(options) if _names(said, str(option), text)}
    # An option within a longer one ("dog", "hot dog") is not named by it.
    plain = [str(option).casefold() for option in options]
    return frozenset(i for i in named if not any(i != other and plain[i] in plain[other] for other in named))


def _names(said: str, option: str, text: str) -> bool:
    words = " ".join(tokens(option))
    return f" {words} " in said if words else bool(re.search(rf"(?<![\w.]){re.escape(option.strip())}(?![\w.])", text))


@functools.cache
def _scorer(name: str) -> Callable[[str, Mapping[str, Any]], float]:
    factory = importlib.import_module("reasoning_gym.factory")
    try:
        scorer: Callable[[str, Mapping[str, Any]], float] = factory.get_score_answer_fn(name)
    except ValueError:
        raise ValueError(f"reasoning-gym has no data set {name!r}") from None
    return scorer


def _working(text: str) -> float:
    explicit = _explicit(text)
    words = tokens(text)
    stated = 0.0
    if explicit and len({_comparable(answer) for answer in explicit}) == 1 and _comparable(explicit[-1]):
        after = text[text.rfind(explicit[-1]) + len(explicit[-1]) :]
        stated = min(1.0, 10.0 / max(10, len(tokens(after))))
    # Digits are the words of a calculation.
    count = len(words) + len(_NUMERAL.findall(text))
    low, high = WORKING_WORDS
    amount = min(1.0, count / low) if count <= high else max(0.0, 1.0 - (count - high) / high)
    return (0.5 * stated + 0.5 * amount * (varied(text) if words else 1.0)) * clean(text) if count else 0.0
