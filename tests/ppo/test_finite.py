"""Numbers that are none stop training, and what they would have touched stays as it was."""

import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from rlgen.errors import TrainingError
from rlgen.ppo.finite import last_good_checkpoint, require_finite

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("values", [[], [0.0, -1e38]])
def test_finite_numbers_pass(values, tmp_path):
    require_finite("values", torch.tensor(values), step=3, output_dir=tmp_path)


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_the_message_names_step_tensor_and_that_there_is_no_checkpoint(bad, tmp_path):
    with pytest.raises(TrainingError) as raised:
        require_finite("advantages", torch.tensor([[0.0, bad], [bad, 1.0]]), step=3, output_dir=tmp_path / "none")
    text = str(raised.value)
    assert "\n" not in text
    assert all(part in text for part in ("advantages at step 3", "2 of 4", "no good checkpoint", "learning_rate"))


def trained(trainer) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}


def first_trained(trainer) -> torch.nn.Parameter:
    return next(p for p in trainer.model.parameters() if p.requires_grad)


def infinite(completions, **_):
    return [INF] * len(completions)


def poison_gradient(trainer, monkeypatch):
    first_trained(trainer).register_hook(lambda gradient: gradient * NAN)


def poison_reference(trainer, monkeypatch):
    trainer.reference.get_input_embeddings().weight.data.fill_(NAN)


def poison_values(trainer, monkeypatch):
    real = trainer.critic.values
    monkeypatch.setattr(trainer.critic, "values", lambda *args: real(*args) * NAN)


def poison_loss(trainer, monkeypatch):
    def loss(logprobs, old, advantages, cliprange):
        return logprobs * INF, torch.ones_like(logprobs), torch.zeros_like(logprobs, dtype=torch.bool)

    monkeypatch.setattr("rlgen.ppo.trainer.policy_loss", loss)


def poison_advantages(trainer, monkeypatch):
    monkeypatch.setattr("rlgen.ppo.trainer.whiten", lambda values, *_, **__: values * NAN)


def poison_critic_loss(trainer, monkeypatch):
    monkeypatch.setattr(trainer.critic, "fit", lambda *_, **__: (NAN, 0.0))


def poison_reward(trainer, monkeypatch):
    trainer.reward_funcs[0] = infinite


@pytest.mark.parametrize(
    ("poison", "name"),
    [
        (poison_reference, "log-probabilities of the reference"),
        (poison_reward, "rewards"),
        (poison_values, "values"),
        (poison_advantages, "advantages"),
        (poison_critic_loss, "critic's loss"),
        (poison_loss, "loss"),
        (poison_gradient, "gradient norm"),
    ],
    ids=lambda value: value.replace(" ", "_") if isinstance(value, str) else "",
)
def test_the_policy_does_not_learn_from_them(make_trainer, monkeypatch, poison, name):
    trainer = make_trainer(max_steps=2, lora=False)
    poison(trainer, monkeypatch)
    before = trained(trainer)
    with pytest.raises(TrainingError, match=re.escape(f"{name} at step 0: ")):
        trainer.train()
    assert all(torch.equal(before[name], value) for name, value in trained(trainer).items())


class PoisonWeights(TrainerCallback):
    """An update that leaves NaN in the weights, after so many good ones."""

    def __init__(self, trainer, step: int) -> None:
        self.trainer, self.step = trainer, step

    def on_optimizer_step(self, args, state, control, **kwargs) -> None:
        if state.global_step == self.step:
            first_trained(self.trainer).data.fill_(NAN)


@pytest.mark.parametrize("lora", [True, False], ids=["lora", "full"])
def test_poisoned_weights_are_found_at_the_next_rollout(make_trainer, tmp_path, lora):
    trainer = make_trainer(lora=lora, max_steps=6, save_strategy="steps", save_steps=2)
    trainer.add_callback(PoisonWeights(trainer, step=3))
    with pytest.raises(TrainingError) as raised:
        trainer.train()
    assert str(raised.value).startswith("log-probabilities at step 4: ")
    assert (tmp_path / "run" / "checkpoint-4").is_dir()  # written with the poison in it
    assert str(raised.value).endswith(f"the last good checkpoint is {tmp_path / 'run' / 'checkpoint-2'}")


def test_a_checkpoint_is_good_if_it_is_complete_finite_and_not_of_later(make_trainer, tmp_path):
    trainer = make_trainer(max_steps=6, save_strategy="steps", save_steps=2)
    trainer.train()
    run = tmp_path / "run"
    assert last_good_checkpoint(run, 6) == run / "checkpoint-6"
    assert last_good_checkpoint(run, 5) == run / "checkpoint-4"
    (run / "checkpoint-6" / "trainer_state.json").unlink()
    assert last_good_checkpoint(run, 6) == run / "checkpoint-4"
    critic = run / "checkpoint-4" / "critic" / "critic.safetensors"
    save_file({name: value * NAN for name, value in load_file(critic).items()}, critic)
    assert last_good_checkpoint(run, 6) == run / "checkpoint-2"
    assert last_good_checkpoint(run, 1) is None
