"""Language modelling on raw text: blocks of tokens, their batches, and exact perplexity.

Letters for shapes: B blocks, T tokens, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import (
    DataCollatorForLanguageModeling,
    EvalPrediction,
    PreTrainedTokenizerBase,
    default_data_collator,
)
from trl import pack_dataset

from rlgen.errors import DataError
from rlgen.new_models import Objective

IGNORED = -100
DOCUMENTS_AT_ONCE = 20_000  # packed together


def token_blocks(
    documents: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    length: int,
    objective: Objective = "causal",
    packing: bool = True,
) -> Dataset:
    """Cut documents into blocks of tokens.

    A decoder's documents end with the eos token. An encoder's blocks begin with its cls token and end with its
    separator, which also parts documents inside a block.

    Args:
        documents: rows with `text`.
        tokenizer: the model's.
        length: longest block, in tokens.
        objective: whom the blocks are for.
        packing: put documents behind each other and cut every `length` tokens; what is left at the end is dropped.
            Otherwise each document is cut by itself.

    Returns:
        Rows with `input_ids`.

    Raises:
        DataError: nothing comes out: too little text for one block.
    """
    masked = objective == "masked"
    inside = length - 2 if masked else length
    end = tokenizer.sep_token_id if masked else tokenizer.eos_token_id

    def tokens(batch: Mapping[str, Sequence[str]]) -> dict[str, list[list[int]]]:
        ids = tokenizer(list(batch["text"]), add_special_tokens=not masked, verbose=False)["input_ids"]
        return {"input_ids": [row if row and row[-1] == end else [*row, end] for row in ids]}

    def cut(batch: Mapping[str, Sequence[Sequence[int]]]) -> dict[str, list[Any]]:
        pieces = [row[at : at + inside] for row in batch["input_ids"] for at in range(0, len(row), inside)]
        return {"input_ids": [piece for piece in pieces if len(piece) > 1]}

    def enclose(row: Mapping[str, Sequence[int]]) -> dict[str, list[int]]:
        ids = list(row["input_ids"])
        return {"input_ids": [tokenizer.cls_token_id, *ids, *([] if ids[-1] == end else [end])]}

    rows = documents.map(tokens, batched=True, remove_columns=documents.column_names)
    total = sum(map(len, rows["input_ids"]))
    if packing:
        # Each batch of documents loses the end of its last block; all at once do not fit any memory.
        rows = pack_dataset(rows, inside, "wrapped", {"batch_size": DOCUMENTS_AT_ONCE}).with_format(None)
        rows = rows.filter(lambda row: len(row["input_ids"]) == inside)
    else:
        rows = rows.map(cut, batched=True)
    if len(rows) == 0:
        raise DataError(
            f"the text has {total} tokens, too few for one block of {length}: give more text or a smaller --max_length"
        )
    return rows.map(enclose) if masked else rows


class BlockCollator:
    """Makes batches of blocks, with labels for the objective.

    Causal labels are the tokens themselves (the model shifts them). For masked ones, tokens are drawn anew each time;
    blocks that have labels already, see `masked_once`, are taken as they are.

    Args:
        tokenizer: pads, and knows its mask token.
        objective: "causal" or "masked".
        mlm_probability: share of the tokens that are predicted.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, objective: Objective, mlm_probability: float) -> None:
        self.tokenizer = tokenizer
        self.mask = (
            DataCollatorForLanguageModeling(tokenizer, mlm_probability=mlm_probability)
            if objective == "masked"
            else None
        )

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Pad on the right, and label."""
        if "labels" in rows[0]:
            return dict(default_data_collator(list(rows)))
        if self.mask is not None:
            return dict(self.mask([{"input_ids": list(row["input_ids"])} for row in rows]))
        width = max(len(row["input_ids"]) for row in rows)
        shape = (len(rows), width)
        batch = {
            "input_ids": torch.full(shape, int(self.tokenizer.pad_token_id)),
            "attention_mask": torch.zeros(shape, dtype=torch.long),
            "labels": torch.full(shape, IGNORED),  # by place: where pad is eos, a text's end must still be learned
        }
        for index, row in enumerate(rows):
            ids = torch.tensor(row["input_ids"])
            batch["input_ids"][index, : len(ids)] = batch["labels"][index, : len(ids)] = ids
            batch["attention_mask"][index, : len(ids)] = 1
        return batch


def masked_once(blocks: Dataset, tokenizer: PreTrainedTokenizerBase, mlm_probability: float, seed: int) -> Dataset:
    """Mask held-out blocks once and for all, so that perplexities before, during and after are of the same tokens.

    Args:
        blocks: rows with `input_ids`.
        tokenizer: the model's.
        mlm_probability: share of the tokens that are predicted.
        seed: of the drawing.

    Returns:
        Rows with `input_ids`, `attention_mask` and `labels`, padded to one length.

    Raises:
        DataError: not one token was drawn.
    """
    mask = DataCollatorForLanguageModeling(tokenizer, mlm_probability=mlm_probability, seed=seed)
    batch = mask([{"input_ids": ids} for ids in blocks["input_ids"]])
    if not (batch["labels"] != IGNORED).any():
        raise DataError("no token of the held-out text is masked: give more of it, or a larger --mlm_probability")
    return Dataset.from_dict({name: values.tolist() for name, values in batch.items()})


@dataclass(frozen=True)
class BlockLosses:
    """Reduces logits to sums, for `preprocess_logits_for_metrics` of a trainer: (B, T, V) would fill the memory."""

    objective: Objective

    def __call__(self, logits: Tensor | tuple[Tensor, ...], labels: Tensor) -> Tensor:
        """Per block the summed negative log-likelihood of its labels, natural log, and their number: (B, 2)."""
        scores = logits[0] if isinstance(logits, tuple) else logits
        if self.objective == "causal":
            scores, labels = scores[:, :-1], labels[:, 1:]
        kept = labels != IGNORED
        losses = torch.zeros(labels.shape, dtype=torch.float32, device=labels.device)
        losses[kept] = torch.nn.functional.cross_entropy(scores[kept].float(), labels[kept], reduction="none")
        return torch.stack([losses.double().sum(1), kept.sum(1).double()], dim=1)


def perplexity(prediction: EvalPrediction) -> dict[str, float]:
    """Perplexity of held-out text, for `compute_metrics` of a trainer with `BlockLosses`.

    Returns:
        `perplexity`: exp of the mean negative log-likelihood of a token, over all tokens (of masked ones, a
        pseudo-perplexity); `nll`: that mean, in nats; `tokens`: how many they are.
    """
    nll, tokens = (float(value) for value in prediction.predictions.sum(0))
    mean = nll / max(tokens, 1.0)
    return {"perplexity": math.exp(min(mean, 700.0)), "nll": mean, "tokens": tokens}
