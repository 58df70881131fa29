"""Which layers are frozen, and that leaving them out is only done where nothing before them trains."""

import pytest
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM

from rlgen.hidden import frozen_depth
from rlgen.models import load_policy


def lora(**changes) -> LoraConfig:
    options = {"target_modules": ["c_attn"], "layers_to_transform": [2, 3], "fan_in_fan_out": True}
    return LoraConfig(task_type="CAUSAL_LM", **{**options, **changes})


@pytest.mark.parametrize(
    ("adapter", "depth"),
    [
        (lora(), 2),
        (lora(layers_to_transform=[3]), 3),
        (lora(layers_to_transform=None), 0),
        (lora(modules_to_save=["wpe"]), 0),
        (PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4), 0),
    ],
    ids=["upper layers", "last layer", "all layers", "positions too", "a trained prompt"],
)
def test_the_trunk_ends_below_whatever_trains(tiny_gpt2, adapter, depth):
    assert frozen_depth(get_peft_model(load_policy(tiny_gpt2, dtype="float32"), adapter)) == depth


def test_a_trained_head_comes_after_the_layers_unless_it_is_the_embeddings(tiny_llama):
    model = load_policy(tiny_llama, dtype="float32").requires_grad_(False)
    model.get_output_embeddings().requires_grad_(True)
    assert frozen_depth(model) == 0  # tied
    untied = AutoModelForCausalLM.from_config(
        type(model.config)(**{**model.config.to_dict(), "tie_word_embeddings": False})
    )
    untied.requires_grad_(False)
    untied.get_output_embeddings().requires_grad_(True)
    assert frozen_depth(untied) == untied.config.num_hidden_layers
