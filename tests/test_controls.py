"""Training controls take effect (losses by hand, noise where it belongs, schedules by formula) or are refused."""

import dataclasses
import json
import math

import pytest
import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import SFTTrainer

from recipes.dpo import DPOArguments
from recipes.ppo import PPOArguments
from recipes.reward import RewardArguments
from recipes.sft import SFTArguments
from rlgen.config import read_settings
from rlgen.controls import EVALUATED, best_metric, check_best_metric, check_shared_reference, require_heldout
from rlgen.errors import ConfigError
from rlgen.lm_head import project_labelled_tokens_only
from rlgen.models import load_policy, load_reward_model, load_tokenizer
from rlgen.pair_trainers import DPOTrainer, RewardTrainer

ROWS = Dataset.from_dict(
    {
        "prompt": [f"Say number {i}" + " please" * (i % 3) for i in range(8)],
        "completion": [f" It is {i}" + " indeed" * (i % 2) for i in range(8)],
    }
)
PAIRS = Dataset.from_dict(
    {
        "prompt": [f"Say {i}." for i in range(8)],
        "chosen": [f" It is {i}." for i in range(8)],
        "rejected": [" No."] * 8,
        "margin": [0.5 * i for i in range(8)],
    }
)
KINDS = {"sft": SFTArguments, "reward": RewardArguments, "dpo": DPOArguments, "ppo": PPOArguments}


def sft_trainer(folder, output, callbacks=(), **settings):
    options = {"eval_strategy": "no", "save_strategy": "no", "bf16": False, "per_device_train_batch_size": 8}
    args = SFTArguments(output_dir=str(output), **{**options, **settings})
    return SFTTrainer(
        model=load_policy(folder, dtype="float32"),
        args=args,
        train_dataset=ROWS,
        eval_dataset=ROWS if args.eval_strategy != "no" else None,
        processing_class=load_tokenizer(folder),
        callbacks=list(callbacks),
    )


def reward_trainer(folder, output, **settings):
    args = RewardArguments(output_dir=str(output), bf16=False, center_rewards_coefficient=0.02, **settings)
    return RewardTrainer(
        model=load_reward_model(folder, dtype="float32"),
        args=args,
        train_dataset=PAIRS,
        processing_class=load_tokenizer(folder),
    )


def batch_of(trainer):
    return trainer.data_collator([dict(row) for row in trainer.train_dataset])


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_label_smoothing_of_sft_is_the_loss_by_hand(tiny, tmp_path, smoothing):
    project_labelled_tokens_only()
    trainer = sft_trainer(tiny, tmp_path, label_smoothing_factor=smoothing)
    model, batch = trainer.model.eval(), batch_of(trainer)
    with torch.no_grad():
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.double()
    terms = []
    for row in range(len(batch["labels"])):
        for place in range(1, batch["labels"].shape[1]):
            label = int(batch["labels"][row, place])
            if label != -100:
                logprobs = logits[row, place - 1].log_softmax(-1)
                terms.append(-(1 - smoothing) * logprobs[label] - smoothing * logprobs.mean())
    measured = trainer.compute_loss(model, batch)
    assert float(measured.detach()) == pytest.approx(float(sum(terms) / len(terms)), rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_label_smoothing_of_a_reward_model_is_the_loss_by_hand(tiny_llama, tmp_path, smoothing):
    trainer = reward_trainer(tiny_llama, tmp_path, label_smoothing_factor=smoothing)
    model, batch = trainer.model.eval(), batch_of(trainer)
    with torch.no_grad():
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        chosen, rejected = logits.double().squeeze(-1).chunk(2)
    terms = []
    for c, r, margin in zip(chosen.tolist(), rejected.tolist(), batch["margin"].tolist(), strict=True):
        right, wrong = (1 / (1 + math.exp(-sign * (c - r - margin))) for sign in (1, -1))
        terms.append(-(1 - smoothing) * math.log(right) - smoothing * math.log(wrong) + 0.02 * (c + r) ** 2)
    assert float(trainer.compute_loss(model, batch).detach()) == pytest.approx(sum(terms) / len(terms), rel=1e-5)


def test_label_smoothing_of_dpo_changes_the_losses_that_read_it(tiny_llama, tmp_path):
    losses = []
    for loss_type, smoothing in (("robust", 0.0), ("robust", 0.2)):
        args = DPOArguments(
            output_dir=str(tmp_path), bf16=False, loss_type=[loss_type], label_smoothing=smoothing, max_steps=1
        )
        trainer = DPOTrainer(
            model=load_policy(tiny_llama, dtype="float32"),
            ref_model=load_policy(tiny_llama, dtype="float32"),
            args=args,
            train_dataset=PAIRS.remove_columns("margin"),
            processing_class=load_tokenizer(tiny_llama),
        )
        with torch.no_grad():
            trainer.model.get_input_embeddings().weight.mul_(1.5)  # away from the reference, where all losses agree
            losses.append(float(trainer.compute_loss(trainer.model.eval(), batch_of(trainer))))
    assert abs(losses[0] - losses[1]) > 1e-3


class Embeddings(TrainerCallback):
    """Reads the embeddings of a few tokens while training is under way, in both modes."""

    def __init__(self):
        self.noise = None

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        ids = torch.arange(5, 17)[None].repeat(50, 1)
        embed = model.get_input_embeddings()
        was_training, plain = model.training, embed.weight[ids]
        model.train()
        self.noise = (embed(ids) - plain).detach()
        model.eval()
        assert torch.equal(embed(ids), plain)
        model.train(was_training)


def test_neftune_is_in_training_alone_and_as_large_as_its_paper_says(tiny_llama, tmp_path):
    seen = Embeddings()
    trainer = sft_trainer(tiny_llama, tmp_path, [seen], neftune_noise_alpha=5.0, max_steps=1)
    trainer.train()
    length, width = 12, 64
    bound = 5.0 / math.sqrt(length * width)  # Jain et al. 2023: uniform in +- alpha / sqrt(L d)
    assert float(seen.noise.abs().max()) <= bound
    assert float(seen.noise.abs().max()) > 0.99 * bound
    assert float(seen.noise.std()) == pytest.approx(bound / math.sqrt(3), rel=0.05)
    embed = trainer.model.get_input_embeddings().train()
    assert torch.equal(embed(torch.arange(9)), embed.weight[:9])  # none is left in the trained model


@pytest.mark.parametrize("alone", [True, False])
def test_completion_only_loss(tiny_llama, tmp_path, alone):
    trainer = sft_trainer(tiny_llama, tmp_path, completion_only_loss=alone)
    tokenizer = load_tokenizer(tiny_llama)
    learned = {
        tokenizer.decode([i for i, label in zip(row["input_ids"], row["labels"], strict=True) if label != -100])
        for row in trainer.train_dataset
    }
    whole = {p + c + "<|im_end|>" for p, c in zip(ROWS["prompt"], ROWS["completion"], strict=True)}
    assert learned == ({c + "<|im_end|>" for c in ROWS["completion"]} if alone else whole)


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("constant_with_warmup", lambda t: min(1.0, t / 2)),
        ("linear", lambda t: t / 2 if t < 2 else (8 - t) / 6),
        ("cosine", lambda t: t / 2 if t < 2 else 0.5 * (1 + math.cos(math.pi * (t - 2) / 6))),
        ("inverse_sqrt", lambda t: t / 2 if t < 2 else 1 / math.sqrt((t + 2 - 2) / 2)),
    ],
)
def test_schedules_follow_their_formula(name, formula, tiny_llama, tmp_path):
    trainer = sft_trainer(tiny_llama, tmp_path, lr_scheduler_type=name, warmup_steps=2, max_steps=8, learning_rate=0.1)
    trainer.create_optimizer_and_scheduler(8)
    rates = []
    for _ in range(8):
        rates.append(trainer.lr_scheduler.get_last_lr()[0])
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
    assert rates == pytest.approx([0.1 * formula(t) for t in range(8)], abs=1e-9)


@pytest.mark.parametrize("stage", ["sft", "reward", "dpo"])
def test_the_known_metrics_are_those_that_an_evaluation_has(stage, tiny_llama, tmp_path):
    common = {"output_dir": str(tmp_path), "bf16": False, "eval_strategy": "steps", "per_device_eval_batch_size": 4}
    parts = {"processing_class": load_tokenizer(tiny_llama)}
    if stage == "sft":
        trainer = SFTTrainer(
            load_policy(tiny_llama, dtype="float32"),
            SFTArguments(**common),
            train_dataset=ROWS,
            eval_dataset=ROWS,
            **parts,
        )
    elif stage == "reward":
        model = load_reward_model(tiny_llama, dtype="float32")
        trainer = RewardTrainer(model, RewardArguments(**common), train_dataset=PAIRS, eval_dataset=PAIRS, **parts)
    else:
        models, pairs = [load_policy(tiny_llama, dtype="float32") for _ in range(2)], PAIRS.remove_columns("margin")
        trainer = DPOTrainer(*models, DPOArguments(**common), train_dataset=pairs, eval_dataset=pairs, **parts)
    measured = trainer.evaluate()
    clock = "runtime samples_per_second steps_per_second num_tokens model_preparation_time"
    assert measured.keys() - {"epoch", *(f"eval_{name}" for name in clock.split())} == EVALUATED[stage]


def settled(stage, **settings):
    return KINDS[stage](**{"output_dir": "run", "bf16": False, **settings})


def test_early_stopping_settles_what_it_needs():
    args = settled("sft", early_stopping_patience=3)
    assert (args.load_best_model_at_end, best_metric(args), args.greater_is_better) == (True, "eval_loss", False)
    assert args.save_strategy == args.eval_strategy == "epoch"
    args = settled("dpo", metric_for_best_model="rewards/accuracies", eval_strategy="steps", eval_steps=7)
    assert (args.load_best_model_at_end, args.save_steps, args.greater_is_better) == (True, 7, True)
    args = settled(
        "ppo", early_stopping_patience=3, eval_strategy="steps", eval_steps=5, steps_per_generation=4, num_ppo_epochs=1
    )
    assert (best_metric(args), args.eval_steps, args.save_steps) == ("eval_reward", 8, 8)  # at whole rollouts
    args = settled("sft")
    assert not args.load_best_model_at_end
    assert args.save_steps == 0.25


def test_muon_and_dropout_are_settled_in_every_stage():
    for stage in KINDS:
        args = settled(stage, optim="muon", dropout=0.1)
        assert args.optim == "muon"
        assert not getattr(args, "disable_dropout", False)
        if stage != "ppo":  # whose settings are filled in for good
            assert dataclasses.replace(args).optim == "muon"
        json.dumps(args.to_dict(), default=str)
    assert settled("ppo", dropout=0.0).disable_dropout


@pytest.mark.parametrize(
    ("stage", "settings", "message"),
    [
        ("sft", {"early_stopping_patience": 2, "eval_strategy": "no"}, "there are none: give --eval_strategy steps"),
        ("ppo", {"metric_for_best_model": "eval_reward"}, "there are none: give --eval_strategy steps"),
        ("ppo", {"early_stopping_patience": 2, "eval_strategy": "epoch"}, "between two rollouts"),
        ("sft", {"early_stopping_patience": 0}, "at least 1"),
        ("sft", {"early_stopping_threshold": -1.0}, "at least 0"),
        ("sft", {"early_stopping_threshold": 0.1}, "does nothing without early_stopping_patience"),
        ("sft", {"dropout": 1.0}, "below 1"),
        ("sft", {"label_smoothing_factor": 1.0}, r"in \[0, 1\)"),
        ("sft", {"label_smoothing_factor": 0.1, "loss_type": "dft"}, "no effect with loss_type dft"),
        ("reward", {"label_smoothing_factor": 0.5}, "below 0.5"),
        ("dpo", {"label_smoothing_factor": 0.1}, "--loss_type robust --label_smoothing"),
        ("dpo", {"label_smoothing": 0.1}, "no effect with loss_type sigmoid"),
        ("ppo", {"label_smoothing_factor": 0.1}, "no effect in ppo"),
        ("ppo", {"neftune_noise_alpha": 5.0}, "leave it out of ppo"),
        ("sft", {"neftune_noise_alpha": -1.0}, "above 0"),
        ("sft", {"weight_decay": -0.1}, "at least 0"),
        ("sft", {"eval_generate_rows": -1}, "at least 0"),
        ("sft", {"eval_max_new_tokens": 0}, "at least 1"),
        ("sft", {"optim": "muno"}, "did you mean muon"),
    ],
)
def test_a_mistake_is_named(stage, settings, message):
    with pytest.raises(ConfigError, match=message):
        settled(stage, **settings)


def test_the_metric_must_be_evaluated():
    args = settled("sft", metric_for_best_model="eval_reward")
    with pytest.raises(ConfigError, match=r"no evaluation of sft has it, only .*eval_loss.*need --eval_generate_rows"):
        check_best_metric(args, "sft")
    check_best_metric(args, "sft", ["eval_reward"])
    check_best_metric(settled("sft"), "sft")
    with pytest.raises(ConfigError, match="need held-out rows"):
        require_heldout(args)
    with pytest.raises(ConfigError, match="--eval_generate_rows needs held-out rows"):
        require_heldout(settled("dpo", eval_generate_rows=3, eval_strategy="steps", eval_steps=1))
    with pytest.raises(ConfigError, match=r"--eval_generate_rows needs evaluations: give --eval_strategy"):
        require_heldout(settled("dpo", eval_generate_rows=3))


def test_noise_stays_out_of_a_shared_reference():
    for settings in ({"dropout": 0.1}, {"neftune_noise_alpha": 5.0}):
        args = settled("dpo", **settings)
        with pytest.raises(ConfigError, match="disturb the reference, too"):
            check_shared_reference(args, adapters=True)
        check_shared_reference(args, adapters=False)
        check_shared_reference(settled("dpo", precompute_ref_log_probs=True, **settings), adapters=True)
    check_shared_reference(settled("dpo"), adapters=True)


def test_settings_are_read_without_running(tmp_path):
    from recipes.sft import main

    args, _, _ = read_settings(main, ["--learning_rate", "1e-3", "--output_dir", str(tmp_path / "run")])
    assert args.learning_rate == 1e-3
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match="unknown flag --lerning_rate"):
        read_settings(main, ["--lerning_rate", "1e-3"])
    with pytest.raises(ConfigError, match="reads no settings"):
        read_settings(lambda argv: None, [])
