"""The dropout override reaches every place, and only while a model trains."""

import pytest
import torch
from torch import nn

from rlgen.dropout import set_dropout
from rlgen.models import load_policy

IDS = torch.arange(5, 25)[None]


def logits(model, seed):
    torch.manual_seed(seed)
    with torch.no_grad():
        return model(input_ids=IDS).logits


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_every_dropout_of_a_model_is_set(tiny, attention):
    model = load_policy(tiny, dtype="float32", attn_implementation=attention)
    before, config = logits(model.eval(), 0), model.config.to_dict()
    places = set_dropout(model, 0.5)
    layers = model.config.num_hidden_layers
    # GPT-2 drops embeddings, and in each layer attention and two outputs; Llama attention alone.
    assert places == (1 + 3 * layers if model.config.model_type == "gpt2" else layers)
    model.train()
    assert not torch.equal(logits(model, 0), logits(model, 1))
    model.eval()
    assert torch.equal(logits(model, 1), before)
    assert set_dropout(model, 0.0) == places
    model.train()
    assert torch.equal(logits(model, 0), logits(model, 1))
    assert model.config.to_dict() == config  # what is saved must not make later stages drop


def test_none_changes_nothing(tiny_gpt2):
    model = load_policy(tiny_gpt2, dtype="float32")
    assert set_dropout(model, None) == 0
    assert {module.p for module in model.modules() if isinstance(module, nn.Dropout)} == {0.1}


def test_flags_and_names_that_are_no_rates_stay():
    model = nn.Linear(2, 2)
    model.use_dropout, model.dropout_name, model.drop_rate = True, "attention", 0.2
    assert set_dropout(model, 0.4) == 1
    assert (model.use_dropout, model.dropout_name, model.drop_rate) == (True, "attention", 0.4)


def test_layerdrop_is_no_dropout():
    model = torch.nn.Module()
    model.layerdrop, model.attention_dropout = 0.0, 0.0
    assert set_dropout(model, 0.3) == 1
    assert (model.layerdrop, model.attention_dropout) == (0.0, 0.3)
