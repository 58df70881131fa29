"""Training controls in PPO: optimizers, dropout in updates but not in rollouts, best checkpoint and its critic."""

import importlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from torch import nn

from recipes.ppo import PPOArguments
from rlgen.dropout import set_dropout
from rlgen.models import load_policy, load_tokenizer
from rlgen.optimizers import use_optimizer
from rlgen.ppo import PPOTrainer
from rlgen.scoring import unwrapped

ROWS = Dataset.from_dict({"prompt": [f"Say number {i}" + " please" * (i % 3) for i in range(32)]})


def even_tokens(prompts, completions, completion_ids, **_):
    return [sum(token % 2 == 0 for token in ids) / max(len(ids), 1) for ids in completion_ids]


@pytest.fixture
def make(tmp_path, small_run, upper_layers):
    def build(folder, **settings):
        model = load_policy(folder, dtype="float32")
        set_dropout(model, settings.get("dropout"))
        args = PPOArguments(output_dir=str(tmp_path / "run"), **{**small_run, **settings})
        trainer = PPOTrainer(
            model,
            even_tokens,
            args,
            ROWS,
            processing_class=load_tokenizer(folder),
            peft_config=upper_layers(model),
        )
        use_optimizer(trainer)
        return trainer

    return build


@pytest.mark.parametrize(
    ("name", "kind"), [("sgd", "SGD"), ("adafactor", "Adafactor"), ("adamw_8bit", "AdamW"), ("muon", "Muon")]
)
def test_the_policy_trains_with_the_optimizer_of_that_name(name, kind, make, tiny_llama):
    if name == "adamw_8bit":
        pytest.importorskip("bitsandbytes")
    trainer = make(tiny_llama, optim=name, weight_decay=0.1)
    before = {key: value.detach().clone() for key, value in trainer.model.named_parameters()}
    trainer.train()
    optimizer = trainer.optimizer.optimizer
    assert type(optimizer).__name__ == kind
    assert type(optimizer).__module__.startswith("bitsandbytes") == (name == "adamw_8bit")
    changed = {key for key, value in trainer.model.named_parameters() if not torch.equal(value, before[key])}
    assert changed
    assert all("lora_" in key for key in changed)
    if name == "muon":  # every matrix of an adapter is one
        assert {group["part"] for group in optimizer.param_groups} == {"muon"}
    assert isinstance(trainer.critic.optimizer, torch.optim.AdamW)


@pytest.mark.parametrize("dropout", [None, 0.5])
def test_dropout_is_on_in_updates_and_off_in_rollouts(dropout, make, tiny_gpt2):
    trainer = make(tiny_gpt2, dropout=dropout)
    assert (trainer.trunk_depth == 0) == (dropout is not None)  # layers that drop are not computed once for all
    dropping = {"rollout": set(), "update": set()}
    phase = []

    def hook(module, inputs, output):
        if phase:
            dropping[phase[-1]].add(module.training and module.p > 0)

    for module in unwrapped(trainer.model).modules():
        if isinstance(module, nn.Dropout):
            module.register_forward_hook(hook)

    def during(name, function):
        def wrapped(*args, **kwargs):
            phase.append(name)
            try:
                return function(*args, **kwargs)
            finally:
                phase.pop()

        return wrapped

    generate, loss = trainer._generate_and_score_completions, trainer._compute_loss
    trainer._generate_and_score_completions = during("rollout", generate)
    trainer._compute_loss = during("update", loss)
    trainer.train()
    assert dropping["rollout"] == {False}
    assert dropping["update"] == {dropout is not None}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    for name, verb in (("rows", "Say"), ("heldout", "Tell")):
        lines = [json.dumps({"prompt": f"{verb} {i}."}) + "\n" for i in range(16)]
        (folder / f"{name}.jsonl").write_text("".join(lines))
    (folder / "even.py").write_text(
        "def even(prompts, completions, completion_ids, **columns):\n"
        "    return [sum(token % 2 == 0 for token in ids) / max(len(ids), 1) for ids in completion_ids]\n"
    )
    return folder


def same(left: Path, right: Path) -> bool:
    first, second = load_file(left), load_file(right)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_the_best_checkpoint_and_its_critic_are_what_is_left(workplace, tmp_path, tiny_llama):
    run = tmp_path / "run"
    line = (
        f"--model_name_or_path {tiny_llama} --dataset_name {workplace}/rows.jsonl --eval_dataset_name "
        f"{workplace}/heldout.jsonl --reward {workplace}/even.py:even --output_dir {run} --dtype float32 --bf16 false "
        "--per_device_train_batch_size 8 --steps_per_generation 1 --num_generations 4 --num_ppo_epochs 1 "
        "--max_steps 9 --max_completion_length 6 --critic_warmup_rollouts 0 --learning_rate 0.03 "
        "--eval_strategy steps --eval_steps 1 --early_stopping_patience 2 --save_total_limit 9 "
        "--top_layers 2 --lora_r 4"
    )
    main = importlib.import_module("recipes.ppo").main.__wrapped__
    main(line.split())
    record = json.loads((run / "run.json").read_text())
    rows = [json.loads(row) for row in (run / "metrics.jsonl").read_text().splitlines()]
    rewards = {row["step"]: row["eval_reward"] for row in rows if "eval_reward" in row}
    chosen, best, last = record["best_checkpoint"], max(rewards, key=rewards.get), max(rewards)
    assert (chosen["step"], chosen["metric"], chosen["value"]) == (best, "eval_reward", rewards[best])
    assert chosen["stopped_early"] == (last - best == 2)
    assert last == 9 or last - best == 2
    best_folder, last_folder = run / f"checkpoint-{best}", run / f"checkpoint-{last}"
    assert same(run / "adapter_model.safetensors", best_folder / "adapter_model.safetensors")
    critic = next(file.name for file in (run / "critic").glob("*.safetensors"))
    assert same(run / "critic" / critic, best_folder / "critic" / critic)
    if last != best:
        assert not same(run / "critic" / critic, last_folder / "critic" / critic)

    # The last steps are lost: what is done again comes to the same end.
    again = tmp_path / "again"
    shutil.copytree(run, again)
    shutil.rmtree(again / f"checkpoint-{last}")
    (again / "run.json").write_text(json.dumps({**record, "finished": None, "summary": None}))
    main([*(word.replace(str(run), str(again)) for word in line.split())])
    assert json.loads((again / "run.json").read_text())["best_checkpoint"] == chosen
    assert same(run / "adapter_model.safetensors", again / "adapter_model.safetensors")
