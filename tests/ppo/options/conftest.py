"""Tiny trainers with any options, rows to train on, and what to compare of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import TrainerCallback

from rlgen.models import load_policy, load_tokenizer
from rlgen.ppo import PPOConfig, PPOTrainer

ROWS = Dataset.from_dict({"prompt": [f"Say number {i}" + " please" * (i % 3) for i in range(32)]})
TEXTS = Dataset.from_dict(
    {
        "prompt": [f"Say word {i}" for i in range(11)],
        "completion": [" It is" + " very" * (i % 4) + " fine." for i in range(11)],
    }
)


def even_tokens(prompts, completions, completion_ids, **_):
    """Share of tokens with an even id."""
    return [sum(token % 2 == 0 for token in ids) / max(len(ids), 1) for ids in completion_ids]


class Snapshots(TrainerCallback):
    """The trained weights after each optimizer step."""

    def __init__(self) -> None:
        self.weights: list[dict[str, torch.Tensor]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        self.weights.append(trained(model))


def trained(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor], **tolerance: float) -> bool:
    """Whether two sets of tensors are equal, to the bit unless a tolerance is given."""
    assert left.keys() == right.keys()
    tolerance = {"atol": 0.0, "rtol": 0.0, **tolerance}
    return all(torch.allclose(value, right[name], **tolerance) for name, value in left.items())


def logged(trainer: PPOTrainer, name: str) -> list[float]:
    return [row[name] for row in trainer.state.log_history if row.get(name) is not None]


@pytest.fixture
def rows() -> Dataset:
    return ROWS


@pytest.fixture
def texts() -> Dataset:
    return TEXTS


@pytest.fixture
def tools() -> Any:
    """`trained`, `same`, `logged` and `Snapshots` for tests, which cannot import a conftest."""

    class Tools:
        pass

    Tools.trained, Tools.same, Tools.logged = staticmethod(trained), staticmethod(same), staticmethod(logged)
    Tools.Snapshots, Tools.even_tokens = Snapshots, staticmethod(even_tokens)
    return Tools


@pytest.fixture
def make_trainer(tiny_llama: str, tmp_path: Path, small_run, upper_layers) -> Callable[..., PPOTrainer]:
    def make(
        name: str = "run",
        *,
        folder: str = tiny_llama,
        reward: Any = even_tokens,
        lora: bool = True,
        dtype: str = "float32",
        held_out: Dataset | None = None,
        token_rewards: Any = (),
        ptx: Dataset | None = None,
        **settings: Any,
    ) -> PPOTrainer:
        settings = {**small_run, **settings}
        model = load_policy(folder, dtype=dtype)
        return PPOTrainer(
            model,
            reward,
            PPOConfig(output_dir=str(tmp_path / name), **settings),
            ROWS,
            held_out,
            processing_class=load_tokenizer(folder),
            peft_config=upper_layers(model) if lora else None,
            token_reward_funcs=token_rewards,
            ptx_dataset=ptx,
        )

    return make
