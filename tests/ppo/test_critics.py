"""Critics of all kinds in training: they learn, resume exactly, and leave the policy alone."""

import json
import statistics

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from rlgen.errors import ConfigError, TrainingError
from rlgen.hidden import frozen_depth
from rlgen.models import load_tokenizer, save_model
from rlgen.ppo import trainer as trainer_module
from rlgen.ppo.rollout import group_completions

LEARNING_RATES = {"frozen": 1e-2, "head": 1e-2, "adapter": 1e-2, "decoder": 1e-3, "encoder": 1e-3}


def by_prompt(prompts, completions, completion_ids, **_):
    return [float("please" in prompt) for prompt in prompts]


def weights(trainer) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}


def assert_equal(left, right) -> None:
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert torch.equal(value, right[name]), name


def metric(trainer, name: str) -> list[float]:
    return [row[name] for row in trainer.state.log_history if row.get(name) is not None]


def test_a_critic_learns_what_a_prompt_is_worth(make_trainer, critic_settings, kind):
    trainer = make_trainer(
        reward=by_prompt,
        max_steps=80,
        steps_per_generation=4,
        learning_rate=0.0,
        kl_coef=0.0,
        cliprange_value=None,
        critic_learning_rate=LEARNING_RATES[kind],
        **critic_settings[kind],
    )
    trainer.train()
    explained = metric(trainer, "critic/explained_variance")
    assert explained[0] == pytest.approx(0, abs=1e-6)  # a constant
    assert statistics.median(explained[-6:]) > 0.4  # a median: a rollout of one kind of prompt has no variance
    assert statistics.median(metric(trainer, "critic/calibration_slope")[-6:]) == pytest.approx(1, abs=0.6)


def test_the_update_is_the_same_whatever_the_critic_if_advantages_are(make_trainer, critic_settings, monkeypatch):
    """With advantages that don't ask the critic, and the critic's random numbers kept apart, it cannot be told."""

    def without_critic(rewards, values, completion_mask, gamma, lam):
        returns = rewards.flip(1).cumsum(1).flip(1)
        return torch.where(completion_mask, returns, 0.0), torch.where(completion_mask, returns, 0.0)

    monkeypatch.setattr(trainer_module, "gae", without_critic)
    finished = {}
    for kind, settings in critic_settings.items():
        # What a critic reads decides which activations sampling leaves; without a trunk that is none, to the last bit.
        trainer = make_trainer(kind, critic_warmup_rollouts=1, cache_trunk=False, **settings)
        fit = trainer.critic.fit

        def apart(*args, fit=fit, **kwargs):
            with torch.random.fork_rng(devices=[]):
                return fit(*args, **kwargs)

        trainer.critic.fit = apart
        before = {name: value.clone() for name, value in trainer.critic.state_dict().items()}
        trainer.train()
        changed = [name for name, value in trainer.critic.state_dict().items() if not torch.equal(value, before[name])]
        assert len(changed) >= 3  # head and mark at least: the critic did learn
        finished[kind] = weights(trainer)
    for kind in finished:
        assert_equal(finished["frozen"], finished[kind])


@pytest.mark.parametrize("lora", [True, False], ids=["lora", "full"])
def test_a_critic_never_touches_the_policys_gradients(make_trainer, critic_settings, kind, lora):
    if kind == "adapter" and not lora:
        pytest.skip("needs a frozen base")
    trainer = make_trainer(lora=lora, **critic_settings[kind])
    trainer.model.train()
    flags = {name: p.requires_grad for name, p in trainer.model.named_parameters()}
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.ones_like(parameter)
    trainer._generate_and_score_completions([row for row in trainer.train_dataset for _ in range(4)][:16])
    assert {name: p.requires_grad for name, p in trainer.model.named_parameters()} == flags
    assert trainer.model.training
    for name, parameter in trainer.model.named_parameters():
        assert torch.equal(parameter, before[name]), name
        if parameter.requires_grad:
            assert bool((parameter.grad == 1).all()), name


def test_a_resumed_run_equals_a_straight_one(make_trainer, critic_settings, kind, tmp_path):
    settings = {"critic_warmup_rollouts": 1, "save_strategy": "steps", "save_steps": 2, "max_steps": 8}
    straight = make_trainer("a", **settings, **critic_settings[kind])
    straight.train()
    resumed = make_trainer("b", **settings, **critic_settings[kind])
    resumed.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-4"))
    assert_equal(weights(straight), weights(resumed))
    assert_equal(straight.critic.state_dict(), resumed.critic.state_dict())
    left, right = (trainer.critic.optimizer.state_dict()["state"] for trainer in (straight, resumed))
    assert left.keys() == right.keys()
    for place, state in left.items():
        assert_equal(state, right[place])


def test_a_checkpoint_with_another_kind_of_critic_is_refused(make_trainer, tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 2, "max_steps": 2}
    make_trainer("a", **settings).train()
    with pytest.raises(TrainingError, match="holds a critic of kind frozen, this run has head"):
        make_trainer("b", critic="head", **settings).train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-2"))


def test_replayed_rows_are_learned_from_too(make_trainer, critic_settings):
    trainer = make_trainer(
        critic_minibatches=2, critic_epochs=3, critic_replay_rollouts=2, **critic_settings["adapter"]
    )
    trainer.model.train()
    steps = []
    step = trainer.critic._step
    trainer.critic._step = lambda *args: steps.append(len(args[0])) or step(*args)
    rows = [row for row in trainer.train_dataset for _ in range(4)]
    tokens = []
    for start in (0, 16, 32):
        rollout = trainer._generate_and_score_completions(rows[start : start + 16])
        tokens.append(int(rollout["completion_mask"].sum()))
        done, steps[:] = list(steps), []
        assert len(done) == 3 * 2 * len(tokens[-2:])
        assert sum(done) == 3 * sum(tokens[-2:])


def test_more_minibatches_than_rows_make_no_empty_steps(make_trainer, critic_settings):
    trainer = make_trainer(critic_minibatches=9, **critic_settings["decoder"])
    trainer.model.train()
    counts = []
    step = trainer.critic._step
    trainer.critic._step = lambda *args: counts.append(len(args[0])) or step(*args)
    trainer._generate_and_score_completions([row for row in trainer.train_dataset for _ in range(4)][:16])
    assert len(counts) == 2 * 4  # passes, rows
    assert min(counts) > 0


# The adapter that shares the policy's base


def test_the_critics_adapter_is_invisible_outside_the_critic(make_trainer, tmp_path, tiny):
    plain = make_trainer("a", folder=tiny)
    trainer = make_trainer("b", folder=tiny, critic="adapter")
    assert list(trainer.model.peft_config) == ["default"]
    assert weights(trainer).keys() == weights(plain).keys()
    assert trainer.trunk_depth == plain.trunk_depth == frozen_depth(trainer.model) == 2
    assert trainer.critic.trunk_depth == 2
    trainer.train()
    assert not [name for name in trainer.model.state_dict() if "critic" in name]
    adapted = [p for name, p in trainer.critic.named_parameters() if "lora_B" in name]
    assert adapted
    assert all(bool(p.any()) for p in adapted)  # it has learned
    assert metric(trainer, "objective/kl")[0] == 0  # the reference is the base without any adapter

    trainer.save_model()
    saved = load_file(tmp_path / "b" / "adapter_model.safetensors")
    assert not [name for name in saved if "critic" in name]
    assert sorted(file.name for file in (tmp_path / "b" / "critic").iterdir()) == [
        "config.json",
        "critic.safetensors",
        "critic_state.pt",
    ]
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny), tmp_path / "b")
    ids = torch.tensor([[5, 6, 7]])
    trainer.model.eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, trainer.model(ids).logits)
        with trainer.model.disable_adapter(), loaded.disable_adapter():
            torch.testing.assert_close(loaded(ids).logits, trainer.model(ids).logits)
    save_model(trainer.model, load_tokenizer(tiny), tmp_path / "merged", merge=True)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    with torch.no_grad():
        torch.testing.assert_close(merged(ids).logits, loaded(ids).logits)


def test_leaving_the_frozen_trunk_out_changes_nothing_for_the_critics_adapter(make_trainer):
    cached = make_trainer("a", critic="adapter", cache_trunk=True)
    cached.train()
    plain = make_trainer("b", critic="adapter", cache_trunk=False)
    plain.train()
    assert (cached.critic.trunk_depth, plain.critic.trunk_depth) == (2, 0)
    for name, value in cached.critic.state_dict().items():
        torch.testing.assert_close(value, plain.critic.state_dict()[name], atol=1e-5, rtol=1e-3)


def test_the_critics_adapter_needs_a_frozen_base(make_trainer):
    with pytest.raises(ConfigError, match="train adapters"):
        make_trainer(lora=False, critic="adapter")


# What is saved


def test_config_json_names_kind_and_sizes(make_trainer, critic_settings, kind, tmp_path):
    trainer = make_trainer(**critic_settings[kind])
    trainer.critic.save(tmp_path / "critic", for_resuming=False)
    assert {file.name for file in (tmp_path / "critic").iterdir()} == {"config.json", "critic.safetensors"}
    config = json.loads((tmp_path / "critic" / "config.json").read_text())
    expected = {"frozen": {"layer": 3, "max_completion_length": 6}, "encoder": {"hidden_size": 32}}
    expected = {"kind": critic_settings[kind]["critic"], "width": 0, "hidden_size": 64, **expected.get(kind, {})}
    assert {name: config[name] for name in expected} == expected


def test_a_packed_rollout_is_the_same_for_a_model_that_cannot_share_prompts(make_trainer, critic_settings):
    trainer = make_trainer(**critic_settings["decoder"])
    critic = trainer.critic
    assert critic.shares_prompts
    torch.nn.init.normal_(critic.head.weight)
    packed = group_completions([[5, 6, 7]] * 3 + [[8, 9]] * 3, [[4, 5], [6], [7, 8, 9], [3], [], [2, 1]], 3, 0)
    packed.completion_mask[0, 0] = False  # no reward applied

    class Scored:
        trunk = None

    Scored.packed = packed
    shared = critic.values(critic.states(Scored))
    critic.shares_prompts = False
    torch.testing.assert_close(critic.values(critic.states(Scored)), shared, atol=1e-5, rtol=1e-4)
    assert len(shared) == 7
