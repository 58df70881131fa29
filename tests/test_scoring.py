"""Packed scoring and the decoding loop against plain transformers calls."""

import pytest
import torch

from rlgen.decoding import sample
from rlgen.generation import completion_logprobs, generate, tokenize_prompts
from rlgen.models import load_policy, load_tokenizer
from rlgen.scoring import pack_rows, token_logprobs

PROMPTS = [[5, 6, 7, 8, 9, 10], [11, 12, 13]]
COMPLETIONS = [[[20, 21, 22], [23], [24, 25, 26, 27, 28]], [[30], [31, 32], [33, 33, 33]]]


def plain_logprobs(model, prompt: list[int], completion: list[int]) -> torch.Tensor:
    logits = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1).gather(1, torch.tensor(completion)[:, None])[:, 0]


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_completions_in_one_row_score_as_if_alone(tiny, attention):
    model = load_policy(tiny, dtype="float32", attn_implementation=attention).eval()
    packed = pack_rows(PROMPTS, COMPLETIONS, pad_token_id=0)
    logprobs, entropy = token_logprobs(model, packed, with_entropy=True)
    for i, prompt in enumerate(PROMPTS):
        for g, completion in enumerate(COMPLETIONS[i]):
            expected = plain_logprobs(model, prompt, completion)
            torch.testing.assert_close(logprobs[i, g, : len(completion)], expected, atol=1e-5, rtol=1e-5)
            assert not logprobs[i, g, len(completion) :].any()
            assert (entropy[i, g, : len(completion)] > 0).all()


@torch.no_grad()
def test_a_slice_of_packed_rows_scores_the_same_without_its_padding(tiny_llama):
    model = load_policy(tiny_llama, dtype="float32").eval()
    packed = pack_rows(PROMPTS, COMPLETIONS, pad_token_id=0)
    part = packed[1:2]
    assert part.input_ids.shape == (1, 9)
    assert part.completion_ids.shape == (1, 3, 3)
    whole, _ = token_logprobs(model, packed)
    alone, _ = token_logprobs(model, part)
    torch.testing.assert_close(alone[0], whole[1, :, :3], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_temperature_divides_the_logits(tiny_llama):
    model = load_policy(tiny_llama, dtype="float32").eval()
    packed = pack_rows([[5, 6]], [[[7]]], 0)
    logits = model(torch.tensor([[5, 6]])).logits[0, -1]
    logprobs, _ = token_logprobs(model, packed, temperature=0.5)
    assert float(logprobs) == pytest.approx(float((logits / 0.5).log_softmax(-1)[7]), abs=1e-5)


def test_greedy_decoding_equals_transformers_for_prompts_of_different_length(tiny):
    tokenizer, model = load_tokenizer(tiny), load_policy(tiny, dtype="float32").eval()
    prompts = ["Say something", [{"role": "user", "content": "a longer prompt, with a chat template around it"}]]
    ours = generate(model, tokenizer, prompts, max_new_tokens=12, temperature=0, num_generations=2)
    for ids, completions in zip(tokenize_prompts(tokenizer, prompts), ours, strict=True):
        theirs = model.generate(torch.tensor([ids]), max_new_tokens=12, do_sample=False)[0, len(ids) :].tolist()
        assert [completion.token_ids for completion in completions] == [theirs, theirs]


def test_logprobs_of_sampling_are_those_of_scoring(tiny):
    tokenizer, model = load_tokenizer(tiny), load_policy(tiny, dtype="float32").eval()
    prompts = ["one", "and another one that is longer"]
    samples = generate(model, tokenizer, prompts, max_new_tokens=9, temperature=1.0, num_generations=3, seed=1)
    scored = completion_logprobs(model, tokenizer, prompts, [[c.token_ids for c in group] for group in samples])
    for completions, logprobs in zip(samples, scored, strict=True):
        for completion, expected in zip(completions, logprobs, strict=True):
            assert completion.logprobs == pytest.approx(expected, abs=1e-4)


def test_rows_that_end_leave_the_batch_without_disturbing_the_others(tiny_llama):
    model = load_policy(tiny_llama, dtype="float32").eval()
    prompts = [[5, 6, 7], [8, 9], [10, 11, 12, 13]]
    arguments = {"num_generations": 1, "max_new_tokens": 10, "pad_token_id": 0, "temperature": 0}
    free = sample(model, prompts, eos_token_ids=[], **arguments).tokens
    ends = free[1][4]
    stopped = sample(model, prompts, eos_token_ids=[ends], **arguments).tokens
    for whole, cut in zip(free, stopped, strict=True):
        assert cut == (whole[: whole.index(ends) + 1] if ends in whole else whole)


def test_sampling_follows_the_models_distribution(tiny_llama):
    model = load_policy(tiny_llama, dtype="float32").eval()
    with torch.no_grad():
        expected = (model(torch.tensor([[5, 6, 7]])).logits[0, -1] / 0.1).softmax(-1)
    tokens = sample(
        model,
        [[5, 6, 7]],
        num_generations=4000,
        max_new_tokens=1,
        eos_token_ids=[],
        pad_token_id=0,
        temperature=0.1,
        generator=torch.Generator().manual_seed(0),
    ).tokens
    counts = torch.tensor(tokens)[:, 0].bincount(minlength=len(expected)) / 4000
    top = expected.topk(5).indices
    # four standard errors of a proportion
    assert ((counts[top] - expected[top]).abs() < 4 * (expected[top] * (1 - expected[top]) / 4000).sqrt()).all()
