"""Rewards for one-line docstrings, all in [0, 1], 1 best, and ROUGE-L for evaluation only.

Every reward has TRL's signature and reads the column `code`: the function's source without its docstring. A row whose
`code` is None is not graded (None). The five are made to be added up (`WEIGHTS`): each closes a door that another one
leaves open. A text of rare words copied from the code grounds perfectly, but is no sentence (`fluent`) and an echo
(`no_echo`); a flawless generic sentence is grounded in nothing (`grounding`) and says nothing (`informative`).
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Sequence
from typing import Any

from reward_models._code import Code, english, read_code
from reward_models._code_words import COMMONPLACE, GENERIC
from reward_models._docstring_examples import EXAMPLES as EXAMPLES
from reward_models._text import (
    DETERMINERS,
    FUNCTION_WORDS,
    PREPOSITIONS,
    VERBS,
    completion_text,
    imperative,
    stem,
    subwords,
    words_of,
)

MAX_CHARS = 80
WORD_BAND = (5, 14)  # words of a docstring that is neither curt nor rambling
ENOUGH_SUPPORT = 0.4  # share of content words found in the code from which more earns nothing
ENOUGH_TOPIC = 0.6  # the same for the words of the function's name
NAME_SHARE = 0.65  # how much of grounding is about the words of the name, rather than any words of the code
COPY_DISCOUNT = 0.4  # what grounding loses when every content word is a bare identifier word
LITERAL_BAND = (0.6, 1.0)  # share of content words that are bare identifier words: free up to, worthless at

Scores = list[float | None]

_MARKUP = re.compile(r"[`\"*<>{}\[\]|\\=#@~^$]|'(?![a-z]{1,2}\b)|::|->|>>>|\bdef \w|\blambda\b|\w\(")
_RAW_TOKEN = re.compile(
    r"\w*_\w*|[A-Za-z]\w*\(|\b[A-Za-z]\w*\.[A-Za-z]\w*|\b[a-z]+[A-Z]\w*|\b\w+\d\w*|[=+<>{}\[\]]+|\bself\b"
)
_CLASS_NAME = re.compile(r"[A-Z][a-z]+[A-Z]\w*,?")
_SENTENCE_END = re.compile(r"[.!?;:]+(?=\s+\S)|[.!?](?=[A-Z])")
_SELF_REFERENCE = re.compile(r"^(this|the|a|an) (\w+ )?(function|method|code|docstring|class)\b", re.IGNORECASE)


def pep257(completions: Sequence[Any], code: Sequence[str | None], **_: Any) -> Scores:
    """Score the form that PEP 257 asks of a one-line docstring.

    Range: [0, 1]; 1 for one line of at most 80 characters, one sentence, capitalized, ending with a period, opening
    with a verb in the imperative, without quotes, markup or signature. Each fault multiplies the score down, by more
    the graver it is.
    Gaming: any well-formed sentence gets full marks, whatever it says; grounding and informative guard against that.
    """
    return _score(completions, code, lambda text, _: _form(text))


def grounding(completions: Sequence[Any], code: Sequence[str | None], **_: Any) -> Scores:
    """Score faithfulness: does the sentence speak of what this code speaks of.

    Range: [0, 1]; two parts: how far the words of the function's name are expressed, and the share of content words
    that the code supports (its identifiers split into words, comments, strings, and English words for its constructs;
    words that fit much code count half). Less where the opening verb does not fit the code.
    Gaming: copying identifiers. Both parts saturate (at 60% of the name, 40% of the content words), so that more
    copying earns nothing; words that are all copied and bags of words are discounted here and charged by no_echo and
    fluent. A false sentence made of the right words is not seen.
    """
    return _score(completions, code, _grounding)


def no_echo(completions: Sequence[Any], code: Sequence[str | None], **_: Any) -> Scores:
    """Score the absence of copying: plain English, not code said again.

    Range: [0, 1]; 1 for a sentence without raw code tokens, without runs of words in the order of the code, not made
    of identifier words alone, and saying more than the function's name or its parameter list.
    Gaming: any text that has nothing to do with the code; grounding guards against that.
    """
    return _score(completions, code, _no_echo)


def informative(completions: Sequence[Any], code: Sequence[str | None], **_: Any) -> Scores:
    """Score how much the sentence tells: enough words, specific ones, and something beyond the function's name.

    Range: [0, 1]; the product of a length band (5 to 14 words), the share of specific words, and how far
    (saturating at two words each) it adds to the name and mentions what the body does.
    Gaming: padding up to 14 words. Generic words don't count, repeated ones count once, one word at least must not be
    an identifier's, and grounding looks at what the added words are.
    """
    return _score(completions, code, _informative)


def fluent(completions: Sequence[Any], code: Sequence[str | None], **_: Any) -> Scores:
    """Score whether the text reads like an English sentence.

    Range: [0, 1]; the product of: opens with a verb, has the usual share of function words, no long noun pile, no
    impossible neighbors ("of the for"), no repeated words or pairs, balanced brackets, plain ASCII words.
    Gaming: identifiers glued together with "of the"; no_echo and the word band of informative guard against that.
    """
    return _score(completions, code, lambda text, _: _fluent(text))


def rouge_l(completions: Sequence[Any], reference: Sequence[str | None], **_: Any) -> Scores:
    """Score the overlap with the human docstring: ROUGE-L F-measure over stemmed words.

    Range: [0, 1]; None where the row has no reference. For evaluation only: it is never part of the default
    reward, so that it can tell whether the reward is being gamed.
    Source: Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries".
    """
    scorer = _rouge_scorer()
    return [
        None if human is None else scorer.score(human, completion_text(completion))["rougeL"].fmeasure
        for completion, human in zip(completions, reference, strict=True)
    ]


REWARDS: dict[str, Callable[..., Scores]] = {
    "pep257": pep257,
    "grounding": grounding,
    "no_echo": no_echo,
    "informative": informative,
    "fluent": fluent,
}
WEIGHTS = {"grounding": 0.45, "no_echo": 0.2, "informative": 0.1, "pep257": 0.125, "fluent": 0.125}


def composite(completions: Sequence[Any], code: Sequence[str | None], **columns: Any) -> Scores:
    """Score a completion by the weighted sum of the five rewards with the default weights, in [0, 1]."""
    parts = [
        (weight, REWARDS[name](completions=completions, code=code, **columns)) for name, weight in WEIGHTS.items()
    ]
    return [
        None if source is None else sum(weight * (scores[row] or 0.0) for weight, scores in parts)
        for row, source in enumerate(code)
    ]


def _score(completions: Sequence[Any], code: Sequence[str | None], judge: Callable[[str, Code], float]) -> Scores:
    texts = (completion_text(completion).strip() for completion in completions)
    return [
        None if source is None else (judge(text, read_code(source)) if words_of(text) else 0.0)
        for text, source in zip(texts, code, strict=True)
    ]


@functools.lru_cache(maxsize=8192)
def _form(text: str) -> float:
    score = 1.0
    first_line = text.splitlines()[0]
    if first_line != text:
        score *= 0.3
    if not text.endswith(".") or text.endswith(".."):
        score *= 0.5
    if len(text) > MAX_CHARS:
        score *= 0.6 * MAX_CHARS / len(text)
    if not text[0].isupper():
        score *= 0.7
    verb = words_of(text)[0]
    if verb not in VERBS or not text[0].isalpha():
        score *= 0.8 if imperative(verb) in VERBS else 0.5
    score *= 0.6 ** len(_SENTENCE_END.findall(text))
    score *= 0.7 ** min(4, len(_MARKUP.findall(text)))
    if _SELF_REFERENCE.match(text):
        score *= 0.7
    return score * _ascii_share(text)


def _grounding(text: str, code: Code) -> float:
    content = _content(text, code)
    weights = [0.5 if stem(word) in COMMONPLACE else 1.0 for word in content]
    supported = sum(weight for word, weight in zip(content, weights, strict=True) if code.supports(word))
    precision = min(1.0, supported / max(1.0, sum(weights)) / ENOUGH_SUPPORT) * min(1.0, supported / 1.5)
    topic = _topic(text, code)
    # Copied words and bags of words show no understanding, however well they match.
    earned = (1.0 - COPY_DISCOUNT * _literal_excess(content, code)) * min(1.0, _fluent(text) / 0.5)
    return (
        (NAME_SHARE * topic * (0.5 + 0.5 * precision) + (1.0 - NAME_SHARE) * precision)
        * _verb_fits(text, code)
        * earned
    )


def _verb_fits(text: str, code: Code) -> float:
    """1 where the code does what the opening verb says, less where nothing in it does."""
    verb = imperative(words_of(text)[0])
    if verb in ("return", "get", "yield"):
        return 1.0 if code.returns or code.supports(verb) else 0.7
    return 1.0 if code.supports(verb) else 0.9


def _topic(text: str, code: Code) -> float:
    """How far the words of the function's name are expressed, in [0, 1], saturating at 60% of them."""
    words = words_of(text)
    said = {*words, *map(stem, words)} - FUNCTION_WORDS
    name = [part for part in code.name if stem(part) not in GENERIC] or list(code.name)
    if not name:
        return 1.0
    expressed = sum(_expressed(part, said) for part in name) / len(name)
    return min(1.0, expressed / ENOUGH_TOPIC)


def _expressed(part: str, said: set[str]) -> bool:
    root = stem(part)
    if any(stem(word) in said for word in english(part)):
        return True
    return len(root) >= 3 and any(word.startswith(root) or (len(word) >= 4 and word in part) for word in said)


def _no_echo(text: str, code: Code) -> float:
    raw = len(_RAW_TOKEN.findall(text)) + sum(token in code.raw for token in re.findall(r"\w+", text))
    proper = sum(bool(_CLASS_NAME.fullmatch(token)) for token in text.rstrip(".").split())
    score = 1.0 / (1.0 + 3.0 * raw + 0.4 * proper)
    content = _content(text, code)
    score *= 1.0 - 0.75 * _literal_excess(content, code)
    score *= 1.0 - 0.25 * min(3, max(0, _longest_run(text, code) - 3))
    if all(stem(word) in code.names for word in content):
        score *= 0.6
    if _lists_parameters(text, code):
        score *= 0.4
    return score


def _literal_excess(content: Sequence[str], code: Code) -> float:
    """How far the sentence is made of identifier words alone, in [0, 1]; one or two such words prove nothing."""
    if len(content) < 2:
        return 0.0
    free, worthless = LITERAL_BAND
    share = sum(stem(word) in code.identifiers for word in content) / len(content)
    return min(1.0, max(0.0, (share - free) / (worthless - free))) * min(1.0, (len(content) - 1) / 3)


def _longest_run(text: str, code: Code) -> int:
    """Longest run of the text's words that the code has in the same order, function words of both left out."""
    said = [stem(word) for word in subwords(text) if word not in FUNCTION_WORDS]
    for size in (6, 5, 4):
        if any(tuple(said[i : i + size]) in code.runs for i in range(len(said) - size + 1)):
            return size
    return 0


def _lists_parameters(text: str, code: Code) -> bool:
    """Whether the sentence names nearly all of three or more parameters."""
    said = set(re.findall(r"\w+", text.lower()))
    named = sum(parameter.lower() in said for parameter in code.parameters)
    return named >= 3 and named >= 0.75 * len(code.parameters)


def _informative(text: str, code: Code) -> float:
    words = words_of(text)
    low, high = WORD_BAND
    count = len(words)
    length = 1.0
    if count < low:
        length = 0.5 + 0.5 * (count - 2) / (low - 2) if count >= 2 else 0.2
    elif count > high:
        length = max(0.0, 1.0 - (count - high) / 10)
    content = {stem(word): word for word in _content(text, code)}
    said = [word for word in words if word not in FUNCTION_WORDS]
    specific = min(1.0, len(content) / (0.4 * max(1, len(said))))
    beyond = [word for root, word in content.items() if root not in code.names]
    told = any(code.supports(word) for word in beyond)
    own = sum(root not in code.identifiers for root in content)
    variety = min(1.0, len(set(words)) / count / 0.75)
    substance = 0.1 + 0.3 * min(1.0, len(beyond) / 2) + 0.3 * told + 0.3 * bool(own)
    return length * specific * variety * substance


@functools.lru_cache(maxsize=8192)
def _fluent(text: str) -> float:
    words = words_of(text)
    count = len(words)
    score = 1.0 if imperative(words[0]) in VERBS else 0.5
    share = sum(word in FUNCTION_WORDS for word in words) / count
    low, high = (0.15, 0.65) if count < 5 else (0.25, 0.65)
    if count >= 3 and share < low:
        score *= 0.3 + 0.7 * share / low
    elif share > high:
        score *= max(0.2, 1.0 - 2.5 * (share - high))
    pile = max(len(run.split()) for run in "".join("|" if w in FUNCTION_WORDS else f" {w}" for w in words).split("|"))
    score *= max(0.3, 1.0 - 0.2 * max(0, pile - 4))
    score *= 0.7 ** _impossible_neighbors(words)
    content = [stem(word) for word in words if word not in FUNCTION_WORDS]
    score *= max(0.1, 1.0 - 0.25 * (len(content) - len(set(content))))
    pairs = list(itertools.pairwise(words))
    score *= max(0.1, 1.0 - 0.3 * (len(pairs) - len(set(pairs))))
    if text.count("(") != text.count(")") or text.count("[") != text.count("]"):
        score *= 0.7
    letters = sum(len(word) for word in words)
    score *= min(1.0, letters / (0.75 * len(text)))
    return score * _ascii_share(text)


def _impossible_neighbors(words: Sequence[str]) -> int:
    """Count determiners before function words, doubled words, and a determiner or preposition at the end."""
    faults = int(words[-1] in PREPOSITIONS - {"in", "on", "up", "by", "from", "without", "after"})
    for left, right in itertools.pairwise(words):
        after_article = left in ("a", "an", "the") and right in PREPOSITIONS | DETERMINERS - {"other", "such"}
        faults += (
            after_article or left == right or (left in ("of", "into") and right in ("for", "to", "of", "and", "in"))
        )
    return faults


def _ascii_share(text: str) -> float:
    """1 for plain ASCII, steeply less for every other letter (look-alikes of Latin letters are no English)."""
    return 0.5 ** min(6, sum(not character.isascii() for character in text))


def _content(text: str, code: Code) -> list[str]:
    """Distinct words that carry meaning: no function words, and no words that fit any function but the name's own."""
    words = [word for word in dict.fromkeys(words_of(text)) if len(word) > 1 and word not in FUNCTION_WORDS]
    return [word for word in words if stem(word) not in GENERIC or stem(word) in code.names]


@functools.cache
def _rouge_scorer() -> Any:
    from rouge_score import rouge_scorer

    return rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)
