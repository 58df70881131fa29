"""A reward model that is an adapter on the policy's base scores through that base, as if it had one of its own."""

import json
import logging

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, LlamaConfig, LlamaForCausalLM

from rlgen.models import load_policy, load_tokenizer
from rlgen.ppo import PPOConfig, PPOTrainer
from rlgen.ppo.shared_reward import share_reward_models
from rlgen.rewards.check import checked
from rlgen.rewards.model import RewardModel
from rlgen.tiny import tiny_model

PROMPTS = ["Say number 1 please", "Say number 1 please", "Count", "Tell me about the sea and its weather"]
COMPLETIONS = [" one two", " one", " 1 2 3 4 5", ""]
TARGETS = {"llama": ["q_proj", "up_proj"], "gpt2": ["c_attn", "c_fc"]}


def save_adapter(folder, base, seed=2, **settings):
    """A reward model as an adapter folder: random adapter and score, recorded statistics."""
    tokenizer = load_tokenizer(base)
    model = AutoModelForSequenceClassification.from_pretrained(
        base, num_labels=1, dtype=torch.float32, pad_token_id=tokenizer.pad_token_id
    )
    family = model.config.model_type
    config = LoraConfig(
        task_type="SEQ_CLS",
        **{
            "r": 4,
            "target_modules": TARGETS[family],
            "fan_in_fan_out": family == "gpt2",
            "modules_to_save": ["score"],
            **settings,
        },
    )
    model = get_peft_model(model, config)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.3 if "lora_B" in name else 1.0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "reward_model.json").write_text(json.dumps({"mean": 0.5, "std": 2.0}))
    return str(folder)


def storages(*modules) -> dict[int, int]:
    """Bytes of the storages behind all parameters and buffers of some modules, by address."""
    tensors = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
    return {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}


def roles(trainer, rewards) -> list[torch.nn.Module]:
    """Every module that a role of PPO lives in."""
    given = [getattr(reward, "function", reward) for reward in rewards]
    return [
        trainer.model,
        trainer.critic,
        *([trainer.reference] if trainer.reference is not None else []),
        *(reward.model for reward in given if isinstance(reward, RewardModel)),
    ]


def test_scores_are_those_of_a_model_of_its_own(make_trainer, tiny, tmp_path):
    folder = save_adapter(tmp_path / "reward", tiny)
    alone, reward = (RewardModel(folder, dtype="float32", device="cpu") for _ in range(2))
    expected = alone(PROMPTS, COMPLETIONS)
    trainer = make_trainer(folder=tiny, reward=checked(reward))
    assert reward.model.base_model.side.policy is trainer.model
    torch.testing.assert_close(
        torch.tensor(reward(PROMPTS, COMPLETIONS)), torch.tensor(expected), atol=1e-4, rtol=1e-4
    )
    trainer.train()  # the policy moves, the reward model does not
    torch.testing.assert_close(
        torch.tensor(reward(PROMPTS, COMPLETIONS)), torch.tensor(expected), atol=1e-4, rtol=1e-4
    )
    assert max(expected) - min(expected) > 0.01


def test_texts_that_share_nothing_score_the_same(make_trainer, tiny_llama, tmp_path, monkeypatch):
    folder = save_adapter(tmp_path / "reward", tiny_llama)
    reward = RewardModel(folder, dtype="float32", device="cpu")
    expected = reward(PROMPTS, COMPLETIONS)
    trainer = make_trainer(reward=reward)
    assert share_reward_models([reward], trainer.model, trainer.accelerator.autocast)
    monkeypatch.setattr("rlgen.rewards.model.can_share_prompts", lambda _: False)
    torch.testing.assert_close(
        torch.tensor(reward(PROMPTS, COMPLETIONS)), torch.tensor(expected), atol=1e-4, rtol=1e-4
    )


def test_training_goes_as_with_a_reward_model_of_its_own(make_trainer, tiny_llama, tmp_path, monkeypatch):
    folder = save_adapter(tmp_path / "reward", tiny_llama)
    settings = {"critic": "adapter", "num_ppo_epochs": 2, "max_steps": 8}
    reward = RewardModel(folder, dtype="float32", device="cpu")
    shared = make_trainer("a", reward=reward, **settings)
    shared.train()
    monkeypatch.setattr("rlgen.ppo.trainer.share_reward_models", lambda *_: [])
    alone = make_trainer("b", reward=RewardModel(folder, dtype="float32", device="cpu"), **settings)
    alone.train()
    assert len(storages(*roles(shared, [reward]))) < len(storages(*roles(alone, alone.reward_funcs)))
    ours, theirs = (
        {name: p for name, p in each.model.named_parameters() if p.requires_grad} for each in (shared, alone)
    )
    assert ours.keys() == theirs.keys()
    for name, parameter in ours.items():
        torch.testing.assert_close(parameter, theirs[name], atol=1e-4, rtol=1e-3)


def test_four_roles_hold_one_base_model(make_trainer, tiny_llama, tmp_path):
    folder = save_adapter(tmp_path / "reward", tiny_llama)
    reward = RewardModel(folder, dtype="float32", device="cpu")
    own = storages(reward.model)
    base = sum(storages(load_policy(tiny_llama, dtype="float32")).values())
    trainer = make_trainer(reward=reward, critic="adapter")
    held = storages(*roles(trainer, [reward]))
    assert not own.keys() & held.keys()  # the merged copy has gone
    side = sum(p.numel() * 4 for p in (*trainer.critic.parameters(), *reward.model.parameters()))
    policy = sum(p.numel() * 4 for p in trainer.model.parameters() if p.requires_grad)
    small = sum(b.untyped_storage().nbytes() for b in trainer.critic.buffers())
    assert sum(held.values()) == base + policy + side + small


def test_four_roles_of_a_real_size_need_little_more_than_the_sft_model(tmp_path, tiny_llama, small_run):
    """A fifth of SmolLM2-135M's layers and vocabulary; adapters of rank 16 on all layers, reward model included."""
    config = LlamaConfig(
        vocab_size=49152 // 5,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30 // 5,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
    )
    sft = LlamaForCausalLM(config).to(torch.bfloat16)
    sft.save_pretrained(tmp_path / "sft")
    load_tokenizer(tiny_llama).save_pretrained(tmp_path / "sft")
    alone = sum(storages(sft).values())
    lora = {"r": 16, "target_modules": "all-linear"}
    folder = save_adapter(tmp_path / "reward", str(tmp_path / "sft"), **lora)
    reward = RewardModel(folder, dtype="bfloat16", device="cpu")
    rows = [{"prompt": f"Say {i}"} for i in range(32)]
    trainer = PPOTrainer(
        load_policy(str(tmp_path / "sft"), dtype="bfloat16"),
        reward,
        PPOConfig(output_dir=str(tmp_path / "run"), **small_run),
        Dataset.from_list(rows),
        processing_class=load_tokenizer(tiny_llama),
        peft_config=LoraConfig(task_type="CAUSAL_LM", **lora),
    )
    ratio = sum(storages(*roles(trainer, [reward])).values()) / alone
    assert 1.0 < ratio <= 1.15


def test_a_reward_model_of_another_base_keeps_it_and_says_so(make_trainer, tiny_llama, tmp_path, caplog):
    other = tiny_model(tmp_path / "other", "llama", seed=3)
    folder = save_adapter(tmp_path / "reward", other)
    reward = RewardModel(folder, dtype="float32", device="cpu")
    before = reward.model
    with caplog.at_level(logging.WARNING):
        make_trainer(reward=reward)
    assert reward.model is before
    assert "keeps a base model of its own: it is an adapter of" in caplog.text


def test_full_training_and_plain_folders_leave_reward_models_alone(make_trainer, tiny_llama, tmp_path):
    folder = save_adapter(tmp_path / "reward", tiny_llama)
    reward = RewardModel(folder, dtype="float32", device="cpu")
    before = reward.model
    make_trainer("a", reward=reward, lora=False)
    assert reward.model is before
    before.save_pretrained(tmp_path / "plain")
    reward.tokenizer.save_pretrained(tmp_path / "plain")
    plain = RewardModel(str(tmp_path / "plain"), dtype="float32", device="cpu")
    before = plain.model
    make_trainer("b", reward=plain)
    assert plain.model is before


def test_an_adapter_without_a_score_is_no_reward_model(make_trainer, tiny_llama, tmp_path, caplog):
    folder = save_adapter(tmp_path / "reward", tiny_llama)
    reward = RewardModel(folder, dtype="float32", device="cpu")
    file = tmp_path / "reward" / "adapter_model.safetensors"
    save_file({name: value for name, value in load_file(file).items() if "score" not in name}, file)
    with caplog.at_level(logging.WARNING):
        make_trainer(reward=reward)
    assert "no score head with one output" in caplog.text
