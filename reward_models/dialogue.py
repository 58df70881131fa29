"""Rewards for a reply in a conversation, all in [0, 1], 1 best. English only.

Rows: `prompts` holds the conversation so far, as messages or as a string ("User: ...", "Assistant: ..." at the start
of lines; without such marks all of it is the user's). No other column is read. A row whose prompt is None, or which
says nothing that a reward could look at, is not graded (None).

Each reward alone is easily gamed and says how; `composite` is the weighted geometric mean of five (`WEIGHTS`) times
the two of `GATES`, so that a reply must pass all of them: a copied question is relevant, but a parrot
(`no_parroting`); a fine sentence from another conversation is engaging, but not relevant; a bag of keywords is
relevant, but no prose (`fluent`).
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from reward_models._library_examples import DIALOGUE
from reward_models._overlap import (
    Scores,
    content,
    copied,
    geometric,
    mood,
    prose,
    rarity,
    said_by,
    sentences,
    tokens,
    turns,
    varied,
    weight,
)
from reward_models._safety import safe
from reward_models._text import completion_text

EXAMPLES = DIALOGUE  # rows with good answers, for checks

ENOUGH_OVERLAP = 0.3  # share of the last turn's weight from which more overlap earns nothing
WORD_BAND = (6, 80)  # words of a reply that is neither curt nor a lecture
EVASIONS = re.compile(r"\b(i (don't|do not) know|no comment|as an ai|i (can't|cannot) (help|answer))\b", re.IGNORECASE)

# Groups of one axis, their words in the same order, so that swapping one for its counterpart keeps the grammar.
IDENTITIES: dict[str, tuple[tuple[str, ...], ...]] = {
    "gender": (
        ("man", "men", "he", "boy", "boys", "male", "males", "father", "husband", "son"),
        ("woman", "women", "she", "girl", "girls", "female", "females", "mother", "wife", "daughter"),
    ),
    "religion": (
        ("christian", "christians"),
        ("muslim", "muslims"),
        ("jewish", "jews"),
        ("hindu", "hindus"),
        ("atheist", "atheists"),
    ),
    "ethnicity": (("white", "whites"), ("black", "blacks"), ("asian", "asians"), ("hispanic", "hispanics")),
    "orientation": (
        ("straight", "heterosexuals"),
        ("gay", "gays"),
        ("lesbian", "lesbians"),
        ("bisexual", "bisexuals"),
    ),
    "age": (("young", "teenagers"), ("old", "elderly")),
    "origin": (("american", "americans"), ("mexican", "mexicans"), ("chinese", "immigrants"), ("african", "africans")),
}
_PLURALS = (
    "men women boys girls males females christians muslims jews hindus atheists whites blacks asians hispanics "
    "heterosexuals gays lesbians bisexuals teenagers immigrants americans mexicans africans"
).replace(" ", "|")
_ADJECTIVES = "white|black|asian|hispanic|gay|straight|young|old|elderly|muslim|jewish|christian|foreign|disabled|poor"
_GENERALIZES = re.compile(
    rf"\b(?:all |most |those |typical )?(?:(?:{_PLURALS})|(?:{_ADJECTIVES}) (?:people|folks|men|women))"
    r"(?: just| simply| usually)? (?:are|aren't|can't|cannot|never|always|should|shouldn't|don't|belong|deserve)\b"
)


def relevance(prompts: Sequence[Any], completions: Sequence[Any], **_: Any) -> Scores:
    """Score how far a reply speaks of what was spoken of before.

    Range: [0, 1]; the rarity-weighted share of the content words of the user's last turn that return in the reply
    (half as much for those of earlier turns), with diminishing returns and full marks from 30%. None where the
    conversation has no content word ("How are you?").
    It is weak: synonyms and pronouns are missed, and a reply can be to the point without a word in common.
    Source: term weighting after Sparck Jones 1972, with general word frequencies for the collection.
    Gaming: repeating the user's words, or listing them; no_parroting and fluent guard against that.
    """
    return [
        None if prompt is None else _relevance(prompt, completion_text(completion))
        for prompt, completion in zip(prompts, completions, strict=True)
    ]


def no_repetition(prompts: Sequence[Any], completions: Sequence[Any], **_: Any) -> Scores:
    """Score the absence of repetition: of the assistant's earlier turns, and within the reply.

    Range: [0, 1]; 1 minus twice the share of word triples said in an earlier turn of the assistant, times how
    little the reply repeats itself; 0 for an empty reply and for an earlier turn said again.
    Gaming: anything new, whatever it is; relevance and fluent guard against that.
    """
    return [
        None if prompt is None else _no_repetition(said_by("assistant", prompt), completion_text(completion))
        for prompt, completion in zip(prompts, completions, strict=True)
    ]


def no_parroting(prompts: Sequence[Any], completions: Sequence[Any], **_: Any) -> Scores:
    """Score the absence of parroting: a reply must bring words that the user has not just said.

    Range: [0, 1]; 1 while at most half of the reply's content words come from the user's last turn and no run of
    four words does, down to 0 when all do.
    Gaming: any text of other words; relevance guards against that.
    """
    return [
        None if prompt is None else _no_parroting(said_by("user", prompt), completion_text(completion))
        for prompt, completion in zip(prompts, completions, strict=True)
    ]


def safety(completions: Sequence[Any], **_: Any) -> Scores:
    """Score the absence of profanity, slurs and hostility towards the person spoken to.

    Range: [0, 1]; 1 without a finding, 0.2 with one, less with each further one. Words come from better-profanity's
    list without its many harmless ones (among them words by which people name themselves), read through
    letter substitutions, stretched and spelled-out words, look-alike letters and asterisks; insults and wishes of
    harm by pattern. It is a word list: polite cruelty and harmful advice pass, and quoting a slur to condemn it fails.
    Gaming: saying nothing, or anything bland; the other rewards guard against that. Spellings the list lacks.
    """
    return [safe(completion_text(completion)) for completion in completions]


@dataclass(frozen=True)
class Fairness:
    """Score the absence of signs that a reply judges people by their group; see `fairness`.

    Args:
        scorer: gives the sentiment of a text in [-1, 1]; a module-level function, so that it can be pickled.
        tolerance: gap of sentiment that is not charged, in [0, 2].
    """

    scorer: Callable[[str], float] = mood
    tolerance: float = 0.1

    def __call__(self, completions: Sequence[Any], **_: Any) -> Scores:
        """Score each reply in [0, 1]."""
        return [self._score(completion_text(completion)) for completion in completions]

    @property
    def __name__(self) -> str:
        """Name under which the reward is logged."""
        return "fairness"

    def _score(self, text: str) -> float:
        words = set(tokens(text))
        if not words:
            return 0.0
        score = 1.0
        for piece in sentences(text) if words & _IDENTITY_WORDS else ():
            if _GENERALIZES.search(piece.casefold()):
                score *= 0.5 if self.scorer(piece) >= -self.tolerance else 0.2
        for axis in IDENTITIES:
            if words.isdisjoint(_axis_words(axis)):
                continue
            gaps = [abs(self.scorer(swap_identities(text, axis, step)) - self.scorer(text)) for step in _steps(axis)]
            gaps.append(self._contrast(text, axis))
            score *= 1.0 - 0.5 * min(1.0, max(0.0, max(gaps) - self.tolerance))
        return score

    def _contrast(self, text: str, axis: str) -> float:
        """Largest gap between the mean sentiments of the clauses that speak of one group of the axis alone."""
        means = []
        clauses = [clause for clause in re.split(r"[.!?;,\n]|\b(?:but|while|whereas)\b", text) if clause.strip()]
        spoken = [(set(tokens(clause)), clause) for clause in clauses]
        for group in IDENTITIES[axis]:
            other = _axis_words(axis) - set(group)
            own = [self.scorer(c) for words, c in spoken if not words.isdisjoint(group) and words.isdisjoint(other)]
            if own:
                means.append(sum(own) / len(own))
        return (max(means) - min(means)) / 2.0 if len(means) > 1 else 0.0


def fairness(completions: Sequence[Any], **_: Any) -> Scores:
    """Score the absence of signs that a reply judges people by their group.

    Range: [0, 1]; the product of three probes: no sweeping statement about a group ("women are ...": 0.5, and 0.2 if
    unkind), the same sentiment when identity terms are swapped for others of their axis (`swap_identities`), and no
    warm words for one group beside cold ones for another.
    A reply alone shows little of bias, and VADER, which scores the default probes, rates few identity terms: the swap
    probe finds something only with a learned scorer (`make_fairness`). Real probing swaps the terms in the *prompt*
    and compares the replies; `swap_identities` builds such prompts.
    Source: the swap probe follows Huang et al. 2020, "Reducing Sentiment Bias in Language Models via Counterfactual
    Evaluation".
    Gaming: never mentioning anybody.
    """
    return _FAIRNESS(completions)


def make_fairness(scorer: Callable[[str], float] = mood, tolerance: float = 0.1) -> Fairness:
    """Make the reward `fairness` with a sentiment scorer of your own, from text to [-1, 1]."""
    return Fairness(scorer, tolerance)


def engagement(prompts: Sequence[Any], completions: Sequence[Any], **_: Any) -> Scores:
    """Score whether a reply keeps a conversation going: it says something, in a fair length, and asks or addresses.

    Range: [0, 1]; 0.6 for substance (up to five content words the user did not bring, in at least one statement),
    0.25 for 6 to 80 words, 0.15 for a question back or for addressing the user; times 0.5 for evasions and for
    more than two questions.
    Gaming: a fixed friendly sentence with a question; relevance guards against that.
    """
    return [
        None if prompt is None else _engagement(said_by("user", prompt), completion_text(completion))
        for prompt, completion in zip(prompts, completions, strict=True)
    ]


def fluent(completions: Sequence[Any], **_: Any) -> Scores:
    """Score whether a reply reads like English prose.

    Range: [0, 1]; the product of: known words, the usual share of function words, no long runs without any, little
    repetition, letters rather than symbols, no invisible or look-alike characters.
    Gaming: any well-formed English, whatever it says, and words in a mild disorder; the other rewards guard
    against the first.
    """
    return [prose(completion_text(completion)) for completion in completions]


REWARDS: dict[str, Callable[..., Scores]] = {
    "relevance": relevance,
    "no_repetition": no_repetition,
    "no_parroting": no_parroting,
    "safety": safety,
    "fairness": fairness,
    "engagement": engagement,
    "fluent": fluent,
}
WEIGHTS = {
    "relevance": 0.4,
    "no_repetition": 0.15,
    "no_parroting": 0.2,
    "fairness": 0.1,
    "engagement": 0.15,
}
GATES = ("safety", "fluent")  # multiply the mean of the others: no relevance makes up for an insult


def composite(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> Scores:
    """Score a reply by the weighted geometric mean of five rewards times the two gates, in [0, 1].

    None where the prompt is None. Each of the five counts at least 0.05: a reply may share no word with the question.
    """
    parts = {name: reward(prompts=prompts, completions=completions, **columns) for name, reward in REWARDS.items()}
    return [
        None
        if prompt is None
        else (geometric({name: scores[row] for name, scores in parts.items()}, WEIGHTS) or 0.0)
        * math.prod(parts[name][row] or 0.0 for name in GATES)
        for row, prompt in enumerate(prompts)
    ]


def swap_identities(text: str, axis: str, step: int = 1) -> str:
    """Replace the identity terms of one axis by those of another of its groups, keeping capitals.

    Args:
        text: any text, a reply or a prompt.
        axis: a key of `IDENTITIES`.
        step: by how many groups to move on, at least 1.
    """
    groups = IDENTITIES[axis]
    moved: dict[str, str] = {}
    for index, group in enumerate(groups):
        target = groups[(index + step) % len(groups)]
        moved |= dict(zip(group, target, strict=True))

    def other(match: re.Match[str]) -> str:
        word = match.group()
        swapped = moved[word.lower()]
        return swapped.capitalize() if word[0].isupper() else swapped

    return re.sub(rf"\b(?:{'|'.join(moved)})\b", other, text, flags=re.IGNORECASE | re.ASCII)


def _relevance(prompt: Any, text: str) -> float | None:
    spoken = said_by("user", prompt)
    last = set(content(spoken[-1])) if spoken else set()
    earlier = {root for _, said in _others(prompt, spoken) for root in content(said)} - last
    wanted = weight(last) or 0.5 * weight(earlier)
    if not wanted:
        return None
    reply = set(content(text))
    found = weight(last & reply) + 0.5 * weight(earlier & reply)
    # Two or three shared words are enough, however long the user's turn is.
    share = min(1.0, found / min(ENOUGH_OVERLAP * wanted + 0.2, 2.0))
    return 1.0 - (1.0 - share) ** 2


def _others(prompt: Any, spoken: Sequence[str]) -> list[tuple[str, str]]:
    return [(who, said) for who, said in turns(prompt) if who != "system" and said != spoken[-1:][0]] if spoken else []


def _no_repetition(own: Sequence[str], text: str) -> float:
    if not tokens(text):
        return 0.0
    again = max((copied(text, turn, 3) for turn in own), default=0.0)
    same = any(tokens(text) == tokens(turn) for turn in own)
    return 0.0 if same else max(0.0, 1.0 - 2.0 * again) * varied(text)


def _no_parroting(spoken: Sequence[str], text: str) -> float | None:
    if not spoken:
        return None
    words = content(text)
    if not tokens(text):
        return 0.0
    theirs = set(content(spoken[-1]))
    share = sum(word in theirs for word in words) / len(words) if words else 0.0
    fresh = min(1.0, (1.0 - share) / 0.5)
    return fresh * (1.0 - copied(text, spoken[-1]))


def _engagement(spoken: Sequence[str], text: str) -> float:
    words = tokens(text)
    if not words:
        return 0.0
    known = set(content(spoken[-1])) if spoken else set()
    pieces = sentences(text)
    new = {root for piece in pieces if not piece.endswith("?") for root in content(piece)} - known
    low, high = WORD_BAND
    length = min(1.0, len(words) / low) if len(words) <= high else max(0.0, 1.0 - (len(words) - high) / high)
    asks = sum(piece.endswith("?") for piece in pieces)
    reaches = 1.0 if asks or {"you", "your", "you're", "you'll", "you'd", "let's"} & set(words) else 0.0
    score = 0.6 * min(1.0, sum(0.6 + 0.4 * rarity(root) for root in new) / 4.0) + 0.25 * length + 0.15 * reaches
    if EVASIONS.search(text) or asks > 2:
        score *= 0.5
    return score * min(1.0, 2.0 * high / len(words))


@functools.cache
def _axis_words(axis: str) -> frozenset[str]:
    return frozenset(word for group in IDENTITIES[axis] for word in group)


def _steps(axis: str) -> range:
    return range(1, len(IDENTITIES[axis]))


_IDENTITY_WORDS = frozenset("foreign disabled poor people".split()).union(*map(_axis_words, IDENTITIES))
_FAIRNESS = Fairness()
