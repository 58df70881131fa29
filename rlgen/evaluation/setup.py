"""What the checkpoints of one comparison share: prompts as each reads them, and what can be measured for which."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from rlgen.errors import ConfigError, DataError
from rlgen.evaluation.checkpoints import Checkpoint, check_same_models, check_same_prompts
from rlgen.evaluation.generations import CHUNK, Sampling, read_tokenizers, vocabulary_hash
from rlgen.evaluation.measures import Measure
from rlgen.evaluation.metrics import EMBEDDING_SPREAD, LOG_PERPLEXITY
from rlgen.evaluation.remote import is_remote
from rlgen.evaluation.remote_generations import remote_warning
from rlgen.generation import Prompt, render_prompts
from rlgen.templates import choose_examples, with_examples


@dataclass(frozen=True)
class Setup:
    """What all checkpoints of one comparison share."""

    checkpoints: Sequence[Checkpoint]
    tokenizers: Mapping[str, PreTrainedTokenizerBase]  # of those that are no endpoints
    vocabularies: Mapping[str, str]  # a digest of each tokenizer's
    prompts: list[Prompt]
    rendered: Mapping[str, list[str]]
    samplings: Sequence[Sampling]
    folder: Path
    kl_reference: str | None
    comparable: frozenset[str]  # checkpoints whose tokens and prompts are those of the KL reference
    kl_prompts: int  # how many of the prompts the KL is measured on
    batch_size: int
    references: Sequence[Any] = ()  # per prompt: one text, several, or None; empty where no measure needs them
    likely: frozenset[str] = frozenset()  # checkpoints under which the references' probability is measured
    encoder: Checkpoint | None = None  # whose hidden states tell how far samples lie apart
    asked: Mapping[str, Sequence[Prompt]] = field(default_factory=dict)  # by checkpoint, with its examples

    @property
    def plans(self) -> list[str]:
        """Names of the sampling plans."""
        return [sampling.name for sampling in self.samplings]

    @property
    def scored(self) -> list[str]:
        """Checkpoints whose KL to the reference is measured."""
        return [c.name for c in self.checkpoints if c.name in self.comparable and c.name != self.kl_reference]


def check_request(checkpoints: Sequence[Checkpoint], rows: Dataset, kl_reference: str | None) -> None:
    """Refuse what cannot be compared, before anything is read."""
    by_name = {checkpoint.name: checkpoint for checkpoint in checkpoints}
    if not by_name:
        raise ConfigError("there is nothing to compare; give --checkpoints NAME=PATH ...")
    if kl_reference and kl_reference not in by_name:
        raise ConfigError(f"--kl_reference {kl_reference}: no checkpoint has that name ({', '.join(by_name)})")
    if len(rows) == 0:
        raise DataError("there are no held-out rows to compare on")
    if kl_reference and is_remote(by_name[kl_reference].path):
        raise ConfigError(
            f"--kl_reference {kl_reference}: an endpoint gives no log-probabilities; choose a local model"
        )


def set_up(
    checkpoints: Sequence[Checkpoint],
    rows: Dataset,
    samplings: Sequence[Sampling],
    measures: Sequence[Measure],
    *,
    folder: Path,
    kl_reference: str | None,
    kl_rows: int | None,
    batch_size: int,
    encoder: Checkpoint | None,
    examples: Dataset | None,
) -> Setup:
    """Render the prompts for every checkpoint, and find out which of them can be measured token by token."""
    tokenizers = read_tokenizers([checkpoint for checkpoint in checkpoints if not is_remote(checkpoint.path)])
    local = list(tokenizers)
    prompts = list(rows["prompt"])
    asked = {checkpoint.name: _with_examples(checkpoint, rows, examples) for checkpoint in checkpoints}
    rendered = {name: render_prompts(tokenizer, asked[name]) for name, tokenizer in tokenizers.items()}
    vocabularies = {name: vocabulary_hash(tokenizer) for name, tokenizer in tokenizers.items()}
    measured = {measure.name for measure in measures if measure.score is None and measure.group is None}
    return Setup(
        checkpoints=checkpoints,
        tokenizers=tokenizers,
        vocabularies=vocabularies,
        prompts=prompts,
        rendered=rendered,
        samplings=samplings,
        folder=folder,
        kl_reference=kl_reference,
        comparable=frozenset(
            name
            for name in local
            if kl_reference
            and vocabularies[name] == vocabularies[kl_reference]
            and rendered[name] == rendered[kl_reference]
        ),
        kl_prompts=len(prompts) if kl_rows is None else min(len(prompts), math.ceil(kl_rows / CHUNK) * CHUNK),
        batch_size=batch_size,
        references=list(rows["reference"]) if "reference" in rows.column_names else [None] * len(rows),
        # Token by token, a probability means something else in another vocabulary.
        likely=frozenset(
            name for name in local if LOG_PERPLEXITY in measured and vocabularies[name] == vocabularies[local[0]]
        ),
        encoder=_encoder(checkpoints, kl_reference, encoder) if EMBEDDING_SPREAD in measured else None,
        asked=asked,
    )


def weaknesses(setup: Setup, *, allow_different: bool) -> list[str]:
    """What weakens the comparison.

    Raises:
        ConfigError: The checkpoints do not see the same text.
    """
    # Examples make prompts differ by design; what must be the same is the prompt that they stand before.
    bare = {
        checkpoint.name: render_prompts(setup.tokenizers[checkpoint.name], setup.prompts)
        for checkpoint in setup.checkpoints
        if checkpoint.name in setup.tokenizers and (checkpoint.shots is None or checkpoint.shots.style == "chat")
    }
    warnings = [
        *check_same_models(setup.checkpoints),
        *check_same_prompts(bare, setup.vocabularies, allow_different=allow_different),
        *(remote_warning(c.name, setup.prompts) for c in setup.checkpoints if is_remote(c.path)),
    ]
    others = [name for name in setup.tokenizers if name not in setup.likely]
    if setup.likely and others:
        first = next(iter(setup.tokenizers))
        warnings.append(
            f"{LOG_PERPLEXITY} is not measured for {', '.join(others)}: other tokens than those of {first}"
        )
    return warnings


def _encoder(checkpoints: Sequence[Checkpoint], kl_reference: str | None, given: Checkpoint | None) -> Checkpoint:
    local = [checkpoint for checkpoint in checkpoints if not is_remote(checkpoint.path)]
    encoder = given or next((c for c in local if c.name == kl_reference), local[0] if local else None)
    if encoder is None or is_remote(encoder.path):
        raise ConfigError(f"{EMBEDDING_SPREAD} needs the hidden states of a local model: name one with --encoder")
    return encoder


def _with_examples(checkpoint: Checkpoint, rows: Dataset, examples: Dataset | None) -> list[Prompt]:
    """What a checkpoint is asked."""
    prompts = list(rows["prompt"])
    if checkpoint.shots is None:
        return prompts
    if examples is None and checkpoint.shots.number:
        raise ConfigError(f"checkpoint {checkpoint.name}: examples need rows; give --task NAME or --examples FILE")
    chosen = choose_examples(examples, checkpoint.shots, rows) if examples is not None else []
    return with_examples(prompts, chosen, checkpoint.shots.style)
