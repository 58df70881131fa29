"""Which critic a configuration makes: options of each kind, weights of reward models, and what does not fit."""

import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    T5Config,
    T5Model,
)

from rlgen.errors import ConfigError, ModelError, TrainingError
from rlgen.models import load_policy, load_tokenizer
from rlgen.ppo import PPOConfig
from rlgen.ppo.critic import LoadedCritic
from rlgen.ppo.critic.adapter import AdapterCritic
from rlgen.ppo.critic.base import CriticOptions
from rlgen.ppo.side_adapter import side_config
from rlgen.scoring import pack_rows
from rlgen.tiny import tiny_model

PROMPT, COMPLETION = [5, 6, 7, 8], [20, 21, 22, 23]


def reward_model(folder, base, **settings):
    """A classifier with a random score, saved with its tokenizer."""
    tokenizer = load_tokenizer(base)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = AutoModelForSequenceClassification.from_pretrained(
            base, **{"num_labels": 1, "dtype": torch.float32, "pad_token_id": tokenizer.pad_token_id, **settings}
        )
        torch.nn.init.normal_(model.score.weight)
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


@pytest.fixture
def plain(tmp_path, tiny_llama):
    return str(tmp_path / "reward"), reward_model(tmp_path / "reward", tiny_llama)


@pytest.fixture
def adapter(tmp_path, tiny_llama):
    tokenizer = load_tokenizer(tiny_llama)
    base = AutoModelForSequenceClassification.from_pretrained(
        tiny_llama, num_labels=1, dtype=torch.float32, pad_token_id=tokenizer.pad_token_id
    )
    config = LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["q_proj", "up_proj"], modules_to_save=["score"])
    model = get_peft_model(base, config)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(2)
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.3 if "lora_B" in name else 1.0)
    model.save_pretrained(tmp_path / "adapter")
    return str(tmp_path / "adapter"), model


def scores_of_prefixes(model) -> list[float]:
    """The score of the prompt with the first t tokens of the completion, for every t but the last."""
    model.eval()
    with torch.no_grad():
        texts = [PROMPT + COMPLETION[:t] for t in range(len(COMPLETION))]
        return [model(torch.tensor([ids])).logits.item() for ids in texts]


def values(trainer) -> list[float]:
    return LoadedCritic(trainer.critic, trainer.model)(pack_rows([PROMPT], [[COMPLETION]], 0)).tolist()


def test_a_critic_model_starts_as_the_reward_model(make_trainer, plain):
    folder, model = plain
    trainer = make_trainer(critic="model", critic_init=folder)
    assert values(trainer) == pytest.approx(scores_of_prefixes(model), rel=1e-4, abs=1e-4)


def test_a_critics_adapter_starts_as_that_of_the_reward_model(make_trainer, adapter):
    folder, model = adapter
    trainer = make_trainer(critic="adapter", critic_init=folder)
    assert values(trainer) == pytest.approx(scores_of_prefixes(model), rel=1e-4, abs=1e-4)
    assert trainer.trunk_depth == 2
    assert trainer.critic.trunk_depth == 0  # this adapter begins lower than the policy's


def test_modules_that_only_the_critic_adapts_leave_the_policy_as_it_is(make_trainer, adapter, tmp_path, tiny_llama):
    trainer = make_trainer("a", critic="adapter", critic_init=adapter[0])  # up_proj, and q_proj of all layers
    trainer.train()
    trainer.save_model()
    saved = PeftModel.from_pretrained(load_policy(tiny_llama, dtype="float32"), tmp_path / "a")
    ids = torch.tensor([PROMPT])
    trainer.model.eval()
    with torch.no_grad():
        torch.testing.assert_close(saved(ids).logits, trainer.model(ids).logits)
        merged = trainer.model.merge_and_unload()
        torch.testing.assert_close(merged(ids).logits, saved(ids).logits)


@pytest.mark.parametrize("kind", ["adapter", "model"])
def test_scores_are_standardized_where_the_folder_says_how(make_trainer, plain, adapter, kind):
    folder, model = adapter if kind == "adapter" else plain
    with open(f"{folder}/reward_model.json", "w") as file:
        json.dump({"mean": 1.5, "std": 4.0}, file)
    expected = [(score - 1.5) / 4 for score in scores_of_prefixes(model)]
    assert values(make_trainer(critic=kind, critic_init=folder)) == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_what_a_reward_model_knows_is_kept_and_warmed_up(make_trainer, plain):
    trainer = make_trainer(critic="model", critic_init=plain[0], critic_warmup_rollouts=2, max_steps=2)
    fits, values_at_first = [], values(trainer)
    fit = trainer.critic.fit
    trainer.critic.fit = lambda *args, **kwargs: fits.append(values(trainer)) or fit(*args, **kwargs)
    trainer.train()
    assert len(fits) == 3
    assert fits[0] == pytest.approx(values_at_first)  # no constant has been put over it


def test_an_encoder_that_scores_whole_texts_gives_its_body(make_trainer, tmp_path, tiny_llama):
    tokenizer = load_tokenizer(tiny_llama)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = BertConfig(vocab_size=len(tokenizer), num_labels=1, pad_token_id=tokenizer.pad_token_id, **sizes)
    model = BertForSequenceClassification(config)
    model.save_pretrained(tmp_path / "encoder")
    tokenizer.save_pretrained(tmp_path / "encoder")
    critic = make_trainer(critic="model", critic_init=str(tmp_path / "encoder")).critic
    assert torch.equal(
        critic.backbone.encoder.layer[1].output.dense.weight, model.bert.encoder.layer[1].output.dense.weight
    )
    assert not critic.initialised  # its head is a fresh one
    assert not critic.head.weight.any()


def test_an_adapter_folder_is_merged_for_a_critic_model(make_trainer, tmp_path, tiny_llama):
    policy = get_peft_model(load_policy(tiny_llama, dtype="float32"), LoraConfig(target_modules=["q_proj"]))
    torch.nn.init.normal_(policy.base_model.model.model.layers[0].self_attn.q_proj.lora_B.default.weight)
    policy.save_pretrained(tmp_path / "sft")
    load_tokenizer(tiny_llama).save_pretrained(tmp_path / "sft")
    critic = make_trainer(critic="model", critic_model_name_or_path=str(tmp_path / "sft")).critic
    merged = policy.merge_and_unload().model.layers[0].self_attn.q_proj.weight
    torch.testing.assert_close(critic.backbone.layers[0].self_attn.q_proj.weight, merged)


# What does not fit

OPTIONS = {
    "unknown kind": ({"critic": "oracle"}, "critic is 'oracle'; choose frozen, head, adapter or model"),
    "layer of a head": ({"critic": "head", "critic_layer": 2}, "critic_layer is an option of critic frozen"),
    "replay of a head": ({"critic": "head", "critic_replay_rollouts": 2}, "features of critic head change"),
    "model of another kind": ({"critic_model_name_or_path": "x"}, "an option of critic model, not of frozen"),
    "reward model for a frozen layer": ({"critic_init": "x"}, "critic frozen has no weights that a reward model"),
    "reward model for a head": ({"critic": "head", "critic_init": "x"}, "critic head has no weights"),
    "a width": ({"critic": "adapter", "critic_init": "x", "critic_width": 8}, "leave critic_width out"),
    "no model": ({"critic": "model"}, "give one of the two"),
    "two models": ({"critic": "model", "critic_init": "x", "critic_model_name_or_path": "y"}, "give one of the two"),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_options_that_do_not_go_together_are_one_clear_line(case):
    settings, message = OPTIONS[case]
    with pytest.raises(ConfigError, match=message) as caught:
        PPOConfig(use_cpu=True, bf16=False, **settings)
    assert "\n" not in str(caught.value)


def test_defaults_depend_on_the_kind():
    made = {
        kind: PPOConfig(use_cpu=True, bf16=False, critic=kind, **more)
        for kind, more in {"frozen": {}, "adapter": {}, "model": {"critic_init": "x"}}.items()
    }
    assert {kind: config.critic_replay_rollouts for kind, config in made.items()} == {
        "frozen": 16,
        "adapter": 1,
        "model": 1,
    }
    assert made["frozen"].critic_learning_rate == 1e-4
    assert made["model"].critic_learning_rate == 1e-5
    assert PPOConfig(use_cpu=True, bf16=False, critic_learning_rate=1.0).critic_learning_rate == 1.0


def refused(make_trainer, error, message, **settings):
    with pytest.raises(error, match=message) as caught:
        make_trainer(**settings)
    assert "\n" not in str(caught.value)


def test_another_vocabulary_is_refused(make_trainer, tmp_path):
    other = tiny_model(tmp_path / "other", vocabulary=600)
    refused(
        make_trainer,
        ConfigError,
        "another vocabulary than the policy",
        critic="model",
        critic_model_name_or_path=other,
    )
    reward_model(tmp_path / "reward", other)
    settings = {"critic": "model", "critic_init": str(tmp_path / "reward")}
    refused(make_trainer, ConfigError, "another vocabulary than the policy", **settings)


def test_a_model_with_encoder_and_decoder_is_refused(make_trainer, tmp_path, tiny_llama):
    tokenizer = load_tokenizer(tiny_llama)
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_heads": 4, "decoder_start_token_id": 0}
    T5Model(T5Config(vocab_size=len(tokenizer), **sizes)).save_pretrained(tmp_path / "t5")
    tokenizer.save_pretrained(tmp_path / "t5")
    settings = {"critic": "model", "critic_model_name_or_path": str(tmp_path / "t5")}
    refused(make_trainer, ConfigError, "has an encoder and a decoder", **settings)


def test_too_few_embeddings_are_refused(make_trainer, tmp_path, tiny_llama):
    small = tiny_model(tmp_path / "small", vocabulary=600)
    load_tokenizer(tiny_llama).save_pretrained(small)
    settings = {"critic": "model", "critic_model_name_or_path": small}
    refused(make_trainer, ConfigError, r"has 600 embeddings for the policy's \d+ tokens", **settings)


def test_what_is_no_reward_model_is_refused(make_trainer, tmp_path, tiny_llama, adapter):
    settings = {"critic": "model", "critic_init": tiny_llama}
    refused(make_trainer, ConfigError, "is a LlamaForCausalLM with . outputs, not a reward model", **settings)
    reward_model(tmp_path / "two", tiny_llama, num_labels=2)
    settings["critic_init"] = str(tmp_path / "two")
    refused(make_trainer, ConfigError, "with 2 outputs", **settings)
    load_tokenizer(tiny_llama).save_pretrained(adapter[0])
    settings["critic_init"] = adapter[0]
    refused(make_trainer, ConfigError, "is an adapter folder: merge it, or take critic adapter", **settings)
    settings["critic_init"] = str(tmp_path / "nowhere" / "at" / "all")
    refused(make_trainer, ModelError, "there is no model folder", **settings)


def test_adapters_that_do_not_fit_the_base_are_refused(make_trainer, tmp_path, tiny_llama, tiny_gpt2, plain, adapter):
    folder, _ = adapter
    refused(make_trainer, ConfigError, "holds no adapter", critic="adapter", critic_init=plain[0])
    settings = {"critic": "adapter", "critic_init": folder}
    refused(make_trainer, ConfigError, "but the policy's base model is", folder=tiny_gpt2, **settings)

    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps({**config, "r": 2}))
    refused(make_trainer, ConfigError, "the critic's adapter does not fit the policy", **settings)
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps({**config, "target_modules": ["q_proj"]}))
    refused(make_trainer, ConfigError, "the critic's adapter does not fit the policy", **settings)
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps({**config, "task_type": "CAUSAL_LM"}))
    refused(make_trainer, ConfigError, r"is an adapter for CAUSAL_LM, not for a reward model", **settings)


def test_an_adapter_that_trains_a_score_with_several_outputs_is_refused(make_trainer, tmp_path, tiny_llama):
    base = AutoModelForSequenceClassification.from_pretrained(tiny_llama, num_labels=3, dtype=torch.float32)
    config = LoraConfig(task_type="SEQ_CLS", target_modules=["q_proj"], modules_to_save=["score"])
    get_peft_model(base, config).save_pretrained(tmp_path / "three")
    settings = {"critic": "adapter", "critic_init": str(tmp_path / "three")}
    refused(make_trainer, ConfigError, "its weights are 3x64, not 1x64", **settings)


def test_a_policy_with_an_adapter_named_critic_is_refused(make_trainer, monkeypatch):
    policy: PeftModel = make_trainer().model
    policy.add_adapter("critic", side_config(policy.peft_config["default"]))
    with pytest.raises(ConfigError, match="has an adapter named critic already"):
        AdapterCritic(policy, side_config(policy.peft_config["default"]), CriticOptions())
    assert sorted(policy.peft_config) == ["critic", "default"]


def test_texts_longer_than_a_critic_model_can_read_are_one_clear_line(make_trainer, critic_settings):
    trainer = make_trainer(**critic_settings["encoder"])
    with pytest.raises(TrainingError, match="have 140 tokens, the critic model reads 128"):
        LoadedCritic(trainer.critic, None)(pack_rows([[5] * 136], [[[6] * 4]], 0))
