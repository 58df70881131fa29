"""Ways of tuning through the recipes: reward models that can or cannot be merged, DPO from its reference, SFT."""

import importlib
import json
import math
from pathlib import Path

import pytest

from rlgen.models import is_adapter, load_policy
from rlgen.rewards.model import RewardModel

TRAINING = "--max_steps 2 --per_device_train_batch_size 4 --logging_steps 1 --learning_rate 1e-2 --warmup_steps 0"


@pytest.fixture
def pairs(tmp_path: Path) -> str:
    rows = [{"prompt": f"Say {i}.", "chosen": f" It is {i}.", "rejected": " No."} for i in range(12)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(tmp_path / "pairs.jsonl")


def run(recipe: str, words: str, output_dir: Path) -> dict:
    main = importlib.import_module(f"recipes.{recipe}").main.__wrapped__
    main([*words.split(), "--output_dir", str(output_dir), *TRAINING.split()])
    return json.loads((output_dir / "run.json").read_text())


@pytest.mark.parametrize(("name", "merged"), [("houlsby", False), ("ia3", True), ("head", True)])
def test_a_reward_model_scores_after_loading_whether_it_can_be_merged_or_not(
    tiny_llama, pairs, tmp_path, name, merged
):
    words = f"--model_name_or_path {tiny_llama} --dataset_name {pairs} --tuning {name}"
    record = run("reward", words, tmp_path / "reward")
    assert record["tuning"]["strategy"] == name
    assert is_adapter(tmp_path / "reward") != merged
    model = RewardModel(str(tmp_path / "reward"), standardize=False)
    good, bad = model(["Say 1.", "Say 1."], [" It is 1.", " No."])
    assert good > bad  # the same pairs, a large step
    alone = model(["Say 1."], [" It is 1."])[0]
    assert alone == pytest.approx(good, abs=1e-3)
    if name == "head":
        start, trained = load_policy(tiny_llama), model.model
        same = dict(start.base_model.named_parameters())
        assert all(same[key].equal(value) for key, value in trained.base_model.named_parameters())


@pytest.mark.parametrize("name", ["houlsby", "layer_norm", "vera", "head", "qlora"])
def test_dpo_starts_at_its_reference(tiny_llama, pairs, tmp_path, name):
    words = f"--model_name_or_path {tiny_llama} --dataset_name {pairs} --tuning {name}"
    record = run("dpo", words, tmp_path / "dpo")
    losses = [json.loads(line) for line in (tmp_path / "dpo" / "metrics.jsonl").read_text().splitlines()]
    assert losses[0]["loss"] == pytest.approx(math.log(2), abs=1e-3)
    assert losses[1]["loss"] < math.log(2)
    assert record["tuning"]["trainable_parameters"] > 0


def test_sft_with_an_adapter_that_cannot_be_merged_says_what_comes_next(tiny_llama, tmp_path, capsys):
    rows = [{"prompt": f"Say {i}.", "completion": f" It is {i}."} for i in range(8)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = f"--model_name_or_path {tiny_llama} --dataset_name {tmp_path}/rows.jsonl --tuning p_tuning"
    record = run("sft", words, tmp_path / "sft")
    assert is_adapter(tmp_path / "sft")
    assert record["config"]["tuning"] == "p_tuning"
    assert capsys.readouterr().out.strip().splitlines()[-1].startswith("next: rlgen compare --checkpoints base=")
