"""Blocks of tokens, their labels, and perplexity: against slow versions, and what must not change anything."""

import math

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import EvalPrediction

from rlgen.errors import DataError
from rlgen.models import load_policy, load_tokenizer
from rlgen.pretraining import BlockCollator, BlockLosses, masked_once, perplexity, token_blocks
from rlgen.vocabulary import train_tokenizer

TEXTS = ["the cat sat on the mat", "a dog", "", "and so the story went on and on and on until its end"]
DECODER = train_tokenizer(TEXTS, 280)
ENCODER = train_tokenizer(TEXTS, 280, encoder=True, max_length=64)
DOCUMENTS = Dataset.from_dict({"text": TEXTS})


def decoded(rows: list[list[int]], tokenizer) -> str:
    return tokenizer.decode([token for row in rows for token in row])


@pytest.mark.parametrize("length", [4, 7, 16])
@pytest.mark.parametrize("packing", [True, False])
def test_a_decoders_blocks_are_the_documents_in_order(length: int, packing: bool) -> None:
    rows = token_blocks(DOCUMENTS, DECODER, length=length, packing=packing)["input_ids"]
    stream = [t for text in TEXTS for t in (*DECODER(text)["input_ids"], DECODER.eos_token_id)]
    if packing:
        assert [t for row in rows for t in row] == stream[: len(stream) // length * length]
        assert {len(row) for row in rows} == {length}
    else:
        ends = [row[-1] == DECODER.eos_token_id for row in rows]
        assert all(2 <= len(row) <= length for row in rows)
        assert all(DECODER.eos_token_id not in row[:-1] for row in rows)
        assert any(ends)


@pytest.mark.parametrize("packing", [True, False])
def test_an_encoders_blocks_stand_between_its_special_tokens(packing: bool) -> None:
    rows = token_blocks(DOCUMENTS, ENCODER, length=12, objective="masked", packing=packing)["input_ids"]
    assert all(row[0] == ENCODER.cls_token_id and row[-1] == ENCODER.sep_token_id for row in rows)
    assert all(len(row) <= 12 for row in rows)
    inner = ENCODER.decode([t for row in rows for t in row if t > ENCODER.mask_token_id])
    assert "".join(TEXTS).startswith(inner) if packing else inner.startswith(TEXTS[0])


def test_a_text_that_fills_no_block_is_refused_with_its_size() -> None:
    with pytest.raises(DataError, match=r"too few for one block of 512: give more text or a smaller --max_length"):
        token_blocks(DOCUMENTS, DECODER, length=512)
    with pytest.raises(DataError, match="the text has 1 tokens"):
        token_blocks(Dataset.from_dict({"text": [""]}), DECODER, length=8, packing=False)


def test_the_end_of_a_text_is_learned_even_where_pad_is_eos(tiny_gpt2: str) -> None:
    tokenizer = load_tokenizer(tiny_gpt2)
    tokenizer.pad_token = tokenizer.eos_token
    batch = BlockCollator(tokenizer, "causal", 0.15)(
        [{"input_ids": [5, 6, tokenizer.eos_token_id]}, {"input_ids": [7]}]
    )
    assert batch["labels"].tolist() == [[5, 6, tokenizer.eos_token_id], [7, -100, -100]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]


def test_masks_are_drawn_anew_in_training_and_once_for_held_out_text() -> None:
    blocks = token_blocks(DOCUMENTS, ENCODER, length=40, objective="masked", packing=False)
    collate = BlockCollator(ENCODER, "masked", 0.5)
    torch.manual_seed(0)
    first, second = (collate(list(blocks)) for _ in range(2))
    assert not first["labels"].equal(second["labels"])
    held = masked_once(blocks, ENCODER, 0.5, seed=1)
    assert held["labels"] == masked_once(blocks, ENCODER, 0.5, seed=1)["labels"]
    assert held["labels"] != masked_once(blocks, ENCODER, 0.5, seed=2)["labels"]
    batch = collate(list(held))
    assert batch["input_ids"].tolist() == held["input_ids"]
    assert batch["labels"].tolist() == held["labels"]
    special = {ENCODER.cls_token_id, ENCODER.sep_token_id, ENCODER.pad_token_id}
    assert not special & set(batch["labels"].flatten().tolist())


def slow_nll(scores: np.ndarray, labels: np.ndarray, shift: int) -> tuple[float, int]:
    total, count = 0.0, 0
    for row in range(labels.shape[0]):
        for at in range(shift, labels.shape[1]):
            if labels[row, at] == -100:
                continue
            predicted = scores[row, at - shift].astype(np.float64)
            total -= predicted[labels[row, at]] - math.log(sum(math.exp(value) for value in predicted))
            count += 1
    return total, count


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.sampled_from(["causal", "masked"]))
def test_perplexity_is_that_of_a_slow_version(seed: int, objective: str) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(3, 6, 5)).astype(np.float32)
    labels = np.where(rng.random((3, 6)) < 0.4, -100, rng.integers(5, size=(3, 6)))
    sums = BlockLosses(objective)(torch.tensor(scores), torch.tensor(labels))
    found = perplexity(EvalPrediction(predictions=sums.numpy(), label_ids=labels))
    total, count = slow_nll(scores, labels, shift=1 if objective == "causal" else 0)
    assert found["tokens"] == count
    assert found["perplexity"] == pytest.approx(math.exp(total / max(count, 1)), rel=1e-5)
    as_tuple = BlockLosses(objective)((torch.tensor(scores), None), torch.tensor(labels))
    assert as_tuple.equal(sums)


def test_padding_and_the_size_of_batches_change_no_perplexity(tiny_llama: str) -> None:
    model, tokenizer = load_policy(tiny_llama, dtype="float32"), load_tokenizer(tiny_llama)
    rows = list(token_blocks(DOCUMENTS, tokenizer, length=24, packing=False))
    collate, losses = BlockCollator(tokenizer, "causal", 0.15), BlockLosses("causal")

    def of(batches: list) -> float:
        parts = []
        for batch in map(collate, batches):
            with torch.no_grad():
                parts.append(losses(model(**batch).logits, batch["labels"]))
        return perplexity(EvalPrediction(predictions=torch.cat(parts).numpy(), label_ids=None))["perplexity"]

    assert of([rows]) == pytest.approx(of([[row] for row in rows]), rel=1e-4)


def test_a_hopeless_model_has_a_finite_perplexity() -> None:
    found = perplexity(EvalPrediction(predictions=np.array([[1e6, 1.0]]), label_ids=None))
    assert math.isfinite(found["perplexity"])


@pytest.mark.parametrize("at_once", [2, 1000])
def test_packing_many_documents_loses_only_the_end_of_each_batch(at_once: int, monkeypatch) -> None:
    monkeypatch.setattr("rlgen.pretraining.DOCUMENTS_AT_ONCE", at_once)
    documents = Dataset.from_dict({"text": TEXTS * 500})
    stream = sum(len(DECODER(text)["input_ids"]) + 1 for text in documents["text"])
    rows = token_blocks(documents, DECODER, length=16)
    lost = stream - 16 * len(rows)
    assert lost <= 15 * (len(documents) // at_once)


def test_held_out_text_of_which_nothing_is_masked_is_refused() -> None:
    blocks = token_blocks(DOCUMENTS, ENCODER, length=40, objective="masked", packing=False)
    with pytest.raises(DataError, match="no token of the held-out text is masked"):
        masked_once(blocks, ENCODER, 1e-9, seed=0)
