"""Optimizers: that each name is the optimizer it says in a real trainer, Muon by a slow version of its own."""

import math
from types import SimpleNamespace

import pytest
import torch
import transformers
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers.training_args import OptimizerNames
from trl import SFTTrainer

from recipes.sft import SFTArguments
from rlgen.controls import ControlArguments
from rlgen.errors import ConfigError
from rlgen.models import load_policy, load_tokenizer
from rlgen.muon import Muon, MuonFactory, hidden_matrices
from rlgen.optimizers import check_optimizer, muon_options, needed_package, optimizer_names, use_optimizer

ROWS = Dataset.from_dict({"prompt": [f"Say {i}." for i in range(8)], "completion": [f" It is {i}." for i in range(8)]})


def slow_muon(weight, gradients, *, lr, decay, momentum, nesterov, steps):
    """Muon in float64 from Jordan's text: momentum, Newton-Schulz with his quintic, the scale of Liu et al."""
    a, b, c = 3.4445, -4.7750, 2.0315
    weight, buffer = weight.double().clone(), torch.zeros_like(weight, dtype=torch.float64)
    for gradient in gradients:
        gradient = gradient.double()
        buffer = buffer + (1 - momentum) * (gradient - buffer)  # the scale of the buffer drops out below
        x = (1 - momentum) * gradient + momentum * buffer if nesterov else buffer
        wide = x.shape[0] > x.shape[1]
        x = (x.T if wide else x) / x.norm()
        for _ in range(steps):
            gram = x @ x.T
            x = a * x + (b * gram + c * gram @ gram) @ x
        weight -= lr * decay * weight
        weight -= lr * 0.2 * math.sqrt(max(weight.shape)) * (x.T if wide else x)
    return weight


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5)])
@pytest.mark.parametrize("nesterov", [True, False])
def test_muon_is_what_its_paper_says(shape, nesterov):
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(shape))
    start, gradients = weight.detach().clone(), [torch.randn(shape) for _ in range(3)]
    settings = {"momentum": 0.9, "nesterov": nesterov}
    optimizer = Muon([{"params": [weight], "weight_decay": 0.1}], [], lr=0.02, ns_steps=5, **settings)
    for gradient in gradients:
        weight.grad = gradient
        optimizer.step()
    expected = slow_muon(start, gradients, lr=0.02, decay=0.1, steps=5, **settings)
    moved = (expected - start).norm()
    assert (weight.detach() - expected).norm() < 0.05 * moved  # torch iterates in bfloat16


def test_everything_else_is_adamw():
    torch.manual_seed(0)
    ours, theirs = (nn.Parameter(torch.ones(7)) for _ in range(2))
    matrix = nn.Parameter(torch.ones(3, 3))
    settings = {"lr": 0.1, "betas": (0.8, 0.9), "eps": 1e-6}
    optimizer = Muon([{"params": [matrix]}], [{"params": [ours], "weight_decay": 0.3}], **settings)
    reference = torch.optim.AdamW([theirs], weight_decay=0.3, **settings)
    for _ in range(3):
        gradient = torch.randn(7)
        ours.grad, theirs.grad, matrix.grad = gradient, gradient.clone(), torch.randn(3, 3)
        optimizer.step()
        reference.step()
    torch.testing.assert_close(ours, theirs)


def test_state_survives_saving_and_loading_and_schedules_reach_both():
    def make():
        torch.manual_seed(0)
        weights = nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.randn(5))
        return weights, Muon([{"params": [weights[0]]}], [{"params": [weights[1]]}], lr=0.1)

    def steps(weights, optimizer, numbers):
        for number in numbers:
            torch.manual_seed(number)
            for weight in weights:
                weight.grad = torch.randn_like(weight)
            optimizer.step()

    straight, optimizer = make()
    steps(straight, optimizer, range(4))
    resumed, first = make()
    steps(resumed, first, range(2))
    second = Muon([{"params": [resumed[0]]}], [{"params": [resumed[1]]}], lr=0.1)
    second.load_state_dict(first.state_dict())
    steps(resumed, second, range(2, 4))
    for left, right in zip(straight, resumed, strict=True):
        torch.testing.assert_close(left, right)
    torch.optim.lr_scheduler.LambdaLR(second, lambda step: 0.0)
    before = [weight.detach().clone() for weight in resumed]
    steps(resumed, second, range(4, 5))
    assert all(torch.equal(old, new) for old, new in zip(before, resumed, strict=True))


@pytest.mark.parametrize("adapters", [False, True])
def test_muon_gets_the_hidden_matrices_and_nothing_else(tiny, adapters):
    model = load_policy(tiny, dtype="float32")
    if adapters:
        config = LoraConfig(r=2, target_modules="all-linear", modules_to_save=["lm_head"], task_type="CAUSAL_LM")
        model = get_peft_model(model, config)
    matrices, others = hidden_matrices(model)
    assert matrices
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert matrices.keys() | others.keys() == trained
    assert not matrices.keys() & others.keys()
    assert all(parameter.ndim == 2 for parameter in matrices.values())
    assert not [name for name in matrices if "embed" in name or "lm_head" in name or "wte" in name or "wpe" in name]
    if adapters:
        assert all("lora_" in name for name in matrices)
        assert any("lm_head" in name for name in others)
    else:
        layers = [name for name in trained if ".h." in name or ".layers." in name]
        assert {name for name in layers if model.get_parameter(name).ndim == 2} == set(matrices)


def test_weight_decay_spares_what_transformers_spares(tiny_gpt2):
    model = load_policy(tiny_gpt2, dtype="float32")
    optimizer = MuonFactory()(model, weight_decay=0.5, decay_names={"transformer.h.0.mlp.c_fc.weight"}, lr=0.1)
    decayed = [group for group in optimizer.param_groups if group["weight_decay"] == 0.5]
    assert [len(group["params"]) for group in decayed] == [1]


def sft_trainer(folder, output, **settings):
    args = SFTArguments(
        output_dir=str(output),
        max_steps=2,
        per_device_train_batch_size=4,
        eval_strategy="no",
        save_strategy="no",
        bf16=False,
        learning_rate=0.01,
        warmup_steps=0,
        **settings,
    )
    trainer = SFTTrainer(
        model=load_policy(folder, dtype="float32"),
        args=args,
        train_dataset=ROWS,
        processing_class=load_tokenizer(folder),
    )
    use_optimizer(trainer)
    return trainer


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("adamw_torch", "AdamW"),
        ("sgd", "SGD"),
        ("adafactor", "Adafactor"),
        ("adamw_8bit", "AdamW"),
        ("muon", "Muon"),
    ],
)
def test_sft_trains_with_the_optimizer_of_that_name(name, kind, tiny_llama, tmp_path):
    trainer = sft_trainer(tiny_llama, tmp_path, optim=name, weight_decay=0.1)
    before = {key: value.clone() for key, value in trainer.model.state_dict().items()}
    trainer.train()
    optimizer = trainer.optimizer.optimizer
    assert type(optimizer).__name__ == kind
    assert sorted({group["weight_decay"] for group in optimizer.param_groups}) == [0.0, 0.1]
    changed = [key for key, value in trainer.model.state_dict().items() if not torch.equal(value, before[key])]
    assert any("mlp" in key for key in changed)
    assert any("embed" in key for key in changed)
    kinds = {
        str(value.dtype) for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)
    }
    assert ("torch.uint8" in kinds) == (name == "adamw_8bit")
    if name == "adafactor":  # one number a row and one a column, in place of one a weight
        assert any("exp_avg_sq_row" in state for state in optimizer.state.values())


def test_optimizer_options_reach_it(tiny_llama, tmp_path):
    trainer = sft_trainer(tiny_llama, tmp_path, optim="sgd", optim_args="momentum=0.9")
    assert trainer.create_optimizer().param_groups[0]["momentum"] == 0.9
    trainer = sft_trainer(tiny_llama, tmp_path, optim="muon", optim_args="momentum=0.8,nesterov=false,ns_steps=3")
    group = next(group for group in trainer.create_optimizer().param_groups if group["part"] == "muon")
    assert (group["momentum"], group["nesterov"], group["ns_steps"]) == (0.8, False, 3)


def arguments(**settings):
    return SimpleNamespace(**{"optim": "adamw_torch", "optim_args": None, "deepspeed": None, "fsdp": [], **settings})


def test_the_default_is_that_of_transformers():
    theirs = next(f for f in transformers.TrainingArguments.__dataclass_fields__.values() if f.name == "optim").default
    assert ControlArguments.optim == getattr(theirs, "value", theirs)


def test_names_are_those_of_transformers_and_muon():
    assert set(optimizer_names()) == {item.value for item in OptimizerNames} | {"muon"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optim": "adamm_torch"}, "unknown optimizer adamm_torch: did you mean adamw_torch"),
        ({"optim": "newton"}, "There are adamw_torch, .*muon"),
        ({"optim": "muon", "deepspeed": "zero.json"}, "needs whole matrices"),
        ({"optim": "muon", "fsdp": ["full_shard"]}, "needs whole matrices"),
        ({"optim": "muon", "optim_args": "beta=0.9"}, "muon has no such option"),
        ({"optim": "muon", "optim_args": "ns_steps=many"}, "ns_steps takes a int"),
        ({"optim": "galore_adamw"}, "needs galore_torch, which is not installed"),
    ],
)
def test_a_mistake_is_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        check_optimizer(arguments(**settings))


def test_missing_or_broken_bitsandbytes_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"--optim adamw_8bit needs bitsandbytes.*pip install 'rlgen\[qlora\]'"):
        check_optimizer(arguments(optim="adamw_8bit"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes", None)
    with pytest.raises(ConfigError, match="does not work on this machine"):
        check_optimizer(arguments(optim="adamw_8bit"))


def test_packages_are_known_for_every_name_that_needs_one():
    plain = {"adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop", "muon"}
    assert {name for name in optimizer_names() if needed_package(name) is None} == plain
    eight_bit = {name for name in optimizer_names() if needed_package(name) == "bitsandbytes"}
    assert {"adamw_bnb_8bit", "adamw_8bit", "lion_8bit", "paged_adamw_8bit", "ademamix", "rmsprop_bnb"} <= eight_bit


def test_options_of_muon():
    assert muon_options(None) == muon_options("") == {}
    assert muon_options("momentum=0.9, nesterov=False") == {"momentum": 0.9, "nesterov": False}
