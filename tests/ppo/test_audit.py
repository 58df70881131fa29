"""The audit inside trainers: it changes nothing until it acts, sees a hack, and goes back to what was good."""

import json
import logging
import random

import numpy as np
import pytest
import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from recipes.ppo import PPOArguments
from rlgen.audit import AuditArguments, AuditCallback, check_audit, settings, watched_measures
from rlgen.audit.callback import MOST_INTERVENTIONS, updates_per_rollout
from rlgen.audit.good_state import can_raise_kl, good_checkpoint, raise_kl, restore_good, save_good
from rlgen.audit.sampling import undisturbed
from rlgen.errors import ConfigError, RewardError, TrainingError
from rlgen.models import load_policy, load_tokenizer
from rlgen.ppo.kl_control import KLControl

HELD_OUT = Dataset.from_dict({"prompt": [f"Tell number {i}" + " now" * (i % 3) for i in range(16)]})
LONGER = {"max_steps": 12}
LAST_GOOD = 4


def even_tokens(prompts, completions, completion_ids, **_):
    """What the trainers here optimize: share of tokens with an even id."""
    return [sum(token % 2 == 0 for token in ids) / max(len(ids), 1) for ids in completion_ids]


def rising(completions, trainer_state, **_):
    """What the audit is told is optimized: a tiny model learns too slowly to be hacked in a test's few steps."""
    return [trainer_state.global_step + row / 10 for row in range(len(completions))]


def falling(completions, trainer_state, **_):
    """A gold reward that falls from one step on, for some prompts faster than for others."""
    fall = max(0, trainer_state.global_step - LAST_GOOD)
    return [1.0 - fall * (1 + row / 10) / 10 for row in range(len(completions))]


def steady(completions, trainer_state, **_):
    """A gold reward that rises."""
    return [trainer_state.global_step / 100 for _ in completions]


def audit(folder, gold=falling, **changes) -> AuditCallback:
    chosen = AuditArguments(**{"audit_steps": 2, "audit_prompts": 16, **changes})
    measures = watched_measures([gold], has_reference=False)[:1]
    return AuditCallback(folder, HELD_OUT, [rising], [1.0], measures, chosen, max_new_tokens=6)


def rows(folder):
    return [json.loads(line) for line in (folder / "audit.jsonl").read_text().splitlines()]


def trained(trainer):
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}


def same(left, right):
    assert left.keys() == right.keys()
    return all(torch.equal(value, right[name]) for name, value in left.items())


# It changes nothing


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_audited_run_is_the_same_to_the_bit(make_trainer, tmp_path, temperature):
    plain = make_trainer("plain", temperature=0.9)
    plain.train()
    audited = make_trainer("audited", temperature=0.9)
    audit(tmp_path / "audited", audit_temperature=temperature).bind(audited)
    audited.train()
    assert same(trained(plain), trained(audited))
    assert [row["step"] for row in rows(tmp_path / "audited")] == [2, 4]


def test_rewards_that_draw_random_numbers_leave_no_trace():
    state = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    with undisturbed():
        random.random(), np.random.rand(), torch.rand(1)
    assert random.getstate() == state[0]
    assert np.random.get_state()[1].tolist() == state[1]
    assert torch.equal(torch.get_rng_state(), state[2])


# It sees a hack


def test_a_hack_stops_the_run_and_shows_the_worst_samples(make_trainer, tmp_path, caplog):
    trainer = make_trainer(**LONGER)
    audit(tmp_path / "run", audit_action="stop").bind(trainer)
    with caplog.at_level(logging.WARNING, "rlgen.audit.callback"):
        trainer.train()
    last = rows(tmp_path / "run")[-1]
    assert last["alarms"] == ["falling"]
    assert last["action"] == "stop"
    assert trainer.state.global_step == last["step"] == LAST_GOOD + 2
    assert last["optimized"]["difference"] > 0 > last["watched"]["falling"]["difference"]
    assert [sample["prompt"] for sample in last["worst"]] == HELD_OUT["prompt"][:-4:-1]
    falls = [sample["score_now"] - sample["score_start"] for sample in last["worst"]]
    assert falls == sorted(falls)
    assert falls[0] < 0
    alarm, *samples = [record.getMessage() for record in caplog.records if record.name == "rlgen.audit.callback"]
    assert f"audit alarm at step {last['step']}: the optimized reward rose" in alarm
    assert "likely cause" in alarm
    assert "to change" in alarm
    assert "training stops; the last good state is" in alarm
    assert len(samples) == 3
    assert good_checkpoint(tmp_path / "run" / "audit").name == f"checkpoint-{LAST_GOOD}"


def test_a_reward_that_gold_agrees_with_raises_no_alarm(make_trainer, tmp_path):
    trainer = make_trainer(**LONGER)
    audit(tmp_path / "run", gold=steady, audit_action="stop").bind(trainer)
    trainer.train()
    assert [row["action"] for row in rows(tmp_path / "run")] == ["none"] * 6
    assert good_checkpoint(tmp_path / "run" / "audit").name == "checkpoint-12"


def test_warnings_are_not_said_again_while_they_last(make_trainer, tmp_path, caplog):
    trainer = make_trainer(**LONGER)
    audit(tmp_path / "run").bind(trainer)
    with caplog.at_level(logging.WARNING, "rlgen.audit.callback"):
        trainer.train()
    alarms = [row["step"] for row in rows(tmp_path / "run") if row["alarms"]]
    assert len(alarms) > 1
    assert sum("audit alarm" in record.getMessage() for record in caplog.records) == 1
    assert trainer.state.global_step == 12


def test_without_binding_it_warns_and_keeps_nothing(make_trainer, tmp_path):
    trainer = make_trainer(max_steps=2)
    trainer.add_callback(audit(tmp_path / "run"))
    trainer.train()
    assert len(rows(tmp_path / "run")) == 1
    assert good_checkpoint(tmp_path / "run" / "audit") is None


# It acts


@pytest.mark.parametrize(("lora", "critic"), [(True, "frozen"), (True, "adapter"), (False, "head")])
def test_going_back_puts_policy_critic_and_optimizer_back(make_trainer, tmp_path, lora, critic):
    trainer = make_trainer(lora=lora, critic=critic)
    trainer.train()
    before = trained(trainer)
    moments = json.dumps(trainer.optimizer.state_dict(), default=lambda tensor: tensor.tolist())
    values = {name: value.clone() for name, value in trainer.critic.state_dict().items()}
    folder = save_good(trainer, tmp_path / "good", trainer.state)
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:
                parameter += 1.0
        for value in trainer.critic.parameters():
            value += 1.0
    for state in trainer.optimizer.state.values():
        state["exp_avg"] += 1.0
    restore_good(trainer, folder)
    assert same(before, trained(trainer))
    assert same(values, trainer.critic.state_dict())
    assert json.dumps(trainer.optimizer.state_dict(), default=lambda tensor: tensor.tolist()) == moments


def test_a_good_state_is_a_checkpoint_like_any_other(make_trainer, tmp_path):
    trainer = make_trainer()
    trainer.train()
    folder = save_good(trainer, tmp_path / "good", trainer.state)
    assert folder.name == "checkpoint-4"
    trainer.state.global_step = 6
    assert [each.name for each in (tmp_path / "good").iterdir()] == ["checkpoint-4"]
    save_good(trainer, tmp_path / "good", trainer.state)
    assert [each.name for each in (tmp_path / "good").iterdir()] == ["checkpoint-6"]
    resumed = make_trainer("resumed", max_steps=8)
    resumed.train(resume_from_checkpoint=str(folder.with_name("checkpoint-6")))
    assert resumed.state.global_step == 8
    (folder.with_name("checkpoint-6") / "adapter_model.safetensors").write_bytes(b"cut short")
    assert good_checkpoint(tmp_path / "good") is None


def test_a_checkpoint_of_something_else_is_not_taken_back(make_trainer, tmp_path):
    full = make_trainer("full", lora=False, max_steps=2)
    full.train()
    folder = save_good(full, tmp_path / "good", full.state)
    with pytest.raises(TrainingError, match="does not fit the policy"):
        restore_good(make_trainer("lora"), folder)


def test_a_hack_is_rolled_back_until_it_is_given_up(make_trainer, tmp_path):
    trainer = make_trainer(**{**LONGER, "max_steps": 24})
    audit(tmp_path / "run", audit_action="rollback", audit_kl_factor=1.01).bind(trainer)
    trainer.train()
    actions = [row["action"] for row in rows(tmp_path / "run")]
    assert actions.count("rollback") == MOST_INTERVENTIONS
    assert actions[-1] == "rollback_stop"
    assert trainer.kl_control.kl_coef == pytest.approx(0.05 * 1.01**MOST_INTERVENTIONS)
    good = good_checkpoint(tmp_path / "run" / "audit")
    left = trained(trainer)
    restore_good(trainer, good)
    assert same(left, trained(trainer))


def test_without_a_penalty_to_raise_going_back_ends_the_run(make_trainer, tmp_path):
    trainer = make_trainer(**{**LONGER, "kl_coef": 0.0})
    audit(tmp_path / "run", audit_action="rollback").bind(trainer)
    trainer.train()
    assert rows(tmp_path / "run")[-1]["action"] == "rollback_stop"


def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(make_trainer, tmp_path):
    choice = {"audit_action": "raise_kl", "audit_kl_factor": 1.5}
    straight = make_trainer("straight", **LONGER)
    audit(tmp_path / "straight", **choice).bind(straight)
    straight.train()
    alarmed = next(row["step"] for row in rows(tmp_path / "straight") if row["action"] == "raise_kl")
    assert alarmed < 12
    killed = make_trainer("killed", **LONGER, save_strategy="steps", save_steps=alarmed)
    audit(tmp_path / "killed", **choice).bind(killed)
    killed.train()
    resumed = make_trainer("killed", **LONGER, save_strategy="steps", save_steps=alarmed)
    audit(tmp_path / "killed", **choice).bind(resumed)
    resumed.train(resume_from_checkpoint=str(tmp_path / "killed" / f"checkpoint-{alarmed}"))
    assert same(trained(straight), trained(resumed))
    assert resumed.kl_control.kl_coef == straight.kl_control.kl_coef == 0.05 * 1.5**3
    without_time = [[{**row, "time": 0} for row in rows(tmp_path / name)] for name in ("straight", "killed")]
    assert without_time[0] == without_time[1]


def test_a_resumed_run_without_a_start_compares_with_where_it_is(make_trainer, tmp_path, caplog):
    first = make_trainer("run", max_steps=2, save_strategy="steps", save_steps=2)
    first.train()
    second = make_trainer("run", max_steps=4)
    audit(tmp_path / "run").bind(second)
    with caplog.at_level(logging.WARNING, "rlgen.audit.callback"):
        second.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert "no start of this audit" in caplog.text
    assert [row["step"] for row in rows(tmp_path / "run")] == [4]


def test_trls_grpo_can_be_audited_too(tiny_llama, tmp_path, small_run, upper_layers):
    names = ("max_steps", "per_device_train_batch_size", "num_generations", "learning_rate", "max_completion_length")
    chosen = {name: small_run[name] for name in (*names, "save_strategy", "bf16", "use_cpu", "disable_tqdm")}
    args = GRPOConfig(output_dir=str(tmp_path / "run"), beta=0.01, report_to="none", **chosen)
    model = load_policy(tiny_llama, dtype="float32")
    rows_to_train = Dataset.from_dict({"prompt": [f"Say number {i}" for i in range(16)]})
    trainer = GRPOTrainer(
        model,
        even_tokens,
        args,
        rows_to_train,
        processing_class=load_tokenizer(tiny_llama),
        peft_config=upper_layers(model),
    )
    callback = audit(tmp_path / "run", audit_steps=1, audit_action="rollback").bind(trainer)
    trainer.train()
    assert [row["step"] for row in rows(tmp_path / "run")] == [1, 2, 3, 4]
    good = good_checkpoint(tmp_path / "run" / "audit")
    before = trained(trainer)
    restore_good(trainer, good)
    assert before.keys() == trained(trainer).keys()
    assert can_raise_kl(trainer)
    assert raise_kl(trainer, 4.0) == pytest.approx(0.04 * 4**callback.interventions)


# Settings


def test_audits_fall_between_rollouts(make_trainer, tmp_path):
    trainer = make_trainer(max_steps=4)  # two updates a rollout
    assert updates_per_rollout(trainer.args) == 2
    callback = audit(tmp_path / "run", audit_steps=1).bind(trainer)
    trainer.train()
    assert (callback.every, callback.looks) == (2, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"audit_steps": -1}, "audit_steps is -1"),
        ({"audit_prompts": 2}, "audit_prompts is 2"),
        ({"audit_temperature": -0.1}, "audit_temperature"),
        ({"audit_action": "pray"}, "choose warn, raise_kl, rollback, stop"),
        ({"audit_kl_factor": 1.0}, "audit_kl_factor"),
        ({"audit_steps": 0, "audit_action": "stop"}, "give --audit_steps N"),
    ],
)
def test_wrong_settings_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        check_audit(AuditArguments(**{"audit_steps": 8, **changes}), kl_coef=0.1)


def test_nothing_to_raise_is_refused(make_trainer, tmp_path):
    with pytest.raises(ConfigError, match="which is 0"):
        check_audit(AuditArguments(audit_steps=8, audit_action="raise_kl"), kl_coef=0.0)
    trainer = make_trainer(kl_coef=0.0)
    audit(tmp_path / "run", audit_action="raise_kl").bind(trainer)
    with pytest.raises(ConfigError, match="which is 0"):
        trainer.train()


def test_what_cannot_act_is_refused(make_trainer, tmp_path):
    trainer = make_trainer()
    trainer.add_callback(audit(tmp_path / "run", audit_action="rollback"))
    with pytest.raises(ConfigError, match=r"call bind\(trainer\)"):
        trainer.train()
    with pytest.raises(ConfigError, match="none of whole completions"):
        AuditCallback(
            tmp_path,
            HELD_OUT,
            [],
            [],
            watched_measures([], has_reference=False),
            settings(AuditArguments()),
            max_new_tokens=4,
        )


def test_a_watched_reward_that_fails_is_named(make_trainer, tmp_path):
    def broken(completions, **_):
        raise KeyError("no such thing")

    trainer = make_trainer()
    audit(tmp_path / "run", gold=broken).bind(trainer)
    with pytest.raises(RewardError, match="broken"):
        trainer.train()


def test_ppos_recipe_takes_the_settings():
    args = PPOArguments(output_dir="x", audit_steps=16, audit_action="stop", bf16=False, use_cpu=True)
    assert settings(args) == AuditArguments(audit_steps=16, audit_action="stop")
    with pytest.raises(ConfigError, match="audit_prompts is 1"):
        PPOArguments(output_dir="x", audit_steps=16, audit_prompts=1, bf16=False, use_cpu=True)


def test_tightening_lowers_an_adaptive_target_as_much():
    fixed, adaptive = KLControl(0.1, None, 1000), KLControl(0.1, 6.0, 1000)
    for control in (fixed, adaptive):
        control.tighten(4.0)
        assert control.kl_coef == pytest.approx(0.4)
    assert adaptive.target == pytest.approx(1.5)
    again = KLControl(0.1, 6.0, 1000)
    again.kl_coef = 0.4  # as a checkpoint has it
    again.tighten(4.0, resumed=True)
    assert (again.kl_coef, again.target) == (0.4, 1.5)
