"""The PPO trainer on tiny models: invariants that must hold whatever the data."""

import statistics
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from rlgen.errors import ConfigError, TrainingError
from rlgen.models import load_policy, load_tokenizer
from rlgen.ppo import PPOConfig, PPOTrainer
from rlgen.ppo.config import GRPO_ONLY
from rlgen.ppo.rollout import score_rollout

ROWS = Dataset.from_dict({"prompt": [f"Say number {i}" + " please" * (i % 3) for i in range(32)]})


def even_tokens(prompts, completions, completion_ids, **_):
    """Share of tokens with an even id: known optimum 1, about 0.5 for a random model."""
    return [sum(token % 2 == 0 for token in ids) / max(len(ids), 1) for ids in completion_ids]


def nothing(prompts, completions, completion_ids, **_):
    return [0.0] * len(completions)


def top_lora(model) -> LoraConfig:
    targets = ["q_proj", "v_proj", "down_proj"] if model.config.model_type == "llama" else ["c_attn", "c_proj"]
    return LoraConfig(
        r=8,
        lora_alpha=16,
        target_modules=targets,
        layers_to_transform=[2, 3],
        fan_in_fan_out=model.config.model_type == "gpt2",
        task_type="CAUSAL_LM",
    )


def make(folder: str, output_dir: Path, reward=even_tokens, lora=True, held_out=None, **settings) -> PPOTrainer:
    settings = {
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
        **settings,
    }
    model = load_policy(folder, dtype="float32")
    return PPOTrainer(
        model,
        reward,
        PPOConfig(output_dir=str(output_dir), **settings),
        ROWS,
        held_out,
        processing_class=load_tokenizer(folder),
        peft_config=top_lora(model) if lora else None,
    )


def trained_weights(trainer: PPOTrainer) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}


def assert_same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor], **tolerance) -> None:
    assert left.keys() == right.keys()
    for name, value in left.items():
        torch.testing.assert_close(value, right[name], msg=lambda m, name=name: f"{name}: {m}", **tolerance)


def metric(trainer: PPOTrainer, name: str) -> list[float]:
    return [row[name] for row in trainer.state.log_history if name in row]


@pytest.mark.parametrize("lora", [True, False], ids=["lora", "full"])
def test_kl_to_the_reference_is_zero_at_step_0_and_grows_after(tiny, tmp_path, lora):
    trainer = make(tiny, tmp_path, lora=lora, max_steps=4)
    trainer.train()
    kl = metric(trainer, "objective/kl")
    assert kl[0] == 0
    assert kl[-1] != 0


def test_a_policy_that_is_not_its_reference_is_refused(tiny_llama, tmp_path):
    trainer = make(tiny_llama, tmp_path)
    with torch.no_grad():
        for name, parameter in trainer.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    with pytest.raises(TrainingError, match="merge it into the model first"):
        trainer.train()


def test_a_reference_with_other_weights_is_refused(tiny_llama, tmp_path):
    trainer = make(tiny_llama, tmp_path, lora=False)
    with torch.no_grad():
        trainer.reference.get_input_embeddings().weight.mul_(1.5)
    with pytest.raises(TrainingError, match="disagree before any update"):
        trainer.train()


def test_without_reward_and_penalty_the_policy_does_not_move(tiny_llama, tmp_path):
    trainer = make(tiny_llama, tmp_path, reward=nothing, kl_coef=0.0, weight_decay=0.0)
    before = trained_weights(trainer)
    trainer.train()
    assert_same(before, trained_weights(trainer), atol=0, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("completions", [4, 1])
def test_it_finds_a_known_optimum(tiny_llama, tmp_path, completions):
    trainer = make(
        tiny_llama,
        tmp_path,
        lora=False,
        num_generations=completions,
        max_steps=160,
        per_device_train_batch_size=16,
        num_ppo_epochs=2,
        learning_rate=3e-3,
        kl_coef=0.001,
    )
    trainer.train()
    rewards = metric(trainer, "reward")
    assert sum(rewards[:2]) / 2 < 0.65
    assert sum(rewards[-5:]) / 5 > 0.95


@pytest.mark.parametrize("critic_layer", [2, 3], ids=["critic in the trunk", "critic above"])
def test_leaving_the_frozen_trunk_out_changes_nothing(tiny, tmp_path, critic_layer, monkeypatch):
    from_sampling = []

    def score(*args, known, **kwargs):
        from_sampling.append(known is not None)
        return score_rollout(*args, known=known, **kwargs)

    monkeypatch.setattr("rlgen.ppo.trainer.score_rollout", score)
    cached = make(tiny, tmp_path / "a", num_ppo_epochs=2, cache_trunk=True, critic_layer=critic_layer)
    cached.train()
    assert from_sampling == [critic_layer == 2] * len(from_sampling)
    from_sampling.clear()
    plain = make(tiny, tmp_path / "b", num_ppo_epochs=2, cache_trunk=False, critic_layer=critic_layer)
    plain.train()
    assert not any(from_sampling)
    assert (cached.trunk_depth, plain.trunk_depth) == (2, 0)
    assert_same(trained_weights(cached), trained_weights(plain), atol=1e-5, rtol=1e-4)


def test_sharing_the_prompt_among_completions_changes_nothing(tiny, tmp_path):
    shared = make(tiny, tmp_path / "a", num_ppo_epochs=2, max_steps=2, steps_per_generation=1)
    shared.train()
    alone = make(tiny, tmp_path / "b", num_ppo_epochs=2, max_steps=2, steps_per_generation=1)
    alone._shares_prompts = False
    alone.train()
    assert_same(trained_weights(shared), trained_weights(alone), atol=1e-5, rtol=1e-4)


def test_accumulated_small_batches_are_one_large_batch(tiny_llama, tmp_path):
    # Plain gradient descent: AdamW would forgive a constant factor in the loss.
    plain = {"optim": "sgd", "max_grad_norm": 0.0, "learning_rate": 0.1}
    large = make(tiny_llama, tmp_path / "a", **{**plain, "per_device_train_batch_size": 16})
    large.train()
    small = make(
        tiny_llama,
        tmp_path / "b",
        per_device_train_batch_size=4,
        steps_per_generation=8,
        gradient_accumulation_steps=4,
        **plain,
    )
    small.train()
    assert_same(trained_weights(large), trained_weights(small), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("step", [2, 16, 18], ids=["first epoch", "between epochs", "second epoch"])
def test_a_resumed_run_equals_a_straight_one(tiny_llama, tmp_path, step):
    settings = {"critic_warmup_rollouts": 1, "save_strategy": "steps", "save_steps": 2, "max_steps": 20}
    straight = make(tiny_llama, tmp_path / "a", **settings)  # 32 prompts, 4 a rollout of 2 steps: 16 steps an epoch
    straight.train()
    resumed = make(tiny_llama, tmp_path / "b", **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "a" / f"checkpoint-{step}"))
    assert_same(trained_weights(straight), trained_weights(resumed), atol=0, rtol=0)
    assert_same(straight.critic.state_dict(), resumed.critic.state_dict(), atol=0, rtol=0)
    assert metric(straight, "reward")[-1] == metric(resumed, "reward")[-1]


def test_a_checkpoint_without_critic_is_refused(tiny_llama, tmp_path):
    trainer = make(tiny_llama, tmp_path, save_strategy="steps", save_steps=2, max_steps=2)
    trainer.train()
    checkpoint = tmp_path / "checkpoint-2"
    for file in (checkpoint / "critic").iterdir():
        file.unlink()
    (checkpoint / "critic").rmdir()
    with pytest.raises(TrainingError, match="holds no critic"):
        make(tiny_llama, tmp_path, max_steps=4).train(resume_from_checkpoint=str(checkpoint))


def test_the_saved_folder_loads_in_plain_libraries_and_holds_the_critic(tiny_llama, tmp_path):
    trainer = make(tiny_llama, tmp_path)
    trainer.train()
    trainer.save_model()
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_llama), tmp_path)
    ids = torch.tensor([[5, 6, 7]])
    trainer.model.eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, trainer.model(ids).logits)
    critic = load_file(tmp_path / "critic" / "critic.safetensors")
    assert_same(critic, trainer.critic.state_dict())


def test_a_completion_that_no_reward_applies_to_stays_out_of_the_update(tiny_llama, tmp_path):
    def only_even_prompts(prompts, completions, completion_ids, **_):
        scores = even_tokens(prompts, completions, completion_ids)
        even = [int(prompt.split()[2]) % 2 == 0 for prompt in prompts]
        return [score if applies else None for score, applies in zip(scores, even, strict=True)]

    trainer = make(tiny_llama, tmp_path, reward=only_even_prompts, max_steps=2)
    trainer.model.train()
    rows = [row for row in ROWS for _ in range(4)][:16]
    rollout = trainer._generate_and_score_completions(rows)
    assert rollout["completion_mask"].any(2).flatten().tolist() == ([True] * 4 + [False] * 4) * 2
    assert trainer._metrics["train"]["objective/unscored"] == [0.5]


def test_a_truncated_completion_pays_the_penalty(tiny_llama, tmp_path):
    trainer = make(tiny_llama, tmp_path, reward=nothing, missing_eos_penalty=0.75)
    trainer._rewards_per_func = torch.zeros(3, 1)
    scores, _ = trainer._local_scores(3, [[5, 6], [7, trainer.eos_token_ids[0]], []])
    assert scores.tolist() == [-0.75, 0.0, -0.75]


def test_evaluation_during_training_logs_rewards_and_kl(tiny_llama, tmp_path):
    settings = {"max_steps": 4, "eval_strategy": "steps", "eval_steps": 2, "num_generations_eval": 1}
    trainer = make(tiny_llama, tmp_path, held_out=ROWS.select(range(8)), **settings)
    trainer.train()
    logged = trainer.state.log_history
    assert any("eval_reward" in row and "eval_objective/kl" in row for row in logged)


def test_the_critic_learns_what_a_prompt_is_worth(tiny_llama, tmp_path):
    def by_prompt(prompts, completions, completion_ids, **_):
        return [float("please" in prompt) for prompt in prompts]

    trainer = make(
        tiny_llama,
        tmp_path,
        reward=by_prompt,
        max_steps=24,
        learning_rate=0.0,
        kl_coef=0.0,
        critic_learning_rate=1e-2,
        critic_replay_rollouts=4,
        cliprange_value=None,
    )
    trainer.train()
    explained = metric(trainer, "critic/explained_variance")
    assert explained[0] < 0.3
    assert statistics.median(explained[-8:]) > 0.5  # a median: a rollout of one kind of prompt has no variance


@pytest.mark.parametrize("name", sorted(GRPO_ONLY))
def test_an_option_that_only_grpo_has_is_an_error(name):
    default = PPOConfig.__dataclass_fields__[name].default
    other = not default if isinstance(default, bool) else "other" if isinstance(default, str) else 7
    with pytest.raises(ConfigError, match=f"{name} is an option of GRPO"):
        PPOConfig(use_cpu=True, bf16=False, **{name: other})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gamma": 1.5}, "gamma is 1.5; it must be between 0 and 1"),
        ({"cliprange": 0}, "cliprange is 0"),
        ({"kl_estimator": "k9"}, "choose k1, k2 or k3"),
        ({"num_generations": 0}, "num_generations is 0"),
        ({"steps_per_generation": 0}, "steps_per_generation is 0"),
        ({"max_completion_length": None}, "max_completion_length is None"),
        ({"total_episodes": 0}, "total_episodes is 0"),
        ({"critic_dropout": 1.5}, "critic_dropout is 1.5"),
        ({"save_steps": 0.25}, "not a share of all"),
        ({"gradient_accumulation_steps": 3}, "no multiple of gradient_accumulation_steps"),
        ({"num_generations": 5}, "don't fit together"),
    ],
)
def test_settings_that_cannot_work_are_one_clear_error(settings, message):
    with pytest.raises(ConfigError, match=message):
        PPOConfig(use_cpu=True, bf16=False, **settings)


def test_episodes_and_checkpoints_are_counted_in_whole_rollouts():
    config = PPOConfig(
        use_cpu=True,
        bf16=False,
        per_device_train_batch_size=8,
        steps_per_generation=4,
        num_ppo_epochs=2,
        total_episodes=100,
        save_steps=10,
    )
    assert config.updates_per_rollout == 8
    assert config.max_steps == 4 * 8  # 100 episodes need four rollouts of 32
    assert config.save_steps == 16
    assert config.num_iterations == 2


def test_evaluation_does_not_touch_training(tiny_llama, tmp_path):
    watched = make(tiny_llama, tmp_path / "a", held_out=ROWS.select(range(8)), eval_strategy="steps", eval_steps=2)
    watched.train()
    alone = make(tiny_llama, tmp_path / "b")
    alone.train()
    assert_same(trained_weights(watched), trained_weights(alone), atol=0, rtol=0)


def test_a_minibatch_loss_equals_a_plain_loop_over_tokens(tiny_llama, tmp_path):
    trainer = make(tiny_llama, tmp_path)
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 2
    rollout = trainer._generate_and_score_completions([row for row in ROWS for _ in range(4)][:16])
    rollout["completion_mask"][0, 1, 2:] = False  # one that stopped early
    half = {key: value if value is None or value.ndim == 0 else value[:2] for key, value in rollout.items()}
    half["logprobs"] = half["logprobs"] + 0.3 * torch.randn_like(half["logprobs"])  # an older policy
    measured = trainer._compute_loss(trainer.model, half)
    total = 0.0
    for n in range(2):
        prompt = half["input_ids"][n][half["segment_ids"][n] == 0].tolist()
        for g in range(4):
            completion = half["completion_ids"][n, g, : int(half["completion_mask"][n, g].sum())].tolist()
            with torch.no_grad():
                logits = trainer.model(torch.tensor([prompt + completion])).logits[0].double().log_softmax(-1)
            for t, token in enumerate(completion):
                ratio = (logits[len(prompt) - 1 + t, token] - half["logprobs"][n, g, t]).exp().item()
                advantage = half["advantages"][n, g, t].item()
                total += max(-advantage * ratio, -advantage * min(max(ratio, 0.8), 1.2))
    expected = total / rollout["tokens_per_minibatch"].item() / 2
    assert measured.item() == pytest.approx(expected, abs=1e-4)


def test_too_few_rows_for_one_rollout_are_an_error(tiny_llama, tmp_path):
    with pytest.raises(ConfigError, match="a rollout takes 40 prompts, but there are 32 rows"):
        make(tiny_llama, tmp_path, per_device_train_batch_size=80, steps_per_generation=2)


def test_what_would_train_on_foreign_tokens_is_refused(tiny_llama, tmp_path):
    with pytest.raises(ConfigError, match="tools is not supported by PPO"):
        PPOTrainer(tiny_llama, nothing, PPOConfig(use_cpu=True, bf16=False), ROWS, tools=[print])


def test_a_model_that_looks_past_the_mask_scores_each_completion_by_itself(tiny_llama, tmp_path, monkeypatch):
    trainer = make(tiny_llama, tmp_path)
    monkeypatch.setattr(
        "rlgen.scoring.PackedRows.attention_mask", lambda self, *_: (self.segment_ids >= 0).long()
    )  # siblings see each other
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.mul_(5)  # so that what is seen matters
    trainer.model.train()
    rollout = trainer._generate_and_score_completions([row for row in ROWS for _ in range(4)][:16])
    assert trainer._shares_prompts is False
    assert rollout["completion_ids"].shape[:2] == (16, 1)


def test_a_critic_layer_that_does_not_exist_is_an_error(tiny_llama, tmp_path):
    with pytest.raises(ConfigError, match="critic_layer is 9, but the model has 4"):
        make(tiny_llama, tmp_path, critic_layer=9)


@pytest.mark.parametrize(("lora", "rate"), [(True, 5e-4), (False, 1e-5)], ids=["lora", "full"])
def test_the_default_learning_rate_is_that_of_what_trains(tiny_llama, tmp_path, lora, rate):
    trainer = make(tiny_llama, tmp_path, lora=lora, learning_rate=None, max_steps=1)
    trainer.train()
    assert trainer.args.learning_rate == rate
    assert metric(trainer, "learning_rate") == [rate]
    assert make(tiny_llama, tmp_path, lora=lora, learning_rate=3e-4).args.learning_rate == 3e-4
