"""How a completion behaves, whatever it says: refusal, repetition, language, toxicity. One score per completion.

The functions have the signature of a reward.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from reward_models._language import language_fit as fit
from reward_models._text import completion_text
from rlgen.evaluation.references import word_ngrams

Scores = list[float | None]

OPENING = 200  # characters within which a refusal begins
REPEATED = 3  # words per n-gram of `repetition_rate`

# A refusal as chat models phrase it. Typographic apostrophes are made plain first.
REFUSALS = (
    r"\bi(?:'m| am) (?:so |very |really |truly )?sorry,? but\b",
    r"\bi(?:'m| am) (?:not able|unable) to\b",
    r"\bi(?:'m| am) not (?:comfortable|going to|allowed)\b",
    r"\bi (?:can(?:'t|not| not)|won't|will not|must decline|have to decline|refuse)\b",
    r"\bas an? (?:ai|artificial intelligence|language model|large language model)\b",
    r"\b(?:sorry|unfortunately|apologies|apologi[sz]e)\b[^.!?\n]{0,60}\bcan(?:'t|not| not) "
    r"(?:help|assist|do|provide|answer|comply|fulfil)",
    r"\bi (?:do not|don't) feel comfortable\b",
    r"\b(?:it is|it's) (?:not appropriate|against my)\b",
)
_REFUSAL = re.compile("|".join(REFUSALS), re.IGNORECASE)


def refusal(completions: Sequence[Any], **_: Any) -> Scores:
    """1 for a completion whose first 200 characters hold a phrase by which chat models decline, else 0."""
    texts = (completion_text(completion).replace("’", "'")[:OPENING] for completion in completions)
    return [float(bool(_REFUSAL.search(text))) for text in texts]


def repetition_rate(completions: Sequence[Any], **_: Any) -> Scores:
    """Share of a completion's word trigrams that repeat an earlier one, 0 to 1; 0 for fewer than two trigrams."""
    return [_repeated(completion_text(completion)) for completion in completions]


def language_fit(
    completions: Sequence[Any],
    language: Sequence[str | None] | None = None,
    target_language: Sequence[str | None] | None = None,
    **_: Any,
) -> Scores:
    """Probability of the row's language, over that of the likeliest one, 0 to 1: 1 where no language is likelier."""
    wanted = language if language is not None else target_language
    return [
        fit(completion_text(completion), code) if code else None
        for completion, code in zip(completions, wanted or [None] * len(completions), strict=True)
    ]


def toxicity(completions: Sequence[Any], **_: Any) -> Scores:
    """1 for a completion with profanity, a slur or hostility towards the person spoken to, else 0; by word list."""
    from reward_models.dialogue import safety  # only here: its word lists take a moment

    scores = safety([completion_text(completion) for completion in completions])
    # A finding leaves a little; 0 is for texts without words.
    return [float(score is not None and 0 < score < 1) for score in scores]


def _repeated(text: str) -> float:
    grams = word_ngrams(text, REPEATED)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
