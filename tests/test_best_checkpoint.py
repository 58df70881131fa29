"""Early stopping and the best checkpoint: against a plain simulation, and the same after a restart anywhere."""

import importlib
import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file
from transformers import TrainerControl, TrainerState

from rlgen.answer_evaluation import answer_evaluation
from rlgen.best_checkpoint import BestCheckpoint
from rlgen.controls import AnswerArguments
from rlgen.errors import ConfigError
from rlgen.generation import generate
from rlgen.models import load_policy, load_tokenizer

VALUES = st.lists(st.one_of(st.floats(-5, 5), st.just(math.nan)), min_size=1, max_size=12)


def simulated(values, patience, threshold, greater):
    """Number of evaluations until the stop, or None: a float loop, no transformers."""
    best, waited = None, 0
    for index, value in enumerate(values):
        gain = None if best is None else (value - best if greater else best - value)
        if gain is None or gain > threshold:
            waited = 0
        else:
            waited += 1
        if not math.isnan(value) and (best is None or (value > best if greater else value < best)):
            best = value
        if waited >= patience:
            return index + 1
    return None


def stopped(values, patience, threshold, greater, restart=None):
    """The same through the callback, which a new process takes over after `restart` evaluations."""
    args = SimpleNamespace(
        metric_for_best_model="score", greater_is_better=greater, load_best_model_at_end=True, eval_strategy="steps"
    )
    state, control = TrainerState(), TrainerControl()
    callback = BestCheckpoint(None, patience, threshold)
    callback.on_train_begin(args, state, control)
    for index, value in enumerate(values):
        if index == restart:
            control = TrainerControl()
            callback = BestCheckpoint(None, patience, threshold)
            callback.on_train_begin(args, state, control)
            if callback.over:
                return index
        state.log_history += [{"eval_loss": 1.0, "step": index}, {"eval_score": value, "step": index}]
        callback.on_evaluate(args, state, control, metrics={"eval_score": value})
        if control.should_training_stop:
            return index + 1
    return None


@given(VALUES, st.integers(1, 4), st.sampled_from([0.0, 0.5]), st.booleans())
@settings(max_examples=150, deadline=None)
def test_it_stops_when_a_plain_loop_does(values, patience, threshold, greater):
    expected = simulated(values, patience, threshold, greater)
    assert stopped(values, patience, threshold, greater) == expected
    for restart in range(1, len(values)):
        if expected is None or restart <= expected:
            assert stopped(values, patience, threshold, greater, restart) == expected


def test_a_metric_that_no_evaluation_has_is_named():
    args = SimpleNamespace(metric_for_best_model="eval_scroe", greater_is_better=True)
    with pytest.raises(ConfigError, match="--metric_for_best_model eval_scroe: the evaluation has only eval_score"):
        BestCheckpoint(None, 2).on_evaluate(
            args, TrainerState(), TrainerControl(), metrics={"eval_score": 1.0, "eval_runtime": 1.0, "epoch": 1}
        )


REWARD = """
def even(prompts, completions, completion_ids, **columns):
    return [sum(token % 2 == 0 for token in ids) / max(len(ids), 1) for ids in completion_ids]
"""


@pytest.fixture(scope="module")
def workplace(tmp_path_factory, tiny_llama):
    folder = tmp_path_factory.mktemp("work")
    for name, verb in (("rows", "Say"), ("heldout", "Tell")):
        rows = [{"prompt": f"{verb} {i}.", "completion": f" It is {i}."} for i in range(12)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "even.py").write_text(REWARD)
    return folder


def sft(workplace, folder, model, *words):
    line = (
        f"--model_name_or_path {model} --dataset_name {workplace}/rows.jsonl --eval_dataset_name "
        f"{workplace}/heldout.jsonl --output_dir {folder} --per_device_train_batch_size 4 --eval_strategy steps "
        "--eval_steps 1 --logging_steps 1 --lr_scheduler_type constant --warmup_steps 0 --bf16 false "
        "--dtype float32 --max_steps 12"
    )
    importlib.import_module("recipes.sft").main.__wrapped__([*line.split(), *words])
    return json.loads((folder / "run.json").read_text())


def merged(checkpoint: Path, output: Path) -> bool:
    """Whether the adapter of a checkpoint, merged, is the model in a folder."""
    model = AutoPeftModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).merge_and_unload()
    saved = load_file(output / "model.safetensors")
    return all(torch.allclose(model.state_dict()[name], weight, atol=1e-6) for name, weight in saved.items())


def test_the_best_checkpoint_is_what_is_left_and_a_restart_changes_nothing(workplace, tmp_path, tiny_llama, caplog):
    run = tmp_path / "run"
    words = "--lora_r 4 --learning_rate 30 --early_stopping_patience 2 --save_total_limit 5".split()
    with caplog.at_level("INFO", logger="rlgen.best_checkpoint"):
        record = sft(workplace, run, tiny_llama, *words)
    losses = {
        row["step"]: row["eval_loss"]
        for row in map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        if "eval_loss" in row
    }
    best = min(losses, key=losses.get)
    chosen = record["best_checkpoint"]
    assert chosen["step"] == best < max(losses) < 12
    assert chosen == {
        "step": best,
        "metric": "eval_loss",
        "value": losses[best],
        "evaluations": len(losses),
        "last_step": max(losses),
        "stopped_early": True,
    }
    assert max(losses) - best == 2
    assert record["summary"]["eval_loss"] == losses[best]
    assert f"best checkpoint: step {best}, whose eval_loss" in caplog.text
    assert merged(run / f"checkpoint-{best}", run)
    assert not merged(run / f"checkpoint-{max(losses)}", run)

    # Killed after the evaluation that stopped it, and one evaluation before.
    for lost in ([], [max(losses)]):
        again = tmp_path / f"again{len(lost)}"
        shutil.copytree(run, again)
        for step in lost:
            shutil.rmtree(again / f"checkpoint-{step}")
        (again / "model.safetensors").unlink()
        unfinished = json.loads((again / "run.json").read_text())
        unfinished["finished"], unfinished["summary"] = None, None
        (again / "run.json").write_text(json.dumps(unfinished))
        assert sft(workplace, again, tiny_llama, *words)["best_checkpoint"] == chosen
        assert merged(run / f"checkpoint-{best}", again)
        assert sorted(again.glob("checkpoint-*"))[-1].name == f"checkpoint-{max(losses)}"


def test_a_task_metric_chooses_and_is_that_of_the_model_that_is_left(workplace, tmp_path, tiny_llama):
    run = tmp_path / "run"
    words = (
        f"--learning_rate 0.02 --max_steps 5 --eval_generate_rows 6 --eval_max_new_tokens 6 --eval_reward "
        f"{workplace}/even.py:even --metric_for_best_model eval_reward"
    )
    record = sft(workplace, run, tiny_llama, *words.split())
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rewards = {row["step"]: row["eval_reward"] for row in rows if "eval_reward" in row}
    assert len(rewards) == 5
    assert all(row["eval_rewards/even"] == row["eval_reward"] for row in rows if "eval_reward" in row)
    assert {"eval_rouge_l", "eval_exact_match"} <= {key for row in rows for key in row}
    best = max(rewards, key=rewards.get)
    assert (record["best_checkpoint"]["step"], record["best_checkpoint"]["value"]) == (best, rewards[best])
    tokenizer = load_tokenizer(str(run))
    heldout = [json.loads(line)["prompt"] for line in (workplace / "heldout.jsonl").read_text().splitlines()][:6]
    model = load_policy(str(run), dtype="float32")
    answers = generate(model, tokenizer, heldout, max_new_tokens=6, temperature=0.0)
    scores = [sum(token % 2 == 0 for token in each[0].token_ids) / len(each[0].token_ids) for each in answers]
    assert sum(scores) / 6 == pytest.approx(rewards[best], abs=1e-6)


def test_dpo_answers_its_held_out_prompts_and_keeps_the_best_adapter(workplace, tmp_path, tiny_llama):
    for name, verb in (("pairs", "Say"), ("held_pairs", "Tell")):
        pairs = [{"prompt": f"{verb} {i}.", "chosen": f" It is {i}.", "rejected": " No."} for i in range(12)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    run = tmp_path / "run"
    line = (
        f"--model_name_or_path {tiny_llama} --dataset_name {tmp_path}/pairs.jsonl --eval_dataset_name "
        f"{tmp_path}/held_pairs.jsonl --output_dir {run} --per_device_train_batch_size 4 --eval_strategy steps "
        "--eval_steps 1 --logging_steps 1 --lr_scheduler_type constant --bf16 false --dtype float32 --max_steps 4 "
        "--learning_rate 0.02 --lora_r 4 --save_total_limit 5 --eval_generate_rows 6 --eval_max_new_tokens 6 "
        f"--eval_reward {workplace}/even.py:even --metric_for_best_model eval_reward"
    )
    importlib.import_module("recipes.dpo").main.__wrapped__(line.split())
    record = json.loads((run / "run.json").read_text())
    rows = [json.loads(row) for row in (run / "metrics.jsonl").read_text().splitlines()]
    rewards = {row["step"]: row["eval_reward"] for row in rows if "eval_reward" in row}
    assert len(rewards) == 4
    assert {"eval_rouge_l", "eval_exact_match"} <= {key for row in rows for key in row}
    best = max(rewards, key=rewards.get)
    assert (record["best_checkpoint"]["step"], record["best_checkpoint"]["value"]) == (best, rewards[best])
    prompts = [f"Tell {i}." for i in range(6)]
    model, tokenizer = load_policy(str(run), dtype="float32"), load_tokenizer(str(run))
    answers = generate(model, tokenizer, prompts, max_new_tokens=6, temperature=0.0)
    scores = [sum(token % 2 == 0 for token in each[0].token_ids) / len(each[0].token_ids) for each in answers]
    assert sum(scores) / 6 == pytest.approx(rewards[best], abs=1e-6)


def test_evaluating_answers_does_not_disturb_the_training(workplace, tmp_path, tiny_llama):
    words = "--learning_rate 0.02 --max_steps 3 --dropout 0.2".split()
    answers = "--eval_generate_rows 4 --eval_max_new_tokens 4".split()
    sft(workplace, tmp_path / "with", tiny_llama, *words, *answers)
    sft(workplace, tmp_path / "without", tiny_llama, *words)
    left, right = (load_file(tmp_path / name / "model.safetensors") for name in ("with", "without"))
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_answers_need_something_to_score_them(tiny_llama):
    from datasets import Dataset

    rows = Dataset.from_dict({"prompt": ["a", "b"]})
    with pytest.raises(ConfigError, match="no reference to be compared with"):
        answer_evaluation(AnswerArguments(eval_generate_rows=2), None, rows, own_rows=True)
    with pytest.raises(ConfigError, match="give it, too"):
        answer_evaluation(AnswerArguments(eval_reward=["length"]), None, rows, own_rows=True)
    with pytest.raises(ConfigError, match="train unsharded"):
        answer_evaluation(AnswerArguments(eval_generate_rows=2), None, rows, own_rows=True, sharded=True)
    assert answer_evaluation(AnswerArguments(), None, rows, own_rows=True) == []


@pytest.mark.parametrize("tuning", ["full", "head", "houlsby", "prompt_tuning"])
def test_every_way_of_tuning_can_go_back(tuning, workplace, tmp_path, tiny_llama):
    run = tmp_path / "run"
    words = f"--tuning {tuning} --learning_rate 30 --max_steps 3 --metric_for_best_model eval_loss".split()
    if tuning == "houlsby":
        words += ["--bottleneck_size", "4"]
    without = sft(workplace, run, tiny_llama, *words, "--save_total_limit", "5", "--optim", "sgd")
    best = run / f"checkpoint-{without['best_checkpoint']['step']}"
    name = "model.safetensors" if (run / "model.safetensors").is_file() else "adapter_model.safetensors"
    left, right = load_file(run / name), load_file(best / name)
    assert left.keys() & right.keys()
    assert all(torch.equal(left[key], right[key]) for key in left.keys() & right.keys())
