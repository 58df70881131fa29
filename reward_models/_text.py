"""What several reward modules need to read a text: the completion itself, its words, and plain English word lists."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

FUNCTION_WORDS = frozenset(
    "a an the this that these those its their his her our your my any all each every some no both either neither "
    "such other another of in on at by for from to into onto with without within between among over under above "
    "below after before during through against about as like than until since via per up down out off upon across "
    "around along and or but nor so yet if whether when while where unless because although is are was were be been "
    "being has have had do does did can could may might must shall should will would not it they them he she we you "
    "i me us one who which what whose how why there here then only also just too very more most less least instead "
    "otherwise else already again once".split()
)
DETERMINERS = frozenset(
    "a an the this that these those its their any all each every some no both such another".split()
)
PREPOSITIONS = frozenset(
    "of in on at by for from to into onto with without within between among over under above below after before "
    "during through against about as than until since via per upon across around along and or but nor if whether "
    "when while where unless because the a an".split()
)

# Base forms of the verbs with which programmers open a docstring.
VERBS = frozenset(
    """
    abort accept access accumulate acquire activate adapt add adjust advance align allocate allow alter analyze
    announce append apply approximate arrange ask assemble assert assign associate attach attempt authenticate
    average await bind block break broadcast build bump cache calculate call cancel capture cast center change
    check choose clamp clean clear clip clone close collapse collect combine commit compare compile complete
    compress compute concatenate configure confirm connect construct consume continue control convert copy correct
    count create crop cut cycle deactivate debug decide declare decode decompress decorate decrease decrement
    decrypt deduce define delay delegate delete deliver derive describe deserialize destroy detach detect determine
    disable disassemble discard disconnect discover dispatch display divide do double download draw drop dump
    duplicate echo edit eliminate emit empty emulate enable encode encrypt end enforce enqueue ensure enter
    enumerate erase escape establish estimate evaluate examine exchange exclude execute exit expand expect explain
    export expose express extend extract fail feed fetch fill filter finalize find finish fire fit fix flag flatten
    flip flush fold force forget fork format forward free freeze gather generate get give go group grow guarantee
    guess handle hash hide highlight hold identify ignore implement import include increase increment indent index
    indicate infer inform inherit initialise initialize inject insert inspect install instantiate instruct
    interpolate interpret interrupt intersect invalidate invert invoke issue iterate join keep kill label launch
    leave let lift limit link list listen load locate lock log look loop lower make manage map mark mask match
    measure merge migrate minimize mirror mix modify monitor mount move multiply mutate name negate normalise
    normalize note notify number obtain offer omit open operate optimize order output override overwrite pack pad
    parse partition pass paste patch pause peek perform permit pick ping place plot poll pop populate position post
    prepare prepend present preserve pretend prevent print process produce prompt propagate protect provide prune
    publish pull purge push put query queue quit quote raise randomize reach read rebuild receive recognize
    recompute reconnect reconstruct record recover redirect redraw reduce refresh register reject relate release
    reload remember remove rename render reorder repeat replace report represent request require reset reshape
    resize resolve respond restart restore restrict resume retain retrieve retry return reuse reverse revert rewind
    rewrite roll rotate round route run sample sanitize save scale scan schedule scroll seal search see seek select
    send separate serialize serve set setup shift show shrink shuffle shut shutdown sign signal simplify simulate
    skip sleep slice solve sort spawn specify split square stack start stat steal step stop store stream strip
    subscribe substitute subtract suggest sum supply support suppress suspend swap switch sync synchronize tag take
    tally tell terminate test throw tidy toggle tokenize touch trace track train transfer transform translate
    transpose traverse treat trigger trim truncate try turn unbind unblock undefine undo unescape uninstall unite
    unlink unload unlock unmap unpack unquote unregister unset unsubscribe unwrap update upgrade upload use
    validate verify visit wait wake walk warn watch weight widen wrap write yield zero
    """.split()
)

_WORD = re.compile(r"[A-Za-z]+(?:'[a-z]+)?")
_SUBWORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_SUFFIXES = (
    *("izations", "ization", "ations", "ation", "itions", "ition", "tions", "tion", "sions", "sion"),
    *("ments", "ment", "ators", "ator", "ings", "ing", "ized", "izes", "ize", "ers", "er", "ors", "or", "ally"),
    *("ated", "ates", "ate", "able", "ible", "ably", "ly", "ies", "ied", "ed", "es", "s", "y", "e"),
)


def completion_text(completion: str | Sequence[Mapping[str, Any]]) -> str:
    """Read the text of a plain or conversational completion.

    Args:
        completion: A string, or a list of messages, of which the last one with text counts.

    Returns:
        The text as it was written, "" where there is none.
    """
    if isinstance(completion, str):
        return completion
    for message in reversed(completion):
        content = message.get("content")
        if isinstance(content, str):
            return content
        if isinstance(content, Sequence):  # content blocks, as vision chat templates have them
            return "".join(str(block.get("text") or "") for block in content)
    return ""


def words_of(text: str) -> list[str]:
    """Split prose into lower-case words; digits and punctuation fall away."""
    return [word.lower() for word in _WORD.findall(text)]


def subwords(text: str) -> list[str]:
    """Split identifiers, or any code, into lower-case words: `readAll_lines2` gives read, all, lines."""
    return [word.lower() for word in _SUBWORD.findall(text)]


@functools.lru_cache(maxsize=1 << 16)
def stem(word: str) -> str:
    """Cut a lower-case word down to a crude stem that its inflections and close derivations share."""
    word = word.removesuffix("'s")
    for suffix in _SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= 3:
            word = word[: -len(suffix)]
            break
    if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "aeiou":
        word = word[:-1]
    return word


@functools.lru_cache(maxsize=1 << 12)
def imperative(word: str) -> str:
    """Give the base form of a lower-case verb in the third person ("returns" gives "return"), else the word itself."""
    if word in VERBS:
        return word
    for suffix, ending in (("s", ""), ("es", ""), ("ies", "y")):
        base = word.removesuffix(suffix) + ending
        if word.endswith(suffix) and base in VERBS:
            return base
    return word
