"""Pairs of like length share a batch, in TRL's trainers themselves."""

from pathlib import Path

import pytest
from datasets import Dataset
from trl import DPOConfig, RewardConfig

from rlgen.models import load_policy, load_reward_model, load_tokenizer
from rlgen.pair_trainers import DPOTrainer, RewardTrainer, pair_lengths

WORDS = [1, 9, 2, 8, 3, 7, 4, 6, 5, 10, 11, 12] * 4  # transformers sorts groups of a few batches
ROWS = Dataset.from_list(
    [{"prompt": "say " * n, "chosen": "yes " * (n % 3 + 1), "rejected": "no " * (n % 2 + 1)} for n in WORDS]
)


@pytest.fixture(params=["reward", "dpo"])
def make_trainer(request: pytest.FixtureRequest, tiny_llama: str, tmp_path: Path):
    def make(**settings):
        kind, config, load = {
            "reward": (RewardTrainer, RewardConfig, load_reward_model),
            "dpo": (DPOTrainer, DPOConfig, load_policy),
        }[request.param]
        args = config(
            str(tmp_path),
            per_device_train_batch_size=2,
            per_device_eval_batch_size=2,
            max_steps=2,
            use_cpu=True,
            bf16=False,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            **settings,
        )
        model, tokenizer = load(tiny_llama, dtype="float32"), load_tokenizer(tiny_llama)
        return kind(model=model, args=args, train_dataset=ROWS, eval_dataset=ROWS, processing_class=tokenizer)

    return make


def batches(lengths: list[int], order: list[int]) -> list[list[int]]:
    return [[lengths[i] for i in order[start : start + 2]] for start in range(0, len(order), 2)]


def test_a_batch_holds_like_lengths_and_all_rows_are_read(make_trainer) -> None:
    trainer = make_trainer(train_sampling_strategy="group_by_length")
    lengths = pair_lengths(trainer.train_dataset)
    for sampler in (trainer._get_train_sampler(), trainer._get_eval_sampler(trainer.eval_dataset)):
        order = list(sampler)
        assert sorted(order) == list(range(len(WORDS)))
        padding = sum(2 * max(batch) - sum(batch) for batch in batches(lengths, order))
        assert padding < sum(2 * max(batch) - sum(batch) for batch in batches(lengths, list(range(len(WORDS)))))


def test_lengths_are_those_of_the_longer_text(make_trainer) -> None:
    trainer = make_trainer(train_sampling_strategy="group_by_length")
    tokens = [int(batch["attention_mask"].sum(1).max()) for batch in trainer.get_eval_dataloader()]
    lengths = pair_lengths(trainer.eval_dataset)
    order = list(trainer._get_eval_sampler(trainer.eval_dataset))
    assert tokens == [max(batch) for batch in batches(lengths, order)]


def test_it_trains_and_evaluates(make_trainer) -> None:
    trainer = make_trainer(train_sampling_strategy="group_by_length")
    assert trainer.train().metrics["train_loss"] > 0
    assert trainer.evaluate()["eval_loss"] > 0


def test_another_strategy_is_transformers_own(make_trainer) -> None:
    trainer = make_trainer(train_sampling_strategy="sequential")
    assert list(trainer._get_train_sampler()) == list(range(len(WORDS)))
    assert list(trainer._get_eval_sampler(trainer.eval_dataset)) == list(range(len(WORDS)))
