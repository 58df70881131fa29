"""Rewards for translations, all in [0, 1], 1 best.

A row needs `source`, the text to be translated. `chrf`, `bleu` and `ter` read `reference`: a translation by people, or
a list of several. `target_language` reads the column of that name, an ISO 639 code such as "fr". A row is not graded
(None) where the column that a reward is about is None.

What needs no reference can be had with any sentence in the target language; chrF can be had in part by copying names
and cognates: on short technical English-French texts, the untranslated source scores as high as a small model.
`composite` (`WEIGHTS`) therefore adds chrF++ and BLEU to the other four, and grades only rows with a reference. `ter`
is not in it, so that it can tell on held-out rows whether the reward is being gamed: it counts edits.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from reward_models._extra import needs_extra
from reward_models._language import language_fit
from reward_models._prose import clean_characters, copied_share, ramp, words
from reward_models._text import completion_text
from reward_models._translation_examples import EXAMPLES

__all__ = [
    "EXAMPLES",
    "REWARDS",
    "WEIGHTS",
    "LengthRatio",
    "bleu",
    "chrf",
    "chrf_plus",
    "composite",
    "length_ratio",
    "no_copy",
    "preserved",
    "target_language",
    "ter",
]

COPY_BAND = (0.2, 0.8)  # share of words copied from the source: free up to, worthless at
SHORTEST_RUN = 3  # copied words in a row; single ones are names and cognates
WIDE = 2.5  # letters that one character of a script without spaces stands for
CHARACTER_TOKENS = {"zh": "zh", "ja": "char", "ko": "char", "th": "char", "lo": "char", "km": "char", "my": "char"}

Scores = list[float | None]

_WIDE = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]")
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]")
# What must survive translation letter by letter: links, mail addresses, markup, placeholders, file names, numbers.
_FIXED = re.compile(
    r"https?://[^\s<>\"'»”)]*[^\s<>\"'»”).,;:!?]|[\w.+-]{1,64}@[\w-]{1,255}\.[\w.]{0,255}\w|</?[a-zA-Z][^<>]*>|\{\{?\w*\}?\}|%\(\w+\)[sdif]|"
    r"%[sdif]\b|\$\{?\w+\}?|\d+(?:[.,:\u00a0\u202f]\d+)*"
)


def chrf(completions: Sequence[Any], reference: Sequence[Any], **_: Any) -> Scores:
    """Score the overlap with the reference in letters: sentence-level chrF of sacrebleu, with several, the best.

    Range: [0, 1] (sacrebleu's 100 is 1); None where the row has no reference.
    Source: Popović 2015, "chrF: character n-gram F-score for automatic MT evaluation".
    Gaming: text in the right letters earns 0.1 to 0.2, and between related languages the source itself more than that;
    no_copy and target_language guard. Recall counts double, so that padding is cheap; length_ratio guards. Words in
    any order lose little; chrf_plus and bleu take more.
    """
    return _chrf(completions, reference, "chrf")


def chrf_plus(completions: Sequence[Any], reference: Sequence[Any], **_: Any) -> Scores:
    """Score the overlap with the reference in letters and in words and pairs of words: sacrebleu's chrF++.

    Range: [0, 1]; None where the row has no reference. For references in scripts without spaces, the same as chrf.
    Source: Popović 2017, "chrF++: words helping character n-grams".
    Gaming: as chrf, but words in any order, and repeated ones, lose more.
    """
    return _chrf(completions, reference, "chrf++")


def bleu(
    completions: Sequence[Any],
    reference: Sequence[Any],
    target_language: Sequence[str | None] | None = None,
    **_: Any,
) -> Scores:
    """Score the overlap with the reference in words: sentence-level BLEU of sacrebleu, exponentially smoothed.

    Range: [0, 1] (sacrebleu's 100 is 1); None where the row has no reference. Orders of n-grams that a short text
    doesn't have are left out. Chinese, Japanese, Korean and South-East Asian scripts are compared by characters if the
    row has a `target_language`.
    Source: Papineni et al. 2002, "BLEU"; Chen and Cherry 2014, "A Systematic Comparison of Smoothing Techniques for
    Sentence-Level BLEU".
    Gaming: hard to raise without the reference's words; a text of one right word scores high only if the reference is
    as short. Noisy for single sentences, and blind to synonyms: don't optimize it alone.
    """
    languages = [None] * len(completions) if target_language is None else target_language
    return [
        None if not wanted else _scored(completion_text(completion).strip(), _references(wanted), _tokenizer(code))
        for completion, wanted, code in zip(completions, reference, languages, strict=True)
    ]


def ter(completions: Sequence[Any], reference: Sequence[Any], **_: Any) -> Scores:
    """Score how little an editor would have to change: 1 - TER of sacrebleu, at least 0; for evaluation.

    Range: [0, 1]; 1 for the reference itself, 0 where as many edits are due as the reference has words; None where the
    row has no reference. Meant for spaced scripts: a sentence without spaces is one word, right or wrong.
    Source: Snover et al. 2006, "A Study of Translation Edit Rate with Targeted Human Annotation".
    Slow for long wrong texts: 0.2 seconds for 30 words in no order, a second for 100.
    Gaming: short safe texts lose less than long wrong ones. It is part of no composite.
    """
    return [
        None if not wanted else _edit_score(completion_text(completion).strip(), _references(wanted))
        for completion, wanted in zip(completions, reference, strict=True)
    ]


def target_language(
    completions: Sequence[Any],
    target_language: Sequence[str | None],
    source: Sequence[str | None] | None = None,
    **_: Any,
) -> Scores:
    """Score whether the text is in the target language, by a real detector (py3langid).

    Range: [0, 1]; 1 where the target is the most probable language, else its probability relative to the most
    probable one's; look-alike letters and invisible characters multiply it down. A text without letters earns 0,
    unless the source has none either.
    Gaming: any text in the language, even a bag of its words; chrf guards.
    """
    sources = [None] * len(completions) if source is None else source
    scores: Scores = []
    for completion, code, original in zip(completions, target_language, sources, strict=True):
        text = completion_text(completion)
        if code is None:
            scores.append(None)
        elif original is not None and original.strip() and not _has_letters(original) and not _has_letters(text):
            scores.append(float(bool(text.strip())))
        else:
            scores.append(language_fit(text, code) * clean_characters(text))
    return scores


def no_copy(
    completions: Sequence[Any], source: Sequence[str | None], reference: Sequence[Any] | None = None, **_: Any
) -> Scores:
    """Score the absence of untranslated passages: runs of three or more words (all of a shorter text) of the source.

    Range: [0, 1]; 1 while they make up at most 20% of the words, 0 from 80% on, and for no words. What the reference
    copies, too, is free: some texts read the same in both languages.
    Gaming: any text that is not the source; chrf and target_language guard.
    """
    references = [None] * len(completions) if reference is None else reference
    scores: Scores = []
    for completion, original, wanted in zip(completions, source, references, strict=True):
        if original is None:
            scores.append(None)
            continue
        said, given = words(completion_text(completion)), words(original)
        allowed = max((_copied(words(human), given) for human in _references(wanted)), default=0.0)
        scores.append(ramp(_copied(said, given) - allowed, *reversed(COPY_BAND)) if said else 0.0)
    return scores


def length_ratio(
    completions: Sequence[Any], source: Sequence[str | None], reference: Sequence[Any] | None = None, **_: Any
) -> Scores:
    """Score a length between 0.7 and 1.4 times the reference's, or 0.5 and 2 times the source's; see `LengthRatio`.

    Range: [0, 1]; where the row has no reference, the source stands in for it, with a wider band.
    Gaming: anything of the right length.
    """
    return LengthRatio()(completions, source, reference)


@dataclasses.dataclass(frozen=True)
class LengthRatio:
    """A reward for a length, relative to the reference's or else the source's, inside a band, in [0, 1].

    Lengths are letters; a Chinese, Japanese or Korean character stands for 2.5. `slack` letters are added to both, so
    that single words may differ more. Linear ramps outside: 0 at `low` / 2 (and for no text) and at 1.3 * `high`.
    With the source in place of a reference, the band is as wide again: `low` / `high` to `high` / `low`.
    Source: length ratios as evidence of translation, Gale and Church 1993, "A Program for Aligning Sentences".

    Args:
        low: least ratio that earns 1, in (0, 1].
        high: greatest ratio that earns 1, at least 1.
        slack: letters added to both lengths, at least 0.
    """

    low: float = 0.7
    high: float = 1.4
    slack: float = 6.0
    __name__: ClassVar[str] = "length_ratio"

    def __post_init__(self) -> None:
        if not 0.0 < self.low <= 1.0 <= self.high or self.slack < 0:
            raise ValueError(
                f"LengthRatio: 0 < low {self.low} <= 1 <= high {self.high} and slack {self.slack} >= 0 must hold"
            )

    def __call__(
        self,
        completions: Sequence[Any],
        source: Sequence[str | None],
        reference: Sequence[Any] | None = None,
        **_: Any,
    ) -> Scores:
        """Score each completion."""
        references = [None] * len(completions) if reference is None else reference
        scores: Scores = []
        for completion, original, wanted in zip(completions, source, references, strict=True):
            text = completion_text(completion).strip()
            if original is None:
                scores.append(None)
            elif not text:
                scores.append(0.0)
            elif wanted:
                scores.append(max(self._fit(text, human, self.low, self.high) for human in _references(wanted)))
            else:
                scores.append(self._fit(text, original, self.low / self.high, self.high / self.low))
        return scores

    def _fit(self, text: str, model: str, low: float, high: float) -> float:
        ratio = (_letters(text) + self.slack) / max(1.0, _letters(model.strip()) + self.slack)
        return min(ramp(ratio, low / 2.0, low), ramp(ratio, 1.3 * high, high))


def preserved(completions: Sequence[Any], source: Sequence[str | None], **_: Any) -> Scores:
    """Score whether what needs no translation survives: numbers, links, mail addresses, markup, placeholders.

    Range: [0, 1]; F-measure between the source's and the completion's, each as often as it stands there (numbers by
    their digits, as separators differ between languages); 1 where the source and the completion have none, 0 for no
    text.
    Gaming: copying just these, or any text if the source has none; chrf guards. Numbers written out count as lost.
    """
    scores: Scores = []
    for completion, original in zip(completions, source, strict=True):
        if original is None:
            scores.append(None)
            continue
        text = completion_text(completion)
        wanted, found = _fixed(original), _fixed(text)
        if not any(character.isalnum() for character in text):
            scores.append(0.0)
        elif not wanted and not found:
            scores.append(1.0)
        else:
            scores.append(2.0 * (wanted & found).total() / (wanted.total() + found.total()))
    return scores


REWARDS: dict[str, Callable[..., Scores]] = {
    "chrf_plus": chrf_plus,
    "bleu": bleu,
    "target_language": target_language,
    "no_copy": no_copy,
    "length_ratio": length_ratio,
    "preserved": preserved,
}
WEIGHTS = {
    "chrf_plus": 0.35,
    "bleu": 0.2,
    "target_language": 0.15,
    "no_copy": 0.1,
    "length_ratio": 0.1,
    "preserved": 0.1,
}
CHRF_FULL = 0.5  # chrF++ from which the other parts count in full; chance agreement lies at 0.1 to 0.2


def composite(
    completions: Sequence[Any], source: Sequence[str | None], reference: Sequence[Any], **columns: Any
) -> Scores:
    """Score a translation by the weighted sum of the six rewards (`WEIGHTS`); None without source or reference.

    Range: [0, 1]. The four that any sentence of the target language satisfies count in proportion to chrF++ up to 0.5.
    Without a column `target_language`, or where it is None, the other weights are scaled up to a sum of 1.
    Gaming: chrF++ is blind to meaning: a negation dropped costs little. Watch `ter`, and people, on held-out rows.
    """
    rows = {"completions": completions, "source": source, "reference": reference, **columns}
    names = [name for name in WEIGHTS if name != "target_language" or columns.get("target_language") is not None]
    parts = {name: REWARDS[name](**rows) for name in names}
    return [
        None if original is None or not wanted else _weighted({name: parts[name][row] for name in names})
        for row, (original, wanted) in enumerate(zip(source, reference, strict=True))
    ]


def _weighted(scores: dict[str, float | None]) -> float:
    graded = {name: score for name, score in scores.items() if score is not None}
    earned = min(1.0, graded["chrf_plus"] / CHRF_FULL)
    total = sum(
        WEIGHTS[name] * score * (1.0 if name in ("chrf_plus", "bleu") else earned) for name, score in graded.items()
    )
    return total / sum(WEIGHTS[name] for name in graded)


def _references(reference: Any) -> tuple[str, ...]:
    if not reference:
        return ()
    return (reference,) if isinstance(reference, str) else tuple(reference)


def _copied(said: Sequence[str], source: Sequence[str]) -> float:
    return copied_share(said, source, min(SHORTEST_RUN, max(1, len(said))))


def _letters(text: str) -> float:
    return len(text) + (WIDE - 1.0) * len(_WIDE.findall(text))


def _has_letters(text: str) -> bool:
    return any(character.isalpha() for character in text)


def _fixed(text: str) -> Counter[str]:
    found = _FIXED.findall(text)
    return Counter(re.sub(r"\D", "", part) if part[0].isdigit() and "@" not in part else part for part in found)


def _tokenizer(language: str | None) -> str:
    code = "" if language is None else language.replace("_", "-").split("-")[0].lower()
    return CHARACTER_TOKENS.get(code, "13a")


def _chrf(completions: Sequence[Any], reference: Sequence[Any], metric: str) -> Scores:
    scores: Scores = []
    for completion, wanted in zip(completions, reference, strict=True):
        references = _references(wanted)
        spaced = not any(_WIDE.search(human) or _UNSPACED.search(human) for human in references)
        text = completion_text(completion).strip()
        scores.append(_scored(text, references, metric if spaced else "chrf") if references else None)
    return scores


@functools.lru_cache(maxsize=8192)
def _scored(text: str, references: tuple[str, ...], metric: str) -> float:
    if not text:
        return 0.0
    # sacrebleu's logarithms may overshoot 100 by a rounding error.
    return min(1.0, max(0.0, _scorer(metric).sentence_score(text, list(references)).score / 100.0))


@functools.lru_cache(maxsize=8192)
def _edit_score(text: str, references: tuple[str, ...]) -> float:
    shortest = min(len(human.split()) for human in references)
    if not text or len(text.split()) >= 2 * max(1, max(len(human.split()) for human in references)):
        return 0.0  # nothing said; or so much that what must be deleted alone exceeds the reference
    if not shortest:
        return 0.0
    return min(1.0, max(0.0, 1.0 - _scorer("ter").sentence_score(text, list(references)).score / 100.0))


@functools.cache
def _scorer(metric: str) -> Any:
    """One of sacrebleu's "chrf", "chrf++", "ter", or BLEU with the tokenizer of another name."""
    with needs_extra():
        from sacrebleu.metrics import BLEU, CHRF, TER

    if metric == "ter":
        return TER()
    if metric.startswith("chrf"):
        return CHRF(word_order=2 if metric == "chrf++" else 0)
    return BLEU(tokenize=metric, effective_order=True)
