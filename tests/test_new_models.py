"""New models from sizes, and which architecture an objective is for."""

import pytest
import torch
from transformers import AutoConfig

from rlgen.errors import ConfigError
from rlgen.new_models import ArchitectureArguments, check_objective, longest_block, new_config, new_model
from rlgen.vocabulary import train_tokenizer

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64}
TOKENIZER = {
    objective: train_tokenizer(["some text"], 262, encoder=objective == "masked", max_length=64)
    for objective in ("causal", "masked")
}


@pytest.mark.parametrize(
    ("kind", "objective"),
    [(None, "causal"), ("gpt2", "causal"), ("qwen3", "causal"), (None, "masked"), ("modernbert", "masked")],
)
def test_a_new_model_has_the_sizes_that_were_asked_for(kind: str | None, objective: str) -> None:
    tokenizer = TOKENIZER[objective]
    config = new_config(ArchitectureArguments(model_type=kind, **SIZES), objective, tokenizer)
    model = new_model(config, objective)
    assert {name: getattr(config, name) for name in SIZES} == SIZES
    assert longest_block(config) == 64
    assert model.get_input_embeddings().weight.shape == (len(tokenizer), 32)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert model.dtype == torch.float32
    logits = model(input_ids=torch.tensor([tokenizer("some text")["input_ids"]])).logits
    assert logits.shape[-1] == len(tokenizer)
    if objective == "causal":
        assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    else:
        assert config.pad_token_id == tokenizer.pad_token_id


def test_overrides_win() -> None:
    sizes = ArchitectureArguments(
        intermediate_size=48, config_overrides="num_key_value_heads=2, attention_bias=true,rms_norm_eps=1e-5", **SIZES
    )
    config = new_config(sizes, "causal", TOKENIZER["causal"])
    assert (config.num_key_value_heads, config.attention_bias, config.rms_norm_eps) == (2, True, 1e-5)
    assert config.intermediate_size == 48
    assert new_config(ArchitectureArguments(**SIZES), "causal").intermediate_size == 128


@pytest.mark.parametrize(
    ("settings", "objective", "message"),
    [
        ({"model_type": "lama"}, "causal", "did you mean llama?"),
        ({"model_type": "bert"}, "causal", "is an encoder: take --objective masked"),
        ({"model_type": "gpt2"}, "masked", "is a decoder: take --objective causal"),
        ({"model_type": "t5"}, "causal", "is an encoder-decoder: for --objective causal a decoder"),
        ({"model_type": "vit"}, "causal", "is no language model"),
        ({"config_overrides": "rope=1"}, "causal", "has no rope"),
        ({"config_overrides": "rope"}, "causal", "'rope' is not name=value"),
        ({"model_type": "gpt2", "intermediate_size": 9}, "causal", "has no intermediate_size"),
    ],
)
def test_what_makes_no_model_is_one_clear_line(settings: dict, objective: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        new_config(ArchitectureArguments(**settings), objective)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_sizes_that_make_no_model() -> None:
    with pytest.raises(ValueError, match="multiple of num_attention_heads 3"):
        ArchitectureArguments(num_attention_heads=3)
    with pytest.raises(ValueError, match="num_hidden_layers must be at least 1"):
        ArchitectureArguments(num_hidden_layers=0)


def test_an_encoder_that_was_made_a_decoder_is_one() -> None:
    check_objective(AutoConfig.for_model("bert", is_decoder=True), "causal", "it")
    with pytest.raises(ConfigError, match=r"it \(bert\) is a decoder"):
        check_objective(AutoConfig.for_model("bert", is_decoder=True), "masked", "it")


def test_the_longest_block_is_what_model_and_tokenizer_allow() -> None:
    roberta = AutoConfig.for_model("roberta", max_position_embeddings=514)
    assert longest_block(roberta) == 514
    assert longest_block(roberta, train_tokenizer(["a"], 262, encoder=True, max_length=512)) == 512
    assert longest_block(AutoConfig.for_model("bloom")) is None
