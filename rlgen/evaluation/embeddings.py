"""How far apart the samples of one prompt lie: cosine distances of mean-pooled hidden states, cached by chunks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
from transformers import AutoModel

from rlgen.errors import ModelError
from rlgen.evaluation import generations
from rlgen.evaluation.checkpoints import Checkpoint
from rlgen.evaluation.generations import Generated, Store, content_hash
from rlgen.evaluation.statistics import TIE
from rlgen.families import is_encoder_decoder
from rlgen.hidden import decoder
from rlgen.memory import release_memory
from rlgen.models import is_adapter, load_policy, load_tokenizer, resolve_model


class Encoder:
    """Turns texts into vectors: the mean of a model's last hidden states over a text's tokens.

    Args:
        checkpoint: A causal model, an adapter of one, or whatever `transformers.AutoModel` reads, an encoder-decoder's
            encoder. It is loaded when it is first needed.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint

    @cached_property
    def _model(self) -> Any:
        path = resolve_model(self.checkpoint.path)
        device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
        try:
            model = load_policy(path) if is_adapter(path) else AutoModel.from_pretrained(path)
            if is_encoder_decoder(model):
                model = model.get_encoder()
            elif is_adapter(path):
                model = decoder(model)
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ModelError(f"encoder {self.checkpoint.path} cannot be loaded: {reason}") from error
        return model.to(device).eval()

    @cached_property
    def _tokenizer(self) -> Any:
        return load_tokenizer(self.checkpoint.path)

    def encode(self, texts: Sequence[str], batch_size: int) -> torch.Tensor:
        """Vectors of unit length.

        Args:
            texts: Any texts; one without tokens gets the vector 0.
            batch_size: Texts per batch.

        Returns:
            Shape (texts, hidden size), float32.
        """
        limit = getattr(self._model.config, "max_position_embeddings", None)
        ids = [self._tokenizer(text)["input_ids"][:limit] for text in texts]
        order = sorted((i for i in range(len(ids)) if ids[i]), key=lambda i: len(ids[i]))
        vectors = torch.zeros(len(ids), int(self._model.config.hidden_size))
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            width = max(len(ids[i]) for i in batch)
            tokens = torch.tensor([ids[i] + [0] * (width - len(ids[i])) for i in batch], device=self._model.device)
            kept = torch.tensor([[1] * len(ids[i]) + [0] * (width - len(ids[i])) for i in batch]).to(tokens)
            with torch.inference_mode():
                states = self._model(input_ids=tokens, attention_mask=kept)[0].float()
            pooled = (states * kept[..., None]).sum(1) / kept.sum(1, keepdim=True)
            vectors[batch] = torch.nn.functional.normalize(pooled, dim=-1).cpu()
        return vectors

    def free(self) -> None:
        """Give the memory back, if any was taken."""
        if self.__dict__.pop("_model", None) is not None:
            release_memory()


def embedding_spreads(
    encoder: Encoder, generated: Generated, store: Store, *, batch_size: int, advance: Callable[[int], None]
) -> list[float | None]:
    """Mean pairwise cosine distance between the samples of every prompt.

    Args:
        encoder: Reads the completions without their prompts.
        generated: What one checkpoint wrote under one plan.
        store: Where the numbers are kept.
        batch_size: Texts per batch.
        advance: Told how many more completions are done.

    Returns:
        One number per prompt in [0, 2]; None where there is one sample.
    """
    spreads: list[float | None] = []
    for number, start in enumerate(range(0, len(generated.completions), generations.CHUNK)):
        rows = [
            [sample.text for sample in samples] for samples in generated.completions[start : start + generations.CHUNK]
        ]
        key = content_hash([encoder.checkpoint.fingerprint, "spread", generated.keys[number]])
        if store.get(key) is None:
            began = time.monotonic()
            several = [len(row) > 1 for row in rows]
            texts = [text for row, kept in zip(rows, several, strict=True) if kept for text in row]
            vectors: Iterator[torch.Tensor] = iter(encoder.encode(texts, batch_size) if texts else ())
            records = [
                round(mean_distance(torch.stack([next(vectors) for _ in row])), 6) if kept else None
                for row, kept in zip(rows, several, strict=True)
            ]
            store.put({key: records}, {key: time.monotonic() - began})
        spreads += store.get(key) or []
        advance(sum(map(len, rows)))
    return spreads


def mean_distance(vectors: torch.Tensor) -> float:
    """Mean of 1 - cosine over all pairs of vectors of unit length, shape (texts, size), two texts at least."""
    count = len(vectors)
    total = vectors.double().sum(0)
    # The square of the sum holds every pair twice, and each vector with itself once.
    pairs = float(total @ total - vectors.double().square().sum())
    distance = 1 - pairs / (count * (count - 1))
    return 0.0 if abs(distance) < TIE else distance
