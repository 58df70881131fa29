"""Tokenizers trained on texts: nothing is lost, and what they do for decoders and encoders."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from rlgen.vocabulary import DECODER_TOKENS, ENCODER_TOKENS, SMALLEST, train_tokenizer

TEXTS = ["the cat sat on the mat and the cat ate", "the dog sat on the log"] * 20
DECODER = train_tokenizer(TEXTS, 300)
ENCODER = train_tokenizer(TEXTS, 300, encoder=True, max_length=64)


@settings(deadline=None)
@given(st.text(max_size=40))
def test_every_text_comes_back(text: str) -> None:
    for tokenizer in (DECODER, ENCODER):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text
        assert tokenizer.unk_token_id is None or tokenizer.unk_token_id not in ids


def test_frequent_words_become_tokens_and_the_size_is_kept() -> None:
    assert SMALLEST < len(DECODER) <= 300
    assert len(DECODER(" the cat")["input_ids"]) < len(DECODER(" qzx vwj")["input_ids"])
    assert len(train_tokenizer(TEXTS, SMALLEST)) <= SMALLEST


def test_a_decoder_converses() -> None:
    messages = [{"role": "user", "content": "sit"}, {"role": "assistant", "content": "no"}]
    ids = DECODER.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"]
    assert ids.count(DECODER.eos_token_id) == 2
    assert DECODER.pad_token_id != DECODER.eos_token_id
    assert DECODER("sit")["input_ids"] == DECODER("sit", add_special_tokens=False)["input_ids"]


def test_an_encoder_reads_texts_and_pairs() -> None:
    cls, sep = ENCODER.cls_token_id, ENCODER.sep_token_id
    a, b = (ENCODER(text, add_special_tokens=False)["input_ids"] for text in ("the cat", "sat"))
    assert ENCODER("the cat", "sat")["input_ids"] == [cls, *a, sep, *b, sep]
    assert ENCODER.model_max_length == 64
    assert ENCODER.chat_template is None
    assert ENCODER.eos_token_id is None


@pytest.mark.parametrize(("tokenizer", "special"), [(DECODER, DECODER_TOKENS), (ENCODER, ENCODER_TOKENS)])
def test_a_saved_one_is_the_same(tokenizer, special, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded("the cat, sat")["input_ids"] == tokenizer("the cat, sat")["input_ids"]
    assert all(getattr(loaded, name) == token for name, token in special.items())
    assert loaded.chat_template == tokenizer.chat_template
