"""The decoding loop against plain forward passes: sharing, parts of similar length, activations, temperatures."""

import pytest
import torch

import rlgen.decoding
from rlgen.decoding import sample
from rlgen.hidden import record_hidden
from rlgen.models import load_policy
from rlgen.ppo.rollout import pack_hidden
from rlgen.scoring import pack_rows

# of lengths that are read in two parts
PROMPTS = [[5, 6, 7], [8, 9], [10, 11, 12, 13, 14, 15, 16, 17, 18], [19, 20, 21, 22, 23, 24, 25, 26]]
ARGUMENTS = {"num_generations": 3, "max_new_tokens": 7, "pad_token_id": 0}


def draw(model, prompts=PROMPTS, **changes):
    arguments = {**ARGUMENTS, "eos_token_ids": [], "generator": torch.Generator().manual_seed(0), **changes}
    return sample(model, prompts, **arguments)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("ending", [False, True], ids=["all grow to the end", "some end early"])
def test_siblings_over_one_prompt_are_sampled_as_if_each_had_its_own(tiny, attention, ending, monkeypatch):
    model = load_policy(tiny, dtype="float32", attn_implementation=attention).eval()
    ends = list(range(0, 2000, 3)) if ending else []
    together = draw(model, eos_token_ids=ends)
    monkeypatch.setattr(rlgen.decoding, "can_share_prompts", lambda *_: False)
    apart = draw(model, eos_token_ids=ends)
    assert together.tokens == apart.tokens
    assert ending == any(len(tokens) < 7 for tokens in together.tokens)
    for left, right in zip(together.logprobs, apart.logprobs, strict=True):
        assert left == pytest.approx(right, abs=1e-4)


def test_prompts_read_in_parts_give_what_one_read_gives(tiny, monkeypatch):
    model = load_policy(tiny, dtype="float32").eval()
    in_parts = draw(model)
    monkeypatch.setattr(rlgen.decoding, "SAME_LENGTH", 0.0)
    at_once = draw(model)
    assert in_parts.tokens == at_once.tokens


def test_the_order_of_the_prompts_does_not_matter(tiny_llama):
    model = load_policy(tiny_llama, dtype="float32").eval()
    forward = draw(model, temperature=0).tokens
    backward = draw(model, PROMPTS[::-1], temperature=0).tokens
    assert [forward[i : i + 3] for i in range(0, 12, 3)] == [backward[i : i + 3] for i in range(9, -1, -3)]


def test_one_temperature_for_each_completion(tiny_llama):
    model = load_policy(tiny_llama, dtype="float32").eval()
    mixed = draw(model, temperature=[0, 0.8, 0]).tokens
    greedy = draw(model, temperature=0).tokens
    alone = draw(model, temperature=0.8, num_generations=1).tokens
    assert mixed[0::3] == mixed[2::3] == greedy[0::3]
    assert mixed[1::3] == alone  # greedy completions take nothing from the source of randomness


@pytest.mark.parametrize("groups", [1, 3])
def test_activations_of_sampling_are_those_of_a_forward_pass(tiny, groups):
    model = load_policy(tiny, dtype="float32").eval()
    drawn = draw(model, num_generations=groups, hidden_depths=[1, 2], eos_token_ids=list(range(0, 2000, 5)))
    completions = [drawn.tokens[i * groups : (i + 1) * groups] for i in range(len(PROMPTS))]
    packed = pack_rows(PROMPTS, completions, pad_token_id=0)
    for i, prompt in enumerate(PROMPTS):
        for g, completion in enumerate(completions[i]):
            ids = torch.tensor([prompt + completion])
            with torch.no_grad(), record_hidden(model, [1, 2]) as expected:
                model(ids)
            for depth in (1, 2):
                kept = pack_hidden(drawn.hidden[depth], packed)[i]
                mine = kept[(packed.segment_ids[i] == 0) | (packed.segment_ids[i] == g + 1)]
                read = len(prompt) + len(completion) - 1  # the last token is never read
                torch.testing.assert_close(mine[:read], expected[depth][0, :read], atol=1e-4, rtol=1e-4)
                assert not mine[read:].any()
