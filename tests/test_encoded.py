"""Sampling from encoder-decoders and scoring them, against transformers' own generation and one text at a time."""

import pytest
import torch

from rlgen.decoding import sample
from rlgen.dropout import set_dropout
from rlgen.errors import ConfigError, ModelError
from rlgen.families import is_encoder_decoder, start_token
from rlgen.generation import completion_logprobs, generate
from rlgen.hidden import record_final, record_hidden, run_decoder
from rlgen.models import load_policy, load_tokenizer
from rlgen.ppo.critic.features import states_of
from rlgen.scoring import pack_rows, token_logprobs
from rlgen.tuning import decoder_layers

PROMPTS = [[40, 41, 42, 43, 44], [50], [60, 61, 62]]
COMPLETIONS = [[[9, 8, 7], [6]], [[5, 4], [3, 9, 9, 9]], [[11], [12, 13]]]


@pytest.fixture(params=["t5", "bart", "bert2bert"])
def folder(request: pytest.FixtureRequest, tiny_family) -> str:
    return tiny_family(request.param)


@pytest.fixture
def model(folder):
    return load_policy(folder, dtype="float32").eval()


def alone(model, prompt: list[int], completion: list[int], temperature: float = 1.0):
    """Log-probabilities (T,) and final hidden states (T, H) of one text, written down from the definition."""
    start = [model.config.decoder_start_token_id, *completion[:-1]]
    output = model(
        input_ids=torch.tensor([prompt]),
        decoder_input_ids=torch.tensor([start]),
        output_hidden_states=True,
        use_cache=False,
    )
    logprobs = (output.logits[0].double() / temperature).log_softmax(-1)
    return torch.stack([logprobs[t, token] for t, token in enumerate(completion)]), output.decoder_hidden_states


@torch.no_grad()
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_tokens_score_as_each_text_does_alone(model, temperature):
    packed = pack_rows(PROMPTS, COMPLETIONS, 0)
    logprobs, entropy = token_logprobs(model, packed, temperature=temperature, with_entropy=True)
    assert entropy is not None
    for i, prompt in enumerate(PROMPTS):
        for g, completion in enumerate(COMPLETIONS[i]):
            expected, _ = alone(model, prompt, completion, temperature)
            found = logprobs[i, g]
            assert torch.allclose(found[: len(completion)].double(), expected, atol=1e-5)
            assert not found[len(completion) :].any()
            assert (entropy[i, g, : len(completion)] > 0).all()


@torch.no_grad()
def test_hidden_states_lie_where_a_decoder_would_have_them(model):
    packed, depth = pack_rows(PROMPTS, COMPLETIONS, 0), 2
    with record_hidden(model, [depth], packed) as hidden, record_final(model, packed=packed) as final:
        token_logprobs(model, packed)
    assert final[0].shape[:2] == hidden[depth].shape[:2] == packed.input_ids.shape
    assert torch.allclose(run_decoder(model, packed), final[0], atol=1e-5)
    below, last = states_of(hidden[depth], packed), states_of(final[0], packed)
    expected = [alone(model, p, c)[1] for p, cs in zip(PROMPTS, COMPLETIONS, strict=True) for c in cs]
    assert torch.allclose(below, torch.cat([states[depth][0] for states in expected]), atol=1e-4)
    assert torch.allclose(last, torch.cat([states[-1][0] for states in expected]), atol=1e-4)
    assert len(decoder_layers(model)) == 4


def test_gradients_of_the_final_states_reach_decoder_and_encoder(model):
    run_decoder(model, pack_rows(PROMPTS, COMPLETIONS, 0)).square().sum().backward()
    for part in (model.get_encoder(), model.get_decoder()):
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters())


def test_greedy_completions_are_those_of_transformers(model):
    never = 12345  # no token ends a completion, for either
    ours = sample(
        model, PROMPTS, num_generations=2, max_new_tokens=6, eos_token_ids=[never], pad_token_id=0, temperature=0
    )
    assert ours.tokens[::2] == ours.tokens[1::2]
    for prompt, completion in zip(PROMPTS, ours.tokens[::2], strict=True):
        theirs = model.generate(
            torch.tensor([prompt]), do_sample=False, max_new_tokens=6, eos_token_id=never, pad_token_id=0
        )
        assert theirs[0, 1:].tolist() == completion


def test_sampled_tokens_have_the_probability_that_scoring_gives_them(model, folder):
    tokenizer = load_tokenizer(folder)
    prompts, heat = ["Say one please.", "Tell me", "x"], [0, 1.0, 1.4]
    answers = generate(model, tokenizer, prompts, max_new_tokens=8, num_generations=3, temperature=heat, batch_size=2)
    scored = completion_logprobs(
        model, tokenizer, prompts, [[c.token_ids for c in row] for row in answers], temperature=[1.0, 1.0, 1.4]
    )
    for row, rescored in zip(answers, scored, strict=True):
        for completion, logprobs in zip(row, rescored, strict=True):
            assert completion.logprobs == pytest.approx(logprobs, abs=1e-4)


def test_a_completion_ends_with_its_eos_and_costs_its_neighbours_nothing(model):
    generator = torch.Generator().manual_seed(0)
    settings = {"num_generations": 4, "max_new_tokens": 12, "pad_token_id": 0}
    ends = list(range(0, 1024, 6))
    sampled = sample(model, PROMPTS, eos_token_ids=ends, generator=generator, **settings)
    lengths = {len(tokens) for tokens in sampled.tokens}
    assert len(lengths) > 1  # or the test shows nothing
    for index, tokens in enumerate(sampled.tokens):
        assert not set(tokens[:-1]) & set(ends)
        expected, _ = alone(model, PROMPTS[index // 4], tokens)
        assert torch.allclose(torch.tensor(sampled.logprobs[index]).double(), expected, atol=1e-4)


def test_dropout_can_be_switched_off_in_training_mode_too(folder):
    model = load_policy(folder, dtype="float32", **({"dropout": 0.5} if "bart" in folder else {})).train()
    packed = pack_rows(PROMPTS, COMPLETIONS, 0)

    def moves() -> bool:
        return not torch.equal(token_logprobs(model, packed)[0], token_logprobs(model, packed)[0])

    with torch.no_grad():
        assert moves()
        set_dropout(model, 0.0)
        assert not moves()


def test_a_model_without_a_start_token_says_so(model):
    assert is_encoder_decoder(model)
    model.config.decoder_start_token_id = model.generation_config.decoder_start_token_id = None
    with pytest.raises(ConfigError, match="no decoder_start_token_id"):
        start_token(model)


def test_messages_are_encoded_without_a_chat_template_of_their_own(folder):
    tokenizer = load_tokenizer(folder)
    messages = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Say one."}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == f"Be short.\nSay one.{tokenizer.eos_token}"


def test_an_encoder_is_no_policy(tiny_family):
    with pytest.raises(ModelError, match="is an encoder, which writes no text"):
        load_policy(tiny_family("bert"))
