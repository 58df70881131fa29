"""Rewards that fit any task: repetition, length, endings, echo, clean characters, language, format, JSON.

A row needs `prompt` only. Further columns switch further rewards on, row by row (None switches off again): `language`
(ISO 639 code of the answer), `pattern` (regular expression that the whole answer matches), `schema` (JSON schema of
the answer: a dict, or its JSON text, which survives Arrow tables unchanged). `overlong` and lengths in tokens read
`completion_ids`, which trainers pass.

The functions have sensible defaults; `Repetition`, `LengthBand`, `Overlong`, `Matches` and `JsonSchema` make the same
rewards with options: `LengthBand(low=50, high=120)`. `composite` (`WEIGHTS`) is hygiene to add to a task's own reward.
It says nothing about whether an answer is right: the answer to another prompt passes, unless a schema or pattern stops
it. TRL's `think_format_reward` and `get_repetition_penalty_reward` (on tokens) work in rlgen as they are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

from reward_models._formats import compiled_pattern, full_match, read_json, schema_fit, schema_validator
from reward_models._generic_examples import EXAMPLES
from reward_models._language import language_fit
from reward_models._prose import clean_characters, copied_share, prompt_text, ramp, sentences, words
from reward_models._text import completion_text

__all__ = [
    "EXAMPLES",
    "WEIGHTS",
    "JsonSchema",
    "LengthBand",
    "Matches",
    "Overlong",
    "Repetition",
    "clean",
    "composite",
    "ends_properly",
    "json_schema",
    "json_valid",
    "language",
    "length",
    "matches",
    "no_prompt_echo",
    "overlong",
    "repetition",
]

ECHO_RUN = 5  # words in the prompt's order that count as copied
ECHO_BAND = (0.3, 0.9)  # share of copied words: free up to, worthless at

Scores = list[float | None]

_ENDINGS = tuple(".!?…。！？।؟۔")
_AFTER_ENDING = "\"'”’»)]*_`"
_CLOSERS = {")": "(", "]": "[", "}": "{"}


def repetition(completions: Sequence[Any], **_: Any) -> Scores:
    """Score the absence of repeated trigrams of words; see `Repetition` for the measure and other sizes.

    Range: [0, 1]; 1 where nothing is said twice, 0 where half of the trigrams repeat earlier ones, or nothing is said.
    Gaming: any text without loops gets full marks, whatever it says, and so does a list of distinct words.
    """
    return Repetition()(completions)


@dataclasses.dataclass(frozen=True)
class Repetition:
    """A reward for the absence of repeated n-grams of words, in [0, 1].

    The score falls linearly from 1 (all n-grams distinct) to 0 (a share `worst` of them repeats earlier ones). Words
    of more than 32 letters count letter by letter, so that "aaaa..." is no way out. Texts shorter than two n-grams are
    judged by shorter ones, so that "no no no" counts as repetition.
    Source: seq-rep-n of Welleck et al. 2019, "Neural Text Generation with Unlikelihood Training".

    Args:
        size: words per n-gram, at least 1.
        worst: share of repeated n-grams that earns nothing, in (0, 1].
    """

    size: int = 3
    worst: float = 0.5
    __name__: ClassVar[str] = "repetition"

    def __post_init__(self) -> None:
        if self.size < 1 or not 0.0 < self.worst <= 1.0:
            raise ValueError(f"Repetition: size {self.size} must be at least 1, worst {self.worst} in (0, 1]")

    def __call__(self, completions: Sequence[Any], **_: Any) -> Scores:
        """Score each completion."""
        return [self._score(completion_text(completion)) for completion in completions]

    def _score(self, text: str) -> float:
        said = [part for token in words(text) for part in ([token] if len(token) <= 32 else token)]
        if not said:
            return 0.0
        size = max(1, min(self.size, len(said) // 2))
        grams = list(zip(*(said[start:] for start in range(size)), strict=False))
        return 1.0 - min(1.0, (1.0 - len(set(grams)) / len(grams)) / self.worst)


def length(completions: Sequence[Any], **_: Any) -> Scores:
    """Score a length of 5 to 200 words; see `LengthBand` for other bands and units.

    Range: [0, 1]; 1 inside the band, falling linearly to 0 at no words and at 400.
    Gaming: anything of the right length, so also padding; combine with a reward that looks at content.
    """
    return LengthBand()(completions)


@dataclasses.dataclass(frozen=True)
class LengthBand:
    """A reward for a length inside a band, with linear ramps outside, in [0, 1].

    Args:
        low: least length that earns 1.
        high: greatest length that earns 1.
        zero_low: length that earns nothing, below `low` (or equal, for no ramp).
        zero_high: length that earns nothing, above `high`; twice `high` by default.
        unit: "words" (characters in scripts without spaces), "characters", "sentences", or "tokens" of the model,
            which reads `completion_ids`.
    """

    low: int = 5
    high: int = 200
    zero_low: int = 0
    zero_high: int | None = None
    unit: Literal["words", "characters", "sentences", "tokens"] = "words"
    __name__: ClassVar[str] = "length"

    def __post_init__(self) -> None:
        if not 0 <= self.zero_low <= self.low <= self.high or (
            self.zero_high is not None and self.zero_high < self.high
        ):
            raise ValueError(
                f"LengthBand: zero_low {self.zero_low} <= low {self.low} <= high {self.high} <= zero_high "
                f"{self.zero_high} must hold, none of them negative"
            )
        if self.unit not in ("words", "characters", "sentences", "tokens"):
            raise ValueError(f"LengthBand: unit {self.unit!r} is not words, characters, sentences or tokens")

    def __call__(
        self, completions: Sequence[Any], completion_ids: Sequence[Sequence[int]] | None = None, **_: Any
    ) -> Scores:
        """Score each completion."""
        if self.unit != "tokens":
            return [self.score(self._measure(completion_text(completion))) for completion in completions]
        if completion_ids is None:
            raise ValueError("LengthBand: unit 'tokens' needs completion_ids, which trainers pass; use unit 'words'")
        return [self.score(len(ids)) for ids in completion_ids]

    def score(self, count: int) -> float:
        """The score of a length, in [0, 1]; 0 for no length at all."""
        if count == 0:
            return 0.0
        if count < self.low:
            return ramp(count, self.zero_low, self.low)
        if count <= self.high:
            return 1.0
        worst = 2 * self.high if self.zero_high is None else self.zero_high
        return ramp(count, worst, self.high) if worst > self.high else 0.0

    def _measure(self, text: str) -> int:
        if self.unit == "characters":
            return len(text.strip())
        return len(words(text) if self.unit == "words" else sentences(text))


def overlong(completion_ids: Sequence[Sequence[int]], **_: Any) -> Scores:
    """Punish completions of more than 192 tokens, fully from 256; see `Overlong` for other limits.

    Range: [-1, 0]; 0 for every shorter completion.
    Gaming: an empty completion is never too long: add a reward that an answer must earn.
    """
    return Overlong()(completion_ids)


@dataclasses.dataclass(frozen=True)
class Overlong:
    """Soft overlong punishment by TRL's `get_soft_overlong_punishment`, in [-1, 0].

    0 up to `max_tokens - ramp_tokens`, then falling linearly to -1 at `max_tokens`, and -1 beyond.
    Source: Yu et al. 2025, "DAPO", equation 13.

    Args:
        max_tokens: length from which the whole punishment is due; usually the trainer's max_completion_length.
        ramp_tokens: over how many tokens the punishment grows; 0 for none.
    """

    max_tokens: int = 256
    ramp_tokens: int = 64
    __name__: ClassVar[str] = "overlong"

    def __post_init__(self) -> None:
        if not 0 <= self.ramp_tokens <= self.max_tokens or self.max_tokens < 1:
            raise ValueError(
                f"Overlong: ramp_tokens {self.ramp_tokens} must lie between 0 and max_tokens {self.max_tokens}"
            )

    def __call__(self, completion_ids: Sequence[Sequence[int]], **_: Any) -> Scores:
        """Score each completion by its number of tokens."""
        from trl.rewards import get_soft_overlong_punishment

        scores: Scores = get_soft_overlong_punishment(self.max_tokens, self.ramp_tokens)(list(completion_ids))
        return scores


def ends_properly(completions: Sequence[Any], **_: Any) -> Scores:
    """Score whether the text comes to an end instead of breaking off.

    Range: {0, 0.5, 1}; 1 for final punctuation (quotes and brackets may follow), or for a closing bracket or code
    fence with all brackets or fences balanced; 0.5 for an ellipsis, which often stands where text was cut; else 0.
    Gaming: a period after anything, whole or not.
    """
    return [_ends(completion_text(completion).rstrip()) for completion in completions]


def _ends(text: str) -> float:
    if not any(character.isalnum() for character in text):
        return 0.0
    if text.endswith("```"):
        return float(text.count("```") % 2 == 0)
    closed = text.rstrip(_AFTER_ENDING)
    if closed.endswith(_ENDINGS):
        return 0.5 if closed.endswith(("..", "…")) else 1.0
    return float(
        text[-1] in _CLOSERS and all(text.count(closer) == text.count(opener) for closer, opener in _CLOSERS.items())
    )


def no_prompt_echo(prompts: Sequence[Any], completions: Sequence[Any], **_: Any) -> Scores:
    """Score the absence of copying from the prompt.

    Range: [0, 1]; 1 while at most 30% of the words stand in runs of five or more words of the prompt, 0 from 90% on,
    and for no words. Leave it out where the answer should quote the prompt (correction, extraction).
    Gaming: any text that is not the prompt; a copy with every fourth word changed.
    """
    free, worthless = ECHO_BAND
    scores: Scores = []
    for prompt, completion in zip(prompts, completions, strict=True):
        said = words(completion_text(completion))
        asked = words(prompt_text(prompt))
        run = min(ECHO_RUN, max(2, len(said)))  # of a short answer, all of it
        scores.append(ramp(copied_share(said, asked, run), worthless, free) if said else 0.0)
    return scores


def clean(completions: Sequence[Any], **_: Any) -> Scores:
    """Score ordinary characters: no look-alikes of other alphabets, nothing invisible, no piles of accents.

    Range: [0, 1]; 1 for none, less by each one, 0 for one in four words, or for no text.
    Gaming: any text typed on a keyboard gets full marks.
    """
    texts = [completion_text(completion) for completion in completions]
    return [clean_characters(text) if text.strip() else 0.0 for text in texts]


def language(completions: Sequence[Any], language: Sequence[str | None], **_: Any) -> Scores:
    """Score whether the text is in the language that the row asks for, by a real detector (py3langid).

    Range: [0, 1]; 1 where the row's language is the most probable one, else its probability relative to the most
    probable one's. Some words tell little: languages that resemble each other (Spanish and Catalan) share marks there.
    Gaming: any text in the language, even a bag of its words; a few foreign words in a long text go unnoticed.
    """
    return [
        None if wanted is None else language_fit(completion_text(completion), wanted)
        for completion, wanted in zip(completions, language, strict=True)
    ]


def matches(completions: Sequence[Any], pattern: Sequence[str | None], **_: Any) -> Scores:
    """Score whether the whole text matches the row's regular expression (`.` matches line breaks, too).

    Range: {0, 1}; a match that takes longer than a second counts as none, so that a pattern with catastrophic
    backtracking cannot stop a training run.
    Gaming: whatever the pattern lets through; write the content that must be there into it.
    """
    return [
        None if expression is None else full_match(expression, completion_text(completion).strip())
        for completion, expression in zip(completions, pattern, strict=True)
    ]


@dataclasses.dataclass(frozen=True)
class Matches:
    """`matches` with one pattern for all rows.

    Args:
        pattern: regular expression for the whole completion.
    """

    pattern: str
    __name__: ClassVar[str] = "matches"

    def __post_init__(self) -> None:
        compiled_pattern(self.pattern)

    def __call__(self, completions: Sequence[Any], **_: Any) -> Scores:
        """Score each completion."""
        return matches(completions, [self.pattern] * len(completions))


def json_valid(completions: Sequence[Any], schema: Sequence[Any] | None = None, **_: Any) -> Scores:
    """Score whether the text is one JSON object or array and nothing else; None where a column `schema` holds None.

    Range: {0, 0.3, 1}; 0.3 for JSON inside a code fence; 0 also for a bare number or string, for NaN and Infinity, and
    for repeated keys.
    Gaming: "{}"; json_schema asks for content.
    """
    return [
        None if schema is not None and schema[row] is None else read_json(completion_text(completion))[1]
        for row, completion in enumerate(completions)
    ]


def json_schema(completions: Sequence[Any], schema: Sequence[Any], **_: Any) -> Scores:
    """Score whether the text is JSON that follows the row's schema (package jsonschema, the draft the schema names).

    Range: [0, 1]; 1 for valid; at most 0.5 for JSON that breaks the schema, less by each error; times 0.3 in a code
    fence; 0 for text that is no JSON. References to other documents are not fetched.
    Gaming: the emptiest value that the schema lets through; state minLength, required, and additionalProperties.

    Raises:
        ValueError: a schema that is none.
    """
    scores: Scores = []
    for completion, wanted in zip(completions, schema, strict=True):
        if wanted is None:
            scores.append(None)
            continue
        validator = schema_validator(wanted)
        value, worth = read_json(completion_text(completion), scalars=True)
        scores.append(worth * schema_fit(validator, value) if worth else 0.0)
    return scores


@dataclasses.dataclass(frozen=True)
class JsonSchema:
    """`json_schema` with one schema for all rows.

    Args:
        schema: a JSON schema, as a dict or as JSON text.
    """

    schema: Any
    __name__: ClassVar[str] = "json_schema"

    def __post_init__(self) -> None:
        schema_validator(self.schema)

    def __call__(self, completions: Sequence[Any], **_: Any) -> Scores:
        """Score each completion."""
        return json_schema(completions, [self.schema] * len(completions))


WEIGHTS = {"repetition": 0.25, "length": 0.2, "ends_properly": 0.15, "no_prompt_echo": 0.2, "clean": 0.2}
_PARTS: dict[str, Callable[..., Scores]] = {
    "repetition": repetition,
    "length": length,
    "ends_properly": ends_properly,
    "no_prompt_echo": no_prompt_echo,
    "clean": clean,
}
_GATES: dict[str, Callable[..., Scores]] = {"language": language, "pattern": matches, "schema": json_schema}


def composite(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> Scores:
    """Score hygiene: the weighted sum of the five rewards (`WEIGHTS`), times what the row's own columns ask for.

    Range: [0, 1]; where a row has `language`, `pattern` or `schema`, the sum is multiplied by the score of `language`,
    `matches` or `json_schema`; the product is 0 for no words.
    Gaming: any clean text of 5 to 200 words that breaks no rule of the row, on whatever subject: add it to a task's
    reward, don't use it instead.
    """
    parts = [(weight, _PARTS[name](prompts=prompts, completions=completions)) for name, weight in WEIGHTS.items()]
    totals = [sum(weight * (scores[row] or 0.0) for weight, scores in parts) for row in range(len(completions))]
    for column, gate in _GATES.items():
        if columns.get(column) is not None:
            gated = gate(completions=completions, **{column: columns[column]})
            totals = [total if score is None else total * score for total, score in zip(totals, gated, strict=True)]
    return [
        total if words(completion_text(completion)) else 0.0
        for total, completion in zip(totals, completions, strict=True)
    ]
