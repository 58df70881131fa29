"""Diagnostics: each fires on its pathology alone, and none on a healthy run."""

import logging
import random
from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers import AutoTokenizer

from rlgen.ppo.diagnostics import (
    CLIP_PATIENCE,
    CRITIC_PATIENCE,
    FALLS,
    FINDINGS,
    PATIENCE,
    DiagnosticsCallback,
    missing_generation_prompt,
)

ROLLOUTS = 24
UPDATES = 4


def healthy(seed: int) -> list[dict]:
    """A run that learns, one row a rollout, evaluated every fourth."""
    noise = random.Random(seed)
    rows = []
    for i in range(ROLLOUTS):
        progress = i / ROLLOUTS
        rows.append(
            {
                "step": (i + 1) * UPDATES,
                "reward": 0.70 + 0.12 * progress + noise.gauss(0, 0.03),
                "reward_std": 0.20 - 0.05 * progress + noise.gauss(0, 0.01),
                "objective/kl_per_token": 0.12 * progress + abs(noise.gauss(0, 0.02)) * (i > 0),
                "objective/rlhf_reward": 0.70 + 0.09 * progress + noise.gauss(0, 0.03),
                "objective/unscored": 0.0,
                # Not always above 0: a critic that is at 0 every fourth rollout is no dead one.
                "critic/explained_variance": -0.05 if i % 4 == 3 else 0.2 + noise.gauss(0, 0.05),
                "completions/clipped_ratio": abs(noise.gauss(0, 0.01)),
                "policy/clip_fraction": 0.03 + abs(noise.gauss(0, 0.02)),
                "policy/entropy_estimate": 1.4 - 0.6 * progress + noise.gauss(0, 0.1),
            }
        )
        if i % 4 == 3:
            held_out = 0.70 + 0.1 * progress + noise.gauss(0, 0.01)
            rows.append(
                {
                    "step": (i + 1) * UPDATES,
                    "eval_reward": held_out,
                    "eval_reward_std": 0.2,
                    "eval_objective/rlhf_reward": held_out - 0.03,
                }
            )
    return rows


def constant(**metrics):
    """Every row that has these metrics gets these values."""

    def change(rows: list[dict]) -> None:
        for row in rows:
            row.update({name: value for name, value in metrics.items() if name in row})

    return change


def overfit(rows: list[dict]) -> None:
    for row in rows:
        if "eval_reward" in row:
            row["eval_reward"] = 0.8 - 0.001 * row["step"]
        elif "reward" in row:
            row["reward"] = 0.6 + 0.002 * row["step"]


def late(key: str, value: float, rollouts: int):
    """The metric has this value in the last rollouts."""

    def change(rows: list[dict]) -> None:
        for row in [row for row in rows if key in row][-rollouts:]:
            row[key] = value

    return change


# A finding's name, what brings it about, and the same just short of it.
PATHOLOGIES = {
    "entropy collapse": (
        late("policy/entropy_estimate", 0.1, PATIENCE),
        late("policy/entropy_estimate", 0.1, PATIENCE - 1),
    ),
    "KL blow-up": (late("objective/kl_per_token", 1.5, PATIENCE), late("objective/kl_per_token", 1.5, PATIENCE - 1)),
    "dead critic": (
        late("critic/explained_variance", -0.01, CRITIC_PATIENCE),
        late("critic/explained_variance", 0.01, CRITIC_PATIENCE),
    ),
    "equal rewards": (late("reward_std", 1e-8, PATIENCE), late("reward_std", 1e-3, PATIENCE)),
    "nothing scored": (late("objective/unscored", 1.0, PATIENCE), late("objective/unscored", 0.99, PATIENCE)),
    "all completions truncated": (
        late("completions/clipped_ratio", 1.0, PATIENCE),
        late("completions/clipped_ratio", 0.8, ROLLOUTS),
    ),
    "clipping stuck high": (
        late("policy/clip_fraction", 0.4, CLIP_PATIENCE),
        late("policy/clip_fraction", 0.4, CLIP_PATIENCE - 1),
    ),
    "over-optimisation": (overfit, late("eval_reward", 0.1, FALLS - 1)),
}


def found(rows: list[dict]) -> set[str]:
    return {finding.name for finding in FINDINGS if finding.rule(rows)}


def test_every_finding_has_a_pathology_here_and_a_row_in_the_docs():
    assert {finding.name for finding in FINDINGS} == set(PATHOLOGIES)
    documented = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert [name for name in PATHOLOGIES if f"| {name} |" not in documented] == []


@pytest.mark.parametrize("seed", range(20))
def test_a_healthy_run_is_left_alone_at_every_step(seed):
    rows = healthy(seed)
    assert [found(rows[:length]) for length in range(len(rows) + 1)] == [set()] * (len(rows) + 1)


@pytest.mark.parametrize("name", PATHOLOGIES)
def test_a_pathology_brings_about_its_finding_and_no_other(name):
    pathology, near_miss = PATHOLOGIES[name]
    ill, nearly = healthy(0), healthy(0)
    pathology(ill)
    assert found(ill) == {name}
    near_miss(nearly)
    assert found(nearly) == set()


def test_the_exact_entropy_is_preferred_to_its_estimate():
    rows = healthy(0)
    for row in rows:
        if "reward" in row:
            row["policy/entropy"] = 1.0
    late("policy/entropy_estimate", 0.0, PATIENCE)(rows)
    assert found(rows) == set()
    late("policy/entropy", 0.05, PATIENCE)(rows)
    assert found(rows) == {"entropy collapse"}


def test_over_optimisation_needs_a_training_reward_that_rises_and_a_fall_that_is_no_noise():
    for change in (constant(reward=0.7), constant(eval_reward_std=10.0)):
        rows = healthy(0)
        overfit(rows)
        change(rows)
        assert found(rows) == set()


def test_equal_rewards_are_no_finding_where_token_level_rewards_teach():
    rows = healthy(0)
    constant(reward=0.0, reward_std=0.0)(rows)
    assert found(rows) == {"equal rewards"}
    for row in rows:
        row["token_rewards/no_repetition/mean"] = -0.3
    assert found(rows) == set()


def test_metrics_that_are_missing_or_null_bring_about_nothing():
    rows = healthy(0)
    assert found([{"step": row["step"]} for row in rows]) == set()
    assert found([dict.fromkeys(row) | {"step": row["step"]} for row in rows]) == set()


# --- the callback ---


def log(callback: DiagnosticsCallback, state: SimpleNamespace, row: dict, updates: int = 1) -> None:
    state.log_history.append(row)
    state.global_step = row["step"]
    callback.on_log(SimpleNamespace(updates_per_rollout=updates), state, None, logs=row)


@pytest.fixture
def state() -> SimpleNamespace:
    return SimpleNamespace(is_world_process_zero=True, log_history=[], global_step=0)


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture):
    """The steps at which the log warned so far, with the text."""
    caplog.set_level(logging.WARNING, logger="rlgen.ppo.diagnostics")
    return lambda: [(record.args[1], record.getMessage()) for record in caplog.records]


def test_a_finding_is_reported_once_and_again_when_it_comes_back(state, warnings):
    callback = DiagnosticsCallback()
    ratios = [0.0, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1]
    for step, ratio in enumerate(ratios, 1):
        log(callback, state, {"step": step, "completions/clipped_ratio": ratio})
    assert [step for step, _ in warnings()] == [4, 10]
    text = warnings()[0][1]
    assert "\n" not in text
    assert all(
        part in text for part in ("step 4", "clipped_ratio is 1", "likely cause", "raise max_completion_length")
    )


def test_other_processes_stay_silent(state, warnings):
    state.is_world_process_zero = False
    callback = DiagnosticsCallback()
    for step in range(1, 6):
        log(callback, state, {"step": step, "completions/clipped_ratio": 1.0})
    assert warnings() == []


def test_updates_count_as_the_mean_over_their_rollout(state, warnings):
    # The first update of a rollout clips nothing; it must not hide, or bring back, what the others show.
    callback = DiagnosticsCallback()
    for step in range(1, 4 * CLIP_PATIENCE + 20):
        log(callback, state, {"step": step, "policy/clip_fraction": 0.5 * ((step - 1) % 4 > 0)}, updates=4)
    assert [step for step, _ in warnings()] == [4 * CLIP_PATIENCE]
    assert callback.history[0] == {"step": 4, "policy/clip_fraction": 0.375}


@pytest.mark.parametrize(("every", "steps"), [(3, [9, 18, 24]), (10, [10, 20, 30]), (8, [8, 16, 24])])
def test_rows_that_are_logged_at_another_pace_than_rollouts_are_judged_too(state, every, steps):
    callback = DiagnosticsCallback()
    for step in range(every, 31, every):
        log(callback, state, {"step": step, "reward": 1.0}, updates=8)
    assert [row["step"] for row in callback.history][:3] == steps


def test_a_resumed_run_knows_what_was_logged_before(state, warnings):
    state.log_history = [{"step": step, "completions/clipped_ratio": 1.0} for step in range(1, PATIENCE)]
    callback = DiagnosticsCallback()
    callback.on_train_begin(SimpleNamespace(updates_per_rollout=1), state, None)
    log(callback, state, {"step": PATIENCE, "completions/clipped_ratio": 1.0})
    assert [step for step, _ in warnings()] == [PATIENCE]


def test_a_template_without_generation_prompt_is_told_from_one_that_needs_none(tiny_llama):
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    prompt = [{"role": "user", "content": "Say it"}]
    assert missing_generation_prompt(tokenizer, prompt) is None
    assert missing_generation_prompt(tokenizer, "Say it") is None
    tokenizer.chat_template = tokenizer.chat_template.split("{% if add_generation_prompt")[0]
    assert missing_generation_prompt(tokenizer, prompt) == "<|im_start|>assistant"
    assert missing_generation_prompt(tokenizer, [*prompt, {"role": "assistant", "content": "It"}]) is None
    tokenizer.chat_template = (  # the end of the question is all that announces the answer
        "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %} {{ m.content }}</s>"
        "{% endif %}{% endfor %}"
    )
    assert missing_generation_prompt(tokenizer, prompt) is None


# --- in the trainer ---


def test_a_trainer_warns_of_a_constant_reward(make_trainer, warnings):
    trainer = make_trainer(reward=lambda completions, **_: [0.5] * len(completions), max_steps=10)
    trainer.train()
    constant = [(step, text) for step, text in warnings() if text.startswith("equal rewards")]
    assert [step for step, _ in constant] == [2 * PATIENCE]  # two updates a rollout
    assert "reward is 0.5" in constant[0][1]


def test_the_entropy_estimate_agrees_with_the_entropy(make_trainer):
    trainer = make_trainer(max_steps=2, entropy_coef=1e-9, per_device_train_batch_size=16)
    trainer.train()
    row = trainer.state.log_history[0]
    assert row["policy/entropy_estimate"] == pytest.approx(row["policy/entropy"], rel=0.05)
