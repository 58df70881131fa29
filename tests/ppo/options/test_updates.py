"""How the update is computed: early stop, gradient checkpointing, accumulation, number formats, going on."""

import math

import pytest
import torch

from rlgen.errors import TrainingError
from rlgen.ppo.rollout import Rollout

STOPPING = {"target_kl": 1e-6, "num_ppo_epochs": 2, "weight_decay": 0.1}  # every second update goes too far


def test_a_stopped_update_changes_nothing_and_counts(make_trainer, tools):
    trainer = make_trainer(max_steps=8, **STOPPING)
    snapshots = tools.Snapshots()
    trainer.add_callback(snapshots)
    trainer.train()
    assert trainer.state.global_step == 8
    assert tools.logged(trainer, "policy/stopped_updates") == [0, 1, 1, 1, 0, 1, 1, 1]
    assert tools.logged(trainer, "policy/approx_kl")[0] < 1.5e-6 < tools.logged(trainer, "policy/approx_kl")[1]
    assert tools.logged(trainer, "grad_norm")[1:4] == [0.0] * 3
    for rollout in (snapshots.weights[:4], snapshots.weights[4:]):  # neither momentum nor weight decay moved anything
        assert all(tools.same(rollout[0], later) for later in rollout[1:])
    assert not tools.same(snapshots.weights[3], snapshots.weights[4])
    assert {int(state["step"]) for state in trainer.optimizer.state.values()} == {2}


def test_a_high_target_stops_nothing(make_trainer, tools):
    watched = make_trainer("a", num_ppo_epochs=2, target_kl=1e3)
    watched.train()
    plain = make_trainer("b", num_ppo_epochs=2)
    plain.train()
    assert tools.logged(watched, "policy/stopped_updates") == [0.0] * 4
    assert tools.logged(plain, "policy/stopped_updates") == []
    assert tools.same(tools.trained(watched.model), tools.trained(plain.model))


def test_an_evaluation_before_a_stopped_update_disturbs_nothing(make_trainer, tools, rows):
    settings = {**STOPPING, "max_steps": 8}
    watched = make_trainer("a", held_out=rows.select(range(4)), eval_strategy="steps", eval_steps=1, **settings)
    watched.train()
    plain = make_trainer("b", **settings)
    plain.train()
    assert tools.same(tools.trained(watched.model), tools.trained(plain.model))
    assert tools.logged(watched, "policy/stopped_updates") == tools.logged(plain, "policy/stopped_updates")
    assert not tools.logged(watched, "eval_policy/stopped_updates")


# Plain gradient descent: AdamW would forgive a constant factor in the loss.
DESCENT = {"optim": "sgd", "learning_rate": 0.1}
SPLIT = {"per_device_train_batch_size": 4, "steps_per_generation": 8, "gradient_accumulation_steps": 4}


@pytest.mark.parametrize(
    "options",
    [
        {"max_grad_norm": 0.05},
        {"max_grad_norm": 0.0, "ptx_coef": 1.0},
        {"max_grad_norm": 0.05, "ptx_coef": 1.0, "entropy_coef": 0.1, "num_ppo_epochs": 2, "target_kl": 1e-4},
    ],
    ids=["clipping", "ptx", "all"],
)
def test_accumulated_small_batches_are_one_large_batch(make_trainer, tools, texts, options):
    ptx = texts if "ptx_coef" in options else None
    large = make_trainer("a", ptx=ptx, ptx_batch_size=8, per_device_train_batch_size=16, **{**DESCENT, **options})
    start = tools.trained(large.model)
    large.train()
    small = make_trainer("b", ptx=ptx, ptx_batch_size=2, **{**DESCENT, **SPLIT, **options})
    small.train()
    assert not tools.same(start, tools.trained(large.model), atol=1e-4)
    assert tools.same(tools.trained(large.model), tools.trained(small.model), atol=1e-5, rtol=1e-4)
    assert tools.logged(large, "policy/stopped_updates") == tools.logged(small, "policy/stopped_updates")
    if options["max_grad_norm"]:
        assert max(tools.logged(large, "grad_norm")) > options["max_grad_norm"]  # something was clipped


@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "not reentrant"])
@pytest.mark.parametrize(("lora", "cached"), [(True, True), (True, False), (False, False)])
def test_gradient_checkpointing_changes_nothing(make_trainer, tools, texts, lora, cached, reentrant):
    settings = {"lora": lora, "cache_trunk": cached, "ptx": texts, "ptx_coef": 0.5, "max_steps": 3, **DESCENT}
    plain = make_trainer("a", **settings)
    start = tools.trained(plain.model)
    plain.train()
    saving = make_trainer(
        "b", gradient_checkpointing=True, gradient_checkpointing_kwargs={"use_reentrant": reentrant}, **settings
    )
    saving.train()
    assert plain.trunk_depth == saving.trunk_depth == (2 if cached else 0)
    assert not tools.same(start, tools.trained(plain.model), atol=1e-4)
    assert tools.same(tools.trained(plain.model), tools.trained(saving.model), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gradients_in_bfloat16_point_where_those_in_float32_do(make_trainer, texts, rows, dtype):
    exact = make_trainer("a", ptx=texts, ptx_coef=0.5)
    rough = make_trainer("b", ptx=texts, ptx_coef=0.5, bf16=True, dtype=dtype)
    exact.model.train()
    rollout = exact._generate_and_score_completions([row for row in rows for _ in range(4)][:16])
    gradients = []
    for trainer in (exact, rough):
        trainer.model.train()
        trainer.current_gradient_accumulation_steps = 1
        own = {**rollout, "trunk": None}  # each computes its own lower layers
        with trainer.accelerator.autocast():  # as a prepared model runs
            loss = trainer._compute_loss(trainer.model, own)
        trained = [p for p in trainer.model.parameters() if p.requires_grad]
        gradients.append(torch.cat([g.flatten().float() for g in torch.autograd.grad(loss, trained)]))
    assert float(torch.cosine_similarity(*gradients, dim=0)) > 0.98
    assert float(gradients[1].norm() / gradients[0].norm()) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(("lora", "dtype"), [(True, "bfloat16"), (True, "float32"), (False, "float32")])
def test_training_in_bfloat16_runs_with_all_options(make_trainer, tools, texts, everything, lora, dtype):
    trainer = make_trainer(lora=lora, dtype=dtype, bf16=True, ptx=texts, **everything)
    start = tools.trained(trainer.model)
    trainer.train()
    assert trainer.trunk_depth == (2 if lora else 0)
    assert not tools.same(start, tools.trained(trainer.model))
    assert all(math.isfinite(value) for value in tools.logged(trainer, "loss"))
    assert abs(tools.logged(trainer, "objective/kl")[0]) < 0.05


def no_repeats(prompts, completions, completion_ids, **_):
    return [[-float(a == b) for a, b in zip(ids, [None, *ids[:-1]], strict=True)] for ids in completion_ids]


@pytest.fixture
def everything():
    return {
        "token_rewards": [no_repeats],
        "kl_target": 0.01,
        "kl_horizon": 32,
        "normalize_rewards": True,
        "reward_clip": 1.0,
        "mask_truncated_completions": False,
        "missing_eos_penalty": 0.1,
        "entropy_coef": 0.01,
        "target_kl": 1e-4,
        "ptx_coef": 0.5,
        "ptx_batch_size": 3,
        "num_ppo_epochs": 2,
        "max_steps": 8,
    }


def test_a_resumed_run_with_all_options_equals_a_straight_one(make_trainer, tools, texts, rows, tmp_path, everything):
    settings = {**everything, "max_steps": 20, "save_strategy": "steps", "save_steps": 4, "critic_warmup_rollouts": 1}
    straight = make_trainer("a", ptx=texts, **settings)
    straight.train()
    stopped = tools.logged(straight, "policy/stopped_updates")
    assert 0 < sum(stopped) < len(stopped)
    assert max(tools.logged(straight, "objective/clipped_scores")) > 0
    watched = {"held_out": rows.select(range(4)), "eval_strategy": "steps", "eval_steps": 2}
    resumed = make_trainer("b", ptx=texts, **settings, **watched)
    resumed.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-8"))
    assert tools.same(tools.trained(straight.model), tools.trained(resumed.model))
    assert tools.same(dict(straight.critic.state_dict()), dict(resumed.critic.state_dict()))
    assert straight.kl_control.kl_coef == resumed.kl_control.kl_coef != 0.05
    assert straight.shaping.moments == resumed.shaping.moments
    assert straight.shaping.moments.count == 16 * 6  # five rollouts and the one of the warm-up
    for name in ("loss/ptx", "objective/kl_coef", "objective/score_mean", "token_rewards/no_repeats/mean"):
        assert tools.logged(straight, name)[-1] == tools.logged(resumed, name)[-1]


def test_a_checkpoint_without_the_state_that_options_go_on_from_is_refused(make_trainer, tmp_path):
    trainer = make_trainer("a", normalize_rewards=True, max_steps=2, save_strategy="steps", save_steps=2)
    trainer.train()
    (tmp_path / "a" / "checkpoint-2" / "ppo_state.json").unlink()
    checkpoint = str(tmp_path / "a" / "checkpoint-2")
    with pytest.raises(TrainingError, match=r"holds no ppo_state\.json"):
        make_trainer("b", normalize_rewards=True, max_steps=4).train(resume_from_checkpoint=checkpoint)
    make_trainer("c", max_steps=4).train(resume_from_checkpoint=checkpoint)  # the default reads nothing from it


def test_minibatches_keep_what_the_options_added(make_trainer, rows, everything, texts):
    trainer = make_trainer(ptx=texts, **everything)
    trainer.model.train()
    flat = trainer._generate_and_score_completions([row for row in rows for _ in range(4)][:16])
    assert Rollout.from_dict(flat).advantages.isfinite().all()
