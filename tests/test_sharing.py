"""A common beginning that is read once changes neither scores nor samples nor activations."""

import pytest
import torch

import rlgen.generation
import rlgen.sharing
from rlgen.decoding import sample
from rlgen.generation import completion_logprobs, tokenize_prompts
from rlgen.models import load_policy, load_tokenizer
from rlgen.scoring import pack_rows, token_logprobs
from rlgen.sharing import Prefix, common_length, read_prefix

BEGINNING = list(range(40, 100))
ENDS = [[5, 6, 7], [8], [10, 11, 12, 13, 14, 15, 16, 17, 18], [8, 20, 21, 22, 23, 24, 25, 26]]
PROMPTS = [BEGINNING + end for end in ENDS]
COMPLETIONS = [[[20, 21, 22], [23]], [[30], [31, 32]], [[33, 33, 33], [34]], [[35, 36, 37, 38], [39, 40]]]
NONE_PAYS = 10**9


@pytest.mark.parametrize(
    ("sequences", "length"),
    [([[1, 2, 3], [1, 2, 4]], 2), ([[1, 2], [1, 2, 4]], 1), ([[1, 2], [1, 2]], 1), ([[1], [2]], 0), ([[1, 2]], 0)],
)
def test_the_common_beginning_leaves_each_sequence_a_token(sequences, length):
    assert common_length(sequences) == common_length(sequences[::-1]) == length


def test_a_beginning_is_read_where_that_pays_and_the_model_honors_masks(tiny_llama):
    model = load_policy(tiny_llama, dtype="float32").eval()
    assert read_prefix(model, PROMPTS).length == len(BEGINNING)
    assert read_prefix(model, PROMPTS[:2]).length == 0  # too little is spared
    assert read_prefix(model, []).length == 0
    model.config.layer_types = ["sliding_attention"] * model.config.num_hidden_layers
    model.config.sliding_window = 4
    assert read_prefix(model, PROMPTS).length == 0


def test_caches_behind_a_prefix_do_not_change_it(tiny_llama):
    model = load_policy(tiny_llama, dtype="float32").eval()
    prefix = read_prefix(model, PROMPTS)
    before = [keys.clone() for keys, _ in prefix.layers]
    first, second = prefix.cache(2), prefix.cache(3)
    first.update(torch.ones(2, *before[0].shape[1:]), torch.ones(2, *before[0].shape[1:]), 0)
    assert (first.get_seq_length(), second.get_seq_length(), prefix.cache(1).get_seq_length()) == (120, 60, 60)
    assert all(torch.equal(old, keys) for old, (keys, _) in zip(before, prefix.layers, strict=True))


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("group", [1, 2])
def test_completions_behind_a_prefix_score_as_with_whole_prompts(tiny, attention, group):
    model = load_policy(tiny, dtype="float32", attn_implementation=attention).eval()
    completions = [completions[:group] for completions in COMPLETIONS]
    whole, _ = token_logprobs(model, pack_rows(PROMPTS, completions, 0))
    prefix = read_prefix(model, PROMPTS)
    assert prefix.length
    behind, _ = token_logprobs(model, pack_rows(ENDS, completions, 0), prefix=prefix)
    torch.testing.assert_close(behind, whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("prompts", [PROMPTS, [PROMPTS[0]] * 4], ids=["prompts", "one prompt"])
def test_samples_and_activations_are_those_of_whole_prompts(tiny, attention, prompts, monkeypatch):
    model = load_policy(tiny, dtype="float32", attn_implementation=attention).eval()

    def draw():
        return sample(
            model,
            prompts,
            num_generations=3,
            max_new_tokens=6,
            eos_token_ids=list(range(0, 2000, 7)),
            pad_token_id=0,
            temperature=[0, 1, 1],
            generator=torch.Generator().manual_seed(0),
            hidden_depths=[1, 2],
        )

    read = []
    model.get_input_embeddings().register_forward_hook(lambda _, inputs, __: read.append(inputs[0].numel()))
    shared, tokens_shared = draw(), sum(read)
    read.clear()
    monkeypatch.setattr(rlgen.sharing, "WORTHWHILE", NONE_PAYS)
    whole, tokens_whole = draw(), sum(read)
    assert tokens_shared < tokens_whole - 2 * len(BEGINNING)
    assert shared.tokens == whole.tokens
    for left, right in zip(shared.logprobs, whole.logprobs, strict=True):
        assert left == pytest.approx(right, abs=1e-4)
    for depth in (1, 2):
        for left, right, ids in zip(shared.hidden[depth].prompt, whole.hidden[depth].prompt, prompts, strict=True):
            torch.testing.assert_close(left[-len(ids) :], right[-len(ids) :], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(
            shared.hidden[depth].completion, whole.hidden[depth].completion, atol=1e-4, rtol=1e-4
        )


@pytest.mark.parametrize("sharing", [True, False])
@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_completions_of_a_prompt_score_as_if_alone_each_at_its_temperature(tiny, sharing, batch_size, monkeypatch):
    tokenizer, model = load_tokenizer(tiny), load_policy(tiny, dtype="float32").eval()
    if not sharing:
        monkeypatch.setattr(rlgen.generation, "can_share_prompts", lambda _: False)
    question = "What does this function do? Answer in a sentence of at most ten words, and end with a period. "
    prompts = [question + name for name in ("read", "write it all", "close", "open the door")]
    scored = completion_logprobs(model, tokenizer, prompts, COMPLETIONS, batch_size=batch_size, temperature=[1.0, 0.5])
    for ids, completions, rows in zip(tokenize_prompts(tokenizer, prompts), COMPLETIONS, scored, strict=True):
        for completion, temperature, logprobs in zip(completions, [1.0, 0.5], rows, strict=True):
            with torch.no_grad():
                logits = model(torch.tensor([ids + completion])).logits[0, len(ids) - 1 : -1]
            expected = (logits / temperature).log_softmax(-1)[range(len(completion)), completion]
            assert logprobs == pytest.approx(expected.tolist(), abs=1e-4)
    assert completion_logprobs(model, tokenizer, [], []) == []


def test_an_empty_prefix_is_a_fresh_cache(tiny_llama):
    model = load_policy(tiny_llama, dtype="float32")
    assert Prefix(0, model.config, []).cache(3).get_seq_length() == 0
