"""One reward function, two homes: rlgen by `path.py:function`, and TRL's GRPOTrainer as it is."""

import importlib.util
import sys

import pytest
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from rlgen.rewards import load_reward

SOURCE = '''
"""Rewards of a user who has never seen rlgen's code."""

def politeness(completions, reference, **kwargs):
    texts = [completion[-1]["content"] for completion in completions]
    return [float(len(text) - len(word)) for text, word in zip(texts, reference)]

async def patience(completions, **kwargs):
    return [None for _ in completions]
'''


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "my_rewards.py"
    path.write_text(SOURCE)
    return path


@pytest.mark.parametrize("home", ["as it is", "loaded by rlgen"])
def test_one_step_of_trls_trainer(file, home, tiny_llama, tmp_path):
    if home == "as it is":
        spec = importlib.util.spec_from_file_location("my_rewards_plain", file)
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        rewards = [module.politeness, module.patience]
    else:
        rewards = [load_reward(f"{file}:politeness"), load_reward(f"{file}:patience")]
    args = GRPOConfig(
        str(tmp_path / "run"),
        report_to="none",
        bf16=False,
        use_cpu=True,
        max_steps=1,
        logging_steps=1,
        save_strategy="no",
        per_device_train_batch_size=4,
        num_generations=2,
        max_completion_length=4,
        disable_tqdm=True,
    )
    rows = Dataset.from_list(
        [{"prompt": [{"role": "user", "content": f"say {i}"}], "reference": "r"} for i in range(4)]
    )
    trainer = GRPOTrainer(tiny_llama, rewards, args, rows)
    trainer.train()
    (logged,) = [row for row in trainer.state.log_history if "reward" in row]
    assert logged["rewards/politeness/mean"] == pytest.approx(logged["reward"])
    assert "rewards/patience/mean" in logged
