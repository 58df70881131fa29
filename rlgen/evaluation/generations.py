"""Generate once: completions and log-probabilities, cached by what they depend on, in chunks that survive a kill."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
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
    """Chunks of records in an append-only JSONL file: `{"key": ..., "seconds": ..., "records": [...]}` per line."""

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

    def put(self, key: str, records: Sequence[Any], seconds: float) -> None:
        """Append a chunk."""
        chunk = {"key": key, "seconds": round(seconds, 3), "records": list(records)}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(chunk) + "\n")
        self._chunks[key] = chunk

    def _read(self) -> None:
        """Keep the whole lines; a kill in mid-write leaves at most the last one cut, which is dropped."""
        content = self.path.read_bytes()
        end = 0
        for line in content.splitlines(keepends=True):
            if not line.endswith(b"\n"):
                break
            try:
                chunk = json.loads(line)
                self._chunks[chunk["key"]] = chunk
            except (ValueError, KeyError, TypeError):
                break
            end += len(line)
        if end < len(content):
            logger.warning("%s: dropped an incomplete entry at its end", self.path)
            with self.path.open("r+b") as stream:
                stream.truncate(end)


class Steps:
    """Progress over all checkpoints together, so that the time left is that of the whole."""

    def __init__(self, name: str, total: int) -> None:
        self.name = name
        self.total = total
        self.done = 0

    def advance(self, count: int) -> None:
        """Report that `count` more completions are there."""
        self.done += count
        report_progress(self.name, self.done, self.total)


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
        """Give the memory back."""
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
    return {checkpoint.name: load_tokenizer(checkpoint.path) for checkpoint in checkpoints}


def vocabulary_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash of the mapping from tokens to ids."""
    return _hash(sorted(tokenizer.get_vocab().items()))


def generate_cached(
    policy: Loaded,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    rendered: Sequence[str],
    sampling: Sampling,
    store: Store,
    *,
    batch_size: int,
    steps: Steps,
) -> Generated:
    """Completions of one checkpoint, of which only the missing chunks are generated.

    Args:
        policy: The checkpoint; its model is loaded only if something is missing.
        tokenizer: Its tokenizer.
        prompts: Plain or conversational prompts.
        rendered: The same as the text that the model reads.
        sampling: How to draw.
        store: Where the checkpoint's completions are kept.
        batch_size: Prompts per batch.
        steps: Told how far the work is.

    Returns:
        The completions of all prompts, in order.
    """
    generated = Generated([], [], 0.0)
    for start in range(0, len(prompts), CHUNK):
        chunk = slice(start, start + CHUNK)
        key = _hash([policy.checkpoint.fingerprint, asdict(sampling), start, rendered[chunk]])
        records = store.get(key)
        if records is None:
            model = policy.model
            began = time.monotonic()
            samples = generate(
                model,
                tokenizer,
                prompts[chunk],
                max_new_tokens=sampling.max_new_tokens,
                temperature=sampling.temperature,
                num_generations=sampling.num_samples,
                batch_size=batch_size,
                # Its own seed per chunk, so that a resumed run draws what an uninterrupted one would.
                seed=int(_hash([sampling.seed, start]), 16) % 2**31,
            )
            records = [[asdict(sample) for sample in answers] for answers in samples]
            store.put(key, records, time.monotonic() - began)
        generated.completions += [[Completion(**sample) for sample in answers] for answers in records]
        generated.keys.append(key)
        steps.advance(sum(map(len, records)))
        generated.seconds += store.seconds(key)
    return generated


def logprobs_cached(
    policy: Loaded,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    generated: Generated,
    sampling: Sampling,
    store: Store,
    *,
    batch_size: int,
    steps: Steps,
) -> list[list[list[float]]]:
    """Log-probabilities under one policy of the tokens that another (or the same) one wrote.

    Args:
        policy: Who scores; its model is loaded only if something is missing.
        tokenizer: Its tokenizer.
        prompts: The prompts that were answered.
        generated: The answers.
        sampling: How they were drawn; its temperature is used for scoring, 1 for greedy ones.
        store: Where the scores are kept.
        batch_size: Completions per batch.
        steps: Told how far the work is.

    Returns:
        Per prompt, per sample, the natural log-probability of each token.
    """
    logprobs: list[list[list[float]]] = []
    for number, start in enumerate(range(0, len(prompts), CHUNK)):
        chunk = slice(start, start + CHUNK)
        key = _hash([policy.checkpoint.fingerprint, "logprobs", generated.keys[number]])
        records = store.get(key)
        if records is None:
            answers = generated.completions[chunk]
            model = policy.model
            began = time.monotonic()
            flat = completion_logprobs(
                model,
                tokenizer,
                [prompt for prompt, samples in zip(prompts[chunk], answers, strict=True) for _ in samples],
                [sample.token_ids for samples in answers for sample in samples],
                batch_size=batch_size,
                temperature=sampling.temperature or 1.0,
            )
            values = iter([[round(value, 6) for value in row] for row in flat])
            records = [[next(values) for _ in samples] for samples in answers]
            store.put(key, records, time.monotonic() - began)
        logprobs += records
        steps.advance(sum(map(len, records)))
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


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
