"""Values of single states: what they may depend on, and critics outside training."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import BertModel, RobertaConfig, RobertaModel

from rlgen.errors import ConfigError, ModelError
from rlgen.models import load_policy, load_tokenizer
from rlgen.ppo.critic import LoadedCritic, completion_values, load_critic, values_html
from rlgen.ppo.critic.base import CriticOptions
from rlgen.ppo.critic.model import ModelCritic, prefix_mask
from rlgen.ppo.critic.tokens import TokenStates
from rlgen.scoring import pack_rows
from rlgen.tiny import tiny_model

PROMPTS = [[5, 6, 7, 8], [9, 10], [11, 12, 13]]
COMPLETIONS = [[20, 21, 22], [23, 24, 25, 26, 27], [28]]


@pytest.fixture
def critic(make_trainer, critic_settings, kind) -> LoadedCritic:
    """A critic whose head tells states apart, on a policy that is not the reference any more."""
    trainer = make_trainer(kind, **critic_settings[kind])
    with torch.no_grad():
        torch.nn.init.normal_(trainer.critic.head.weight)
        for name, parameter in [*trainer.model.named_parameters(), *trainer.critic.named_parameters()]:
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    return LoadedCritic(trainer.critic, trainer.model)


def values(critic: LoadedCritic, prompts, completions) -> torch.Tensor:
    return critic(pack_rows(prompts, completions, 0))


def alone(critic: LoadedCritic, prompt, completion) -> torch.Tensor:
    return values(critic, [prompt], [[completion]])


def test_padding_changes_no_value(critic):
    together = values(critic, PROMPTS, [[c] for c in COMPLETIONS])
    apart = torch.cat([alone(critic, p, c) for p, c in zip(PROMPTS, COMPLETIONS, strict=True)])
    torch.testing.assert_close(together, apart, atol=1e-4, rtol=1e-4)
    packed = pack_rows(PROMPTS, [[c] for c in COMPLETIONS], 0)
    packed.input_ids[packed.segment_ids < 0] = 99
    torch.testing.assert_close(critic(packed), together, atol=1e-5, rtol=1e-5)


def test_siblings_change_no_value(critic):
    shared = values(critic, PROMPTS[:1], [COMPLETIONS])
    apart = torch.cat([alone(critic, PROMPTS[0], c) for c in COMPLETIONS])
    torch.testing.assert_close(shared, apart, atol=1e-4, rtol=1e-4)


def test_later_tokens_change_no_value_and_earlier_ones_do(critic):
    before = alone(critic, PROMPTS[0], [20, 21, 22, 23])
    for place in range(4):
        tokens = [20, 21, 22, 23]
        tokens[place] = 40
        after = alone(critic, PROMPTS[0], tokens)
        torch.testing.assert_close(after[: place + 1], before[: place + 1], atol=1e-5, rtol=1e-5)
        if place < 3:
            assert not torch.allclose(after[place + 1], before[place + 1], atol=1e-3)
    assert not torch.allclose(alone(critic, [50, 6, 7, 8], [20, 21, 22, 23]), before, atol=1e-3)


def test_a_saved_critic_gives_the_same_values(critic, kind, tmp_path, tiny_llama):
    critic.critic.save(tmp_path / "critic", for_resuming=False)
    critic.model.save_pretrained(tmp_path / "policy")
    expected = [alone(critic, p, c).tolist() for p, c in zip(PROMPTS, COMPLETIONS, strict=True)]
    policy = PeftModel.from_pretrained(load_policy(tiny_llama, dtype="float32"), tmp_path / "policy")
    base = load_policy(tiny_llama, dtype="float32")
    standing_on = {"frozen": [policy, base], "head": [policy], "adapter": [policy, base]}
    ids = torch.tensor([PROMPTS[0]])
    with torch.no_grad():
        logits = policy(ids).logits
    for model in standing_on.get(kind, [None]):
        loaded = load_critic(tmp_path / "critic", model)
        found = [alone(loaded, p, c).tolist() for p, c in zip(PROMPTS, COMPLETIONS, strict=True)]
        for one, other in zip(found, expected, strict=True):
            assert one == pytest.approx(other, rel=1e-4, abs=1e-4)
    with torch.no_grad():
        assert torch.equal(policy(ids).logits, logits)  # the policy is as it was
    named = load_critic(tmp_path / "critic", tiny_llama)  # a name is loaded in this machine's number format
    assert len(alone(named, PROMPTS[0], COMPLETIONS[0])) == 3


def test_values_of_text_and_of_tokens(critic, tiny_llama):
    tokenizer = load_tokenizer(tiny_llama)
    text = "def f(x): return x"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    prompts = ["Say it", [{"role": "user", "content": "Say it twice, please"}], "Say more"]
    of_text = completion_values(critic, tokenizer, prompts, [text] * 3, batch_size=2)
    assert [len(row) for row in of_text] == [len(ids)] * 3
    of_tokens = completion_values(critic, tokenizer, prompts, [ids] * 3)
    for one, other in zip(of_text, of_tokens, strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-4)


def test_a_critic_that_does_not_fit_is_one_clear_line(make_trainer, tmp_path):
    trainer = make_trainer()
    trainer.critic.save(tmp_path / "critic")
    small = load_policy(tiny_model(tmp_path / "small", hidden=32, layers=2), dtype="float32")
    with pytest.raises(ConfigError, match=r"size 64 at layer 3, but the model has size 32 and 2 layers"):
        load_critic(tmp_path / "critic", small)
    with pytest.raises(ConfigError, match="give the model that it stands on"):
        load_critic(tmp_path / "critic")
    with pytest.raises(ModelError, match="holds no critic"):
        load_critic(tmp_path)
    (tmp_path / "critic" / "critic.safetensors").write_bytes(b"cut short")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_critic(tmp_path / "critic", trainer.model)
    (tmp_path / "critic" / "config.json").write_text('{"kind": "oracle", "hidden_size": 64}')
    with pytest.raises(ModelError, match="unknown kind 'oracle'"):
        load_critic(tmp_path / "critic", trainer.model)


def test_the_page_stands_alone_and_escapes_tokens():
    page = values_html(["<b>", " & ", "end"], [0.0, 0.5, 1.25], title="a < b")
    assert "&lt;b&gt;" in page
    assert "a &lt; b" in page
    assert 'title="1.250"' in page
    assert "http" not in page
    with pytest.raises(ValueError, match="zip"):
        values_html(["a"], [])


def test_the_snippet_of_the_documentation_runs(make_trainer, tmp_path, tiny_llama, monkeypatch):
    text = (Path(__file__).parents[2] / "docs" / "critics.md").read_text(encoding="utf-8")
    snippet = text.partition("```python\n")[2].partition("```")[0]
    trainer = make_trainer("runs/ppo")
    trainer.save_model()
    load_tokenizer(tiny_llama).save_pretrained(tmp_path / "runs" / "ppo")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(snippet, names)
    assert len(names["values"]) == len(names["tokens"]) > 5
    assert "two numbers" in "".join(names["tokens"])
    assert (tmp_path / "values.html").read_text(encoding="utf-8").count("<span") == len(names["values"])


# Encoders


def test_the_prefix_mask_equals_a_loop_over_pairs_of_tokens():
    packed = pack_rows([[1, 2, 3], [4]], [[[5, 6], [7]], [[8, 9, 10], [11, 12]]], 0)
    allowed = prefix_mask(packed, "sdpa", torch.float32)[:, 0]
    for row, segments in enumerate(packed.segment_ids.tolist()):
        for reader, own in enumerate(segments):
            for read, other in enumerate(segments):
                in_prompt = other == 0 and own >= 0
                earlier = other == own and read <= reader
                assert bool(allowed[row, reader, read]) == (in_prompt or earlier)
    bias = prefix_mask(packed, "eager", torch.float32)[:, 0]
    assert torch.equal(bias == 0, allowed)
    assert bool((bias[~allowed] == torch.finfo(torch.float32).min).all())


def test_an_encoder_reads_a_prompt_in_both_directions_and_is_plain_bert_there(tiny_bert):
    critic = ModelCritic(BertModel.from_pretrained(tiny_bert), CriticOptions())
    assert critic.prefix_mask
    assert critic.shares_prompts
    packed = pack_rows([PROMPTS[0]], [COMPLETIONS], 0)
    bert = BertModel.from_pretrained(tiny_bert, add_pooling_layer=False).eval()
    with torch.no_grad():
        hidden = critic.hidden(TokenStates(packed))[0, :4]
        torch.testing.assert_close(hidden, bert(torch.tensor([PROMPTS[0]])).last_hidden_state[0], atol=1e-5, rtol=1e-4)


def test_positions_of_roberta_begin_after_its_padding():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    roberta = RobertaModel(RobertaConfig(vocab_size=60, max_position_embeddings=40, pad_token_id=1, **sizes)).eval()
    critic = ModelCritic(roberta, CriticOptions())
    with torch.no_grad():
        hidden = critic.hidden(TokenStates(pack_rows([PROMPTS[0]], [[[]]], 0)))
        torch.testing.assert_close(hidden, roberta(torch.tensor([PROMPTS[0]])).last_hidden_state)


def test_a_model_that_sees_later_tokens_whatever_the_mask_is_refused(tiny_bert):
    class Blind(BertModel):
        def forward(self, input_ids=None, attention_mask=None, position_ids=None):
            return super().forward(input_ids=input_ids, position_ids=position_ids)

    with pytest.raises(ConfigError, match="sees later tokens whatever mask"):
        ModelCritic(Blind.from_pretrained(tiny_bert), CriticOptions())
