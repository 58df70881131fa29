import json
from dataclasses import replace

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from rlgen.errors import ConfigError
from rlgen.evaluation.checkpoints import open_checkpoints
from rlgen.evaluation.tokens import (
    Shaping,
    advantages,
    render_tokens,
    shaping_of,
    token_texts,
    token_view,
    write_tokens,
)
from rlgen.generation import completion_logprobs
from rlgen.models import load_policy, load_tokenizer
from rlgen.ppo.critic.base import CriticOptions
from rlgen.ppo.critic.features import HeadCritic
from rlgen.tiny import tiny_model

ROWS = Dataset.from_list([{"prompt": "def add(a, b):"}, {"prompt": "import os"}])


@pytest.fixture(scope="module")
def checkpoints(tiny_llama, tmp_path_factory):
    other = tiny_model(tmp_path_factory.mktemp("models") / "other", "llama", seed=1)
    return open_checkpoints({"base": other, "sft": tiny_llama, "ppo": other})


@pytest.fixture(scope="module")
def critic(tiny_llama, tmp_path_factory):
    import torch

    folder = tmp_path_factory.mktemp("run") / "critic"
    made = HeadCritic(load_policy(tiny_llama).config.hidden_size, CriticOptions())
    torch.nn.init.normal_(made.head.weight)
    made.save(folder)
    return folder


def two_rewards(prompts, texts, columns):
    """A reward for the first answer and none for the second; sees what shipped rewards read."""
    assert [len(ids) > 0 for ids in columns["completion_ids"]] == [True, True]
    assert set(map(type, columns["finished"])) == {bool}
    return [1.0, None]


@pytest.fixture(scope="module")
def view(checkpoints, critic):
    return token_view(
        checkpoints,
        ROWS,
        author="ppo",
        reference="sft",
        max_new_tokens=6,
        critic=critic,
        reward_of=two_rewards,
    )


def test_the_numbers_are_those_of_the_models(view, checkpoints):
    path = {checkpoint.name: checkpoint.path for checkpoint in checkpoints}
    tokenizer = load_tokenizer(path["ppo"])
    for row in view["rows"]:
        ids = [token["id"] for token in row["tokens"]]
        assert 0 < len(ids) <= 6
        assert "".join(token["text"] for token in row["tokens"]).startswith(row["text"])
        for name in ("sft", "ppo"):
            ((expected,),) = completion_logprobs(load_policy(path[name]), tokenizer, [row["prompt"]], [[ids]])
            found = [token["logprobs"][name] for token in row["tokens"]]
            np.testing.assert_allclose(found, expected, atol=2e-3)
        for token in row["tokens"]:
            assert token["kl"] == pytest.approx(token["logprobs"]["ppo"] - token["logprobs"]["sft"], abs=2e-6)
            assert token["logprobs"]["base"] == pytest.approx(token["logprobs"]["ppo"])  # the same weights
        assert row["kl"] == pytest.approx(sum(token["kl"] for token in row["tokens"]), abs=1e-4)


def test_values_come_from_the_critic_and_advantages_need_a_reward(view):
    rewarded, unrewarded = view["rows"]
    assert len({token["value"] for row in view["rows"] for token in row["tokens"]}) > 2
    assert all(token["advantage"] is None for token in unrewarded["tokens"])
    tokens = rewarded["tokens"]
    # By hand, from the last token backwards (Schulman et al. 2016, equation 16).
    running, following = 0.0, 0.0
    for i, token in reversed(list(enumerate(tokens))):
        reward = -view["kl_coef"] * token["kl"] + (1.0 if i == len(tokens) - 1 else 0.0)
        assert token["reward"] == pytest.approx(reward, abs=1e-5)
        running = reward + view["gamma"] * following - token["value"] + view["gamma"] * view["lam"] * running
        following = token["value"]
        assert token["advantage"] == pytest.approx(running, abs=1e-4)


@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=1, max_size=8), st.floats(-3, 3))
def test_with_lambda_and_gamma_1_an_advantage_is_what_is_still_to_come_minus_the_value(tokens, reward):
    kl, values = [pair[0] for pair in tokens], [pair[1] for pair in tokens]
    given_rewards, found = advantages(kl, values, reward, Shaping(kl_coef=0.1, gamma=1.0, lam=1.0))
    for t, value in enumerate(values):
        assert found[t] == pytest.approx(sum(given_rewards[t:]) - value, abs=1e-6)


@pytest.fixture(scope="module")
def tokenizer(tiny_llama):
    return load_tokenizer(tiny_llama)


@settings(max_examples=30, deadline=None)
@given(st.text(max_size=30))
def test_texts_of_tokens_add_up_to_the_text(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    whole = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False) if ids else ""
    assert "".join(token_texts(tokenizer, ids)) == whole


def test_files_hold_the_view_and_escape_it(view, tmp_path):
    attacked = json.loads(json.dumps(view))
    attacked["rows"][0]["tokens"][0]["text"] = "<script>alert(1)</script>"
    attacked["rows"][0]["prompt"] = "<img src=x>"
    page = write_tokens(tmp_path, attacked).read_text(encoding="utf-8")
    assert json.loads((tmp_path / "tokens.json").read_text(encoding="utf-8")) == attacked
    assert "<script>alert" not in page
    assert "<img" not in page
    assert "--advantage:" in page
    assert "https://" not in page


def test_without_critic_or_rewards_only_probabilities_are_shown(checkpoints):
    view = token_view(checkpoints[:2], ROWS.select([0]), author="base", reference="sft", max_new_tokens=3)
    assert {token[key] for token in view["rows"][0]["tokens"] for key in ("value", "reward", "advantage")} == {None}
    page = render_tokens(view)
    assert 'value="kl"' in page
    assert "--value" not in page


def test_settings_come_from_the_ppo_run(checkpoints, tmp_path):
    assert shaping_of(checkpoints[0]) == Shaping()
    (tmp_path / "run.json").write_text(json.dumps({"stage": "ppo", "config": {"kl_coef": 0.2, "lam": 0.5}}))
    assert shaping_of(replace(checkpoints[0], runs=(str(tmp_path),))) == Shaping(kl_coef=0.2, lam=0.5)


def test_models_of_other_vocabularies_and_unknown_names_are_refused(checkpoints, tmp_path):
    smaller = tiny_model(tmp_path / "small", "llama", vocabulary=600)
    with pytest.raises(ConfigError, match="different vocabularies"):
        token_view(
            [*checkpoints[:1], *open_checkpoints({"small": smaller})],
            ROWS,
            author="base",
            reference="small",
            max_new_tokens=2,
        )
    with pytest.raises(ConfigError, match="--author nobody"):
        token_view(checkpoints, ROWS, author="nobody", reference="sft", max_new_tokens=2)
