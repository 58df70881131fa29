"""Which language a text is in, by py3langid: naive Bayes over byte n-grams, 139 languages.

Chosen over fastText's lid.176 (its model's licence, CC BY-SA, is not that of this package, and its package downloads),
langdetect (draws random numbers) and lingua (100 MB on disk, 1 GB in memory). It is deterministic, its tables are only
read (so threads may share them), and it judges thousands of sentences per second.
"""

from __future__ import annotations

import functools
from typing import Any

from reward_models._extra import needs_extra

_SYNONYMS = {"nb": "no", "iw": "he", "in": "id", "fil": "tl", "cmn": "zh", "jw": "jv"}


def language_fit(text: str, language: str) -> float:
    """How far a text passes for a language: 1 where no language is likelier, else how much likelier the best one is.

    Args:
        text: any text; numbers and punctuation alone tell nothing and fit no language.
        language: an ISO 639 code such as "fr"; a region ("fr-CA", "pt_BR") is ignored.

    Returns:
        Probability of the language, divided by that of the likeliest one, in [0, 1].

    Raises:
        ValueError: the detector does not know the language.
    """
    code = language.replace("_", "-").split("-")[0].lower()
    code = _SYNONYMS.get(code, code)
    if code not in _labels():
        known = ", ".join(sorted(_labels()))
        raise ValueError(f"language {language!r} is unknown to the detector; give an ISO 639 code, one of {known}")
    if not any(character.isalpha() for character in text):
        return 0.0
    own, best = 0.0, 0.0
    for label, probability in _ranked(text[:20_000]):
        if label == code:
            own = probability
        # Small languages beside a large one (Venetian, Wu) would take short texts away from it.
        elif len(label) == 2:
            best = max(best, probability)
    return own / max(own, best) if own else 0.0


@functools.lru_cache(maxsize=8192)
def _ranked(text: str) -> list[tuple[str, float]]:
    ranked: list[tuple[str, float]] = _identifier().rank(text)
    return ranked


@functools.cache
def _labels() -> frozenset[str]:
    return frozenset(_identifier().labels)


@functools.cache
def _identifier() -> Any:
    with needs_extra():
        from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
