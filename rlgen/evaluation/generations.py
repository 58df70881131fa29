"""Generate once: completions and log-probabilities, cached by what they depend on, in chunks that survive a kill."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from rlgen.evaluation.checkpoints import Checkpoint
from rlgen.generation import Completion, Prompt, completion_logprobs, generate
from rlgen.memory import release_memory
from rlgen.models import load_policy, load_tokenizer
from rlgen.runs import report_progress

logger = logging.getLogger(__name__)

CHUNK = 32  # prompts: what a kill can lose, and the range within which prompts are sorted by length


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn, the same for all checkpoints.

    Args:
        temperature: 0 for greedy.
        num_samples: Completions per prompt.
        max_new_tokens: Length limit in tokens.
        seed: Seed of the sampling.
    """

    temperature: float
    num_samples: int
    max_new_tokens: int
    seed: int

    @property
    def name(self) -> str:
        """How results name it: "greedy" or "T=0.7"."""
        return "greedy" if self.temperature == 0 else f"T={self.temperature:g}"


class Store:
    """Chunks of records in an append-only JSONL file; what was computed together is one line and so stays together.

    A line is a list of `{"key": ..., "seconds": ..., "records": [...]}`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._chunks: dict[str, dict[str, Any]] = {}
        if path.is_file():
            self._read()

    def get(self, key: str) -> list[Any] | None:
        """The records of a chunk, or None."""
        chunk = self._chunks.get(key)
        return None if chunk is None else list(chunk["records"])

    def seconds(self, key: str) -> float:
        """How long a chunk took when it was made."""
        return float(self._chunks[key]["seconds"])

    def put(self, records: Mapping[str, Sequence[Any]], seconds: Mapping[str, float]) -> None:
        """Append chunks by key, all of them or, if the process is killed, none."""
        line = [{"key": key, "seconds": round(seconds[key], 3), "records": list(records[key])} for key in records]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")
        self._chunks.update({str(chunk["key"]): chunk for chunk in line})

    def _read(self) -> None:
        """Keep the whole lines; a kill in mid-write leaves at most the last one cut, which is dropped."""
        content = self.path.read_bytes()
        end = 0
        for line in content.splitlines(keepends=True):
            if not line.endswith(b"\n"):
                break
            try:
                chunks = json.loads(line)
                self._chunks.update({chunk["key"]: chunk for chunk in chunks})
            except (ValueError, KeyError, TypeError):
                break
            end += len(line)
        if end < len(content):
            logger.warning("%s: dropped an incomplete entry at its end", self.path)
            with self.path.open("r+b") as stream:
                stream.truncate(end)


class Steps:
    """Progress of the whole comparison under one name, so that the time left is that of all its work.

    Args:
        total: Units of work; one takes about the same time whatever the work is.
        name: What is being done.
    """

    def __init__(self, total: int, name: str = "compare") -> None:
        self.total = total
        self.name = name
        self.done = 0

    def advance(self, units_each: int, count: int) -> None:
        """Report `count` more pieces of work, of so many units each, as done."""
        self.done += units_each * count
        report_progress(self.name, self.done, self.total)

    def advance_one(self, count: int) -> None:
        """Report `count` pieces of one unit each."""
        self.advance(1, count)


@dataclass
class Generated:
    """What one checkpoint wrote under one sampling plan.

    Args:
        completions: Per prompt, its samples.
        keys: Cache key of each chunk of prompts.
        seconds: Time the generation took when it was done.
    """

    completions: list[list[Completion]]
    keys: list[str]
    seconds: float


class Loaded:
    """A policy that is loaded when it is first needed and freed at the end of the block."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self._model: torch.nn.Module | None = None

    @property
    def model(self) -> torch.nn.Module:
        """The model, on the accelerator if there is one."""
        if self._model is None:
            # Adapters stay unmerged: merging rounds their small changes away in bfloat16.
            device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
            self._model = load_policy(self.checkpoint.path).to(device).eval()
        return self._model

    def free(self) -> None:
        """Give the memory back, if any was taken: looking for it takes a moment."""
        if self._model is None:
            return
        self._model = None
        release_memory()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


@contextmanager
def loaded(checkpoint: Checkpoint) -> Iterator[Loaded]:
    """Hold one policy at a time."""
    holder = Loaded(checkpoint)
    try:
        yield holder
    finally:
        holder.free()


def read_tokenizers(checkpoints: Sequence[Checkpoint]) -> dict[str, PreTrainedTokenizerBase]:
    """Tokenizer of every checkpoint by name."""
    return {checkpoint.name: _tokenizer(checkpoint.path, checkpoint.fingerprint) for checkpoint in checkpoints}


@cache
def _tokenizer(path: str, fingerprint: str) -> PreTrainedTokenizerBase:
    """Read a tokenizer once for all comparisons of one command."""
    return load_tokenizer(path)


@cache
def vocabulary_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash of the mapping from tokens to ids."""
    return content_hash(sorted(tokenizer.get_vocab().items()))


def generate_cached(
    policy: Loaded,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    rendered: Sequence[str],
    samplings: Sequence[Sampling],
    store: Store,
    *,
    batch_size: int,
    advance: Callable[[int], None],
) -> dict[str, Generated]:
    """Completions of one checkpoint, of which only the missing chunks are generated.

    Args:
        policy: The checkpoint; its model is loaded only if something is missing.
        tokenizer: Its tokenizer.
        prompts: Plain or conversational prompts.
        rendered: The same as the text that the model reads.
        samplings: How to draw; each prompt is read once for all plans that can share a batch.
        store: Where the checkpoint's completions are kept.
        batch_size: Prompts per batch.
        advance: Told how many more completions are there.

    Returns:
        By name of the plan, the completions of all prompts, in order.
    """
    generated = {sampling.name: Generated([], [], 0.0) for sampling in samplings}
    for start in range(0, len(prompts), CHUNK):
        chunk = slice(start, start + CHUNK)
        keys = {
            sampling: content_hash([policy.checkpoint.fingerprint, asdict(sampling), start, rendered[chunk]])
            for sampling in samplings
        }
        for plans in _sharing_a_batch([sampling for sampling in samplings if store.get(keys[sampling]) is None]):
            model = policy.model  # loading it is not generating
            began = time.monotonic()
            answers = generate(
                model,
                tokenizer,
                prompts[chunk],
                max_new_tokens=plans[0].max_new_tokens,
                temperature=[plan.temperature for plan in plans for _ in range(plan.num_samples)],
                num_generations=sum(plan.num_samples for plan in plans),
                batch_size=batch_size,
                # Its own seed per chunk, so that a resumed run draws what an uninterrupted one would.
                seed=int(content_hash([plans[0].seed, start]), 16) % 2**31,
            )
            samples = _by_plan(plans, [[asdict(sample) for sample in row] for row in answers])
            records = {keys[plan]: rows for plan, rows in samples.items()}
            store.put(records, _shares(time.monotonic() - began, records))
        for sampling, key in keys.items():
            known = store.get(key) or []
            answered = generated[sampling.name]
            answered.completions += [[Completion(**sample) for sample in row] for row in known]
            answered.keys.append(key)
            answered.seconds += store.seconds(key)
            advance(sum(map(len, known)))
    return generated


def _sharing_a_batch(samplings: Sequence[Sampling]) -> list[list[Sampling]]:
    """Group plans so that each draws the same numbers whatever other plans there are: greedy ones draw none.

    In a group with a plan that draws, that plan comes first.
    """
    groups: list[list[Sampling]] = []
    for sampling in sorted(samplings, key=lambda sampling: sampling.temperature == 0):
        joins = [group for group in groups if group[0].max_new_tokens == sampling.max_new_tokens]
        if sampling.temperature == 0 and joins:
            joins[0].append(sampling)
        else:
            groups.append([sampling])
    return groups


def _by_plan(samplings: Sequence[Sampling], rows: Sequence[Sequence[Any]]) -> dict[Sampling, list[list[Any]]]:
    """Take apart rows in which the samples of several plans stand side by side."""
    ends = itertools.accumulate(sampling.num_samples for sampling in samplings)
    return {
        sampling: [list(row[end - sampling.num_samples : end]) for row in rows]
        for sampling, end in zip(samplings, ends, strict=True)
    }


def _shares(seconds: float, records: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]]) -> dict[str, float]:
    """Divide the time of a batch among the plans in it, by the tokens that each wrote."""
    tokens = {key: sum(len(sample["token_ids"]) for row in rows for sample in row) for key, rows in records.items()}
    return {key: seconds * count / max(sum(tokens.values()), 1) for key, count in tokens.items()}


def logprobs_cached(
    policy: Loaded,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    generated: Mapping[str, Generated],
    samplings: Sequence[Sampling],
    store: Store,
    *,
    batch_size: int,
    advance: Callable[[int], None],
) -> dict[str, list[list[list[float]]]]:
    """Log-probabilities under one policy of the tokens that another (or the same) one wrote.

    A prompt is read once for the completions of all plans. Whoever scores, the rows are the same, so that rounding
    errors are alike on both sides of a log-ratio.

    Args:
        policy: Who scores; its model is loaded only if something is missing.
        tokenizer: Its tokenizer.
        prompts: The prompts that were answered.
        generated: The answers by name of the plan.
        samplings: How they were drawn; a plan's temperature is used for scoring, 1 for greedy ones.
        store: Where the scores are kept.
        batch_size: Completions per batch.
        advance: Told how many more completions are scored.

    Returns:
        By name of the plan, per prompt and sample, the natural log-probability of each token.
    """
    logprobs: dict[str, list[list[list[float]]]] = {sampling.name: [] for sampling in samplings}
    for number, start in enumerate(range(0, len(prompts), CHUNK)):
        chunk = slice(start, start + CHUNK)
        keys = {
            sampling: content_hash([policy.checkpoint.fingerprint, "logprobs", generated[sampling.name].keys[number]])
            for sampling in samplings
        }
        missing = [sampling for sampling in samplings if store.get(keys[sampling]) is None]
        if missing:
            began = time.monotonic()
            answers = zip(*(generated[sampling.name].completions[chunk] for sampling in missing), strict=True)
            scored = completion_logprobs(
                policy.model,
                tokenizer,
                prompts[chunk],
                [[sample.token_ids for samples in row for sample in samples] for row in answers],
                batch_size=batch_size,
                temperature=[plan.temperature or 1.0 for plan in missing for _ in range(plan.num_samples)],
            )
            rounded = [[[round(value, 6) for value in values] for values in row] for row in scored]
            records = {keys[plan]: chunk for plan, chunk in _by_plan(missing, rounded).items()}
            store.put(records, dict.fromkeys(records, (time.monotonic() - began) / len(missing)))
        for sampling, key in keys.items():
            values = store.get(key) or []
            logprobs[sampling.name] += values
            advance(sum(map(len, values)))
    return logprobs


def log_ratio(own: Sequence[Sequence[Sequence[float]]], reference: Any) -> list[list[float | None]]:
    """Per prompt and sample, the sum over tokens of log p(own) - log p(reference), in nats."""
    return [
        [
            sum(a - b for a, b in zip(left, right, strict=True))
            for left, right in zip(left_samples, right_samples, strict=True)
        ]
        for left_samples, right_samples in zip(own, reference, strict=True)
    ]


def content_hash(content: Any) -> str:
    """Short hash of anything that JSON can write, by which results are kept."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
