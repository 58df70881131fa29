"""Tiny trainers with any kind of critic, and what other tests of PPO make theirs of."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import BertConfig, BertModel

from rlgen.models import load_policy, load_tokenizer
from rlgen.ppo import PPOConfig, PPOTrainer

ROOT = Path(__file__).parents[2]
ROWS = Dataset.from_dict({"prompt": [f"Say number {i}" + " please" * (i % 3) for i in range(32)]})
KINDS = ["frozen", "head", "adapter", "decoder", "encoder"]


def even_tokens(prompts, completions, completion_ids, **_):
    """Share of tokens with an even id."""
    return [sum(token % 2 == 0 for token in ids) / max(len(ids), 1) for ids in completion_ids]


def top_lora(model, **settings) -> LoraConfig:
    llama = model.config.model_type == "llama"
    return LoraConfig(
        **{
            "r": 8,
            "lora_alpha": 16,
            "target_modules": ["q_proj", "v_proj", "down_proj"] if llama else ["c_attn", "c_proj"],
            "layers_to_transform": [2, 3],
            "fan_in_fan_out": not llama,
            "task_type": "CAUSAL_LM",
            **settings,
        }
    )


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory, tiny_llama: str) -> str:
    """An encoder with the vocabulary of the tiny decoders."""
    folder, tokenizer = tmp_path_factory.mktemp("models") / "bert", load_tokenizer(tiny_llama)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=128,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def critic_settings(tiny_llama: str, tiny_bert: str):
    """The settings of a critic by the name of its kind."""
    return {
        "frozen": {"critic": "frozen", "critic_replay_rollouts": 4},
        "head": {"critic": "head"},
        "adapter": {"critic": "adapter"},
        "decoder": {"critic": "model", "critic_model_name_or_path": tiny_llama},
        "encoder": {"critic": "model", "critic_model_name_or_path": tiny_bert},
    }


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def small_run() -> dict[str, Any]:
    """Settings of a run of seconds: two rollouts of two updates."""
    return {
        "max_steps": 4,
        "per_device_train_batch_size": 8,
        "steps_per_generation": 2,
        "num_generations": 4,
        "num_ppo_epochs": 1,
        "learning_rate": 1e-2,
        "max_completion_length": 6,
        "critic_warmup_rollouts": 0,
        "save_strategy": "no",
        "bf16": False,
        "use_cpu": True,
        "dataloader_pin_memory": False,
        "disable_tqdm": True,
    }


@pytest.fixture(scope="session")
def upper_layers():
    """Makes the adapter of the two upper layers of a tiny model."""
    return top_lora


@pytest.fixture
def make_trainer(tiny_llama: str, tmp_path: Path, small_run):
    def make(name="run", folder=tiny_llama, reward=even_tokens, lora=True, **settings) -> PPOTrainer:
        settings = {**small_run, **settings}
        model = load_policy(folder, dtype="float32")
        return PPOTrainer(
            model,
            reward,
            PPOConfig(output_dir=str(tmp_path / name), **settings),
            ROWS,
            processing_class=load_tokenizer(folder),
            peft_config=top_lora(model) if lora is True else lora or None,
        )

    return make


@pytest.fixture(scope="session")
def launch():
    """Runs a command in a folder, on one or several processes that are launched as users launch them.

    Nothing that this process has of launchers reaches it, processes find each other on the loopback device whatever
    the host's name resolves to, and there is time for a machine that is busy with other things.
    """

    def run(command: list[str], folder: Path, processes: int = 2) -> subprocess.CompletedProcess[str]:
        foreign = ("ACCELERATE_", "FSDP_", "TORCHELASTIC_", "MASTER_", "GROUP_", "ROLE_")
        alone = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        environment = {k: v for k, v in os.environ.items() if not k.startswith(foreign) and k not in alone}
        environment |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        if Path("/sys/class/net/lo").exists():
            environment["GLOO_SOCKET_IFNAME"] = "lo"
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        done = subprocess.run(
            [sys.executable, *(launcher if processes > 1 else []), *command],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=1500,
        )
        assert done.returncode == 0, done.stderr[-6000:]
        return done

    return run
