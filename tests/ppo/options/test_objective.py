"""What the policy is trained toward: the KL weight, the scores, rewards of single tokens, entropy, truncation."""

import math

import pytest
import torch

from rlgen.errors import ConfigError, RewardError
from rlgen.ppo import PPOConfig
from rlgen.ppo.kl_control import adapted_kl_coef


def nothing(prompts, completions, completion_ids, **_):
    return [0.0] * len(completions)


def rollout_of(trainer, rows, completions=4):
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    return trainer._generate_and_score_completions([row for row in rows for _ in range(completions)][:16])


def test_the_kl_weight_follows_its_formula_from_rollout_to_rollout(make_trainer, tools):
    settings = {"kl_estimator": "k3", "max_steps": 8, "critic_warmup_rollouts": 2}
    trainer = make_trainer(kl_target=0.01, kl_horizon=32, **settings)
    trainer.train()
    weights, divergences = tools.logged(trainer, "objective/kl_coef"), tools.logged(trainer, "objective/kl")
    assert weights[0] == pytest.approx(0.05)  # the rollouts of the warm-up, which cannot diverge, did not lower it
    assert len(weights) == len(divergences) == 4
    for i in range(3):
        expected = adapted_kl_coef(weights[i], divergences[i], target=0.01, episodes=16, horizon=32)
        assert weights[i + 1] == pytest.approx(expected, rel=1e-6)
    assert weights[1] == pytest.approx(0.05 * 0.9)
    assert weights[-1] > weights[1]  # the policy has moved beyond so small a target
    assert trainer.kl_control.kl_coef > weights[-1]


def test_the_kl_weight_is_fixed_by_default_and_logged(make_trainer, tools):
    trainer = make_trainer(max_steps=4)
    trainer.train()
    assert tools.logged(trainer, "objective/kl_coef") == pytest.approx([0.05, 0.05])


def test_normalised_scores_reach_the_advantages(make_trainer, rows):
    def far_off(prompts, completions, completion_ids, **_):
        return [1000.0 + 50 * ids[0] % 7 for ids in completion_ids]

    settings = {"reward": far_off, "kl_coef": 0.0, "lam": 1.0, "whiten_advantages": False}
    torch.manual_seed(1)
    plain = make_trainer("a", **settings)
    before = rollout_of(plain, rows)["advantages"]
    torch.manual_seed(1)
    normal = make_trainer("b", normalize_rewards=True, **settings)
    after = rollout_of(normal, rows)["advantages"]
    # gamma = lambda = 1, no KL: the advantage is score - mean score at every token.
    deviation = normal.shaping.moments.deviation
    torch.testing.assert_close(after, before / deviation, atol=1e-4, rtol=1e-3)
    assert normal._metrics["train"]["objective/score_mean"] == pytest.approx([normal.shaping.moments.mean])


def test_whitened_advantages_have_mean_0_and_deviation_1(make_trainer, rows):
    for whiten, close in ((True, True), (False, False)):
        trainer = make_trainer(str(whiten), whiten_advantages=whiten)
        rollout = rollout_of(trainer, rows)
        advantages = rollout["advantages"][rollout["completion_mask"]]
        assert (abs(float(advantages.std(correction=0)) - 1) < 1e-3) is close
        assert not close or abs(float(advantages.mean())) < 1e-5


def test_truncated_completions_stay_out_of_the_update(make_trainer, rows):
    trainer = make_trainer(mask_truncated_completions=True, max_completion_length=2)
    trainer.eos_token_ids = list(range(0, 1024, 2))  # about every second token ends a completion
    output = rollout_of(trainer, rows)
    ids, mask = output["completion_ids"].flatten(0, 1), output["completion_mask"].flatten(0, 1)
    kept = mask.any(1)
    assert 0 < int(kept.sum()) < len(kept)
    for row, tokens in zip(ids.tolist(), mask.tolist(), strict=True):
        taken = [token for token, keep in zip(row, tokens, strict=True) if keep]
        assert not taken or taken[-1] % 2 == 0
    assert (ids[~kept] % 2 == 1).all()  # their tokens are known all the same
    assert not output["advantages"].flatten(0, 1)[~kept].any()
    share = trainer._metrics["train"]["objective/unscored"]
    assert share == pytest.approx([1 - float(kept.float().mean())])
    assert len(trainer._metrics["train"]["reward"]) == 1  # TRL's own statistics still see all of them


def above_the_mean(prompts, completions, completion_ids, **_):
    """Which tokens are even, less the completion's mean: always 0 in sum, so that no score could say it."""
    rewards = []
    for ids in completion_ids:
        even = [float(token % 2 == 0) for token in ids]
        rewards.append([value - sum(even) / len(even) for value in even])
    assert all(abs(math.fsum(row)) < 1e-9 for row in rewards)
    return rewards


@pytest.mark.slow
def test_a_reward_of_tokens_teaches_what_no_score_can(make_trainer, tools, rows):
    settings = {"lora": False, "kl_coef": 0.0, "gamma": 0.0, "lam": 0.0, "learning_rate": 3e-3, "max_steps": 60}
    settings.update(per_device_train_batch_size=16, num_ppo_epochs=2, reward=[])
    trainer = make_trainer(token_rewards=[above_the_mean], **settings)
    shares = []
    calculate = trainer._calculate_rewards

    def watch(inputs, prompts, completions, completion_ids):
        shares.append(sum(tools.even_tokens(prompts, completions, completion_ids)) / len(prompts))
        return calculate(inputs, prompts, completions, completion_ids)

    trainer._calculate_rewards = watch
    trainer.train()
    assert sum(shares[:2]) / 2 < 0.65
    assert sum(shares[-3:]) / 3 > 0.85
    assert tools.logged(trainer, "token_rewards/above_the_mean/mean") == pytest.approx([0.0] * len(shares), abs=1e-6)


def test_token_rewards_enter_at_their_tokens(make_trainer, rows):
    def second_token(prompts, completions, completion_ids, **columns):
        assert len(columns["number"]) == len(prompts)
        columns["log_metric"]("seen", 1.0)
        return [[float(t == 1) for t in range(len(ids))] for ids in completion_ids]

    numbered = rows.add_column("number", list(range(len(rows))))
    settings = {"kl_coef": 0.0, "gamma": 0.0, "lam": 0.0, "whiten_advantages": False}
    trainer = make_trainer(token_rewards=[second_token], token_reward_weights=[3.0], reward=nothing, **settings)
    advantages = rollout_of(trainer, numbered)["advantages"]
    # gamma = lambda = 0 and a critic that starts at the mean return: the token's own reward less that.
    assert (advantages[..., 1] - advantages[..., 0]).flatten().tolist() == pytest.approx([3.0] * 16)
    assert torch.equal(advantages[..., 0], advantages[..., 2])
    metrics = trainer._metrics["train"]
    assert metrics["token_rewards/second_token/mean"] == [1.0]
    assert metrics["objective/rlhf_reward"] == [3.0]
    assert metrics["seen"] == [1.0]


def test_a_token_reward_that_breaks_its_contract_stops_training(make_trainer, rows):
    def too_short(prompts, completions, completion_ids, **_):
        return [[0.0] for _ in completion_ids]

    with pytest.raises(RewardError, match="too_short"):
        rollout_of(make_trainer(token_rewards=[too_short]), rows)


def test_the_entropy_bonus_is_the_weighted_mean_entropy_and_its_gradient(make_trainer, rows):
    trainer = make_trainer(lora=False)
    rollout = rollout_of(trainer, rows)
    weights = [p for p in trainer.model.parameters() if p.requires_grad]

    def loss_and_gradient(coefficient):
        trainer.args.entropy_coef = coefficient
        loss = trainer._compute_loss(trainer.model, rollout)
        return float(loss.detach()), torch.autograd.grad(loss, weights)

    plain, plain_gradient = loss_and_gradient(0.0)
    bonus, bonus_gradient = loss_and_gradient(0.25)
    # The mean entropy, from plain forward passes over each completion and in float64.
    entropies = []
    for n, g in torch.cartesian_prod(*(torch.arange(size) for size in rollout["completion_mask"].shape[:2])).tolist():
        prompt = rollout["input_ids"][n][rollout["segment_ids"][n] == 0]
        completion = rollout["completion_ids"][n, g][rollout["completion_mask"][n, g]]
        logits = trainer.model(torch.cat([prompt, completion])[None]).logits[0, len(prompt) - 1 : -1]
        logprobs = logits.double().log_softmax(-1)
        entropies.append(-(logprobs.exp() * logprobs).sum(-1))
    entropy = torch.cat(entropies).sum() / rollout["tokens_per_minibatch"].double()
    assert plain - bonus == pytest.approx(0.25 * entropy.item(), rel=1e-4)
    expected = torch.autograd.grad(entropy, weights)
    for without, with_bonus, exact in zip(plain_gradient, bonus_gradient, expected, strict=True):
        torch.testing.assert_close(with_bonus - without, -0.25 * exact.float(), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(("coefficient", "rises"), [(0.3, True), (-0.3, False)])
def test_a_positive_entropy_bonus_raises_entropy(make_trainer, tools, coefficient, rises):
    settings = {"reward": nothing, "kl_coef": 0.0, "lora": False, "learning_rate": 3e-3, "max_steps": 12}
    trainer = make_trainer(entropy_coef=coefficient, **settings)
    trainer.train()
    entropies = tools.logged(trainer, "policy/entropy")
    assert (entropies[-1] > entropies[0]) is rises


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kl_target": 0.0}, "kl_target is 0.0; it must be above 0"),
        ({"kl_target": 1.0, "kl_coef": 0.0}, "kl_target scales kl_coef, which is 0"),
        ({"kl_target": 1.0, "kl_horizon": 10}, "it must be at least 64, the completions of a rollout"),
        ({"kl_horizon": 0}, "kl_horizon is 0"),
        ({"reward_clip": 0.0}, "reward_clip is 0.0"),
        ({"target_kl": -1.0}, "target_kl is -1.0"),
        ({"target_kl": 0.1, "fp16": True}, "target_kl takes gradients back"),
        ({"mask_truncated_completions": True, "missing_eos_penalty": 1.0}, "give one"),
        ({"ptx_coef": -1.0}, "ptx_coef is -1.0"),
        ({"ptx_batch_size": 0}, "ptx_batch_size is 0"),
        ({"ptx_max_length": 1}, "ptx_max_length is 1"),
    ],
)
def test_options_that_cannot_work_are_one_clear_error(settings, message):
    with pytest.raises(ConfigError, match=message):
        PPOConfig(use_cpu=True, **{"bf16": False, **settings})
