"""Measures that take a model, with tiny random ones."""

import math

import pytest
import torch
from transformers import AutoModelForCausalLM

from rlgen.errors import ModelError
from rlgen.evaluation.checkpoints import Checkpoint, open_checkpoints
from rlgen.evaluation.computed import add_kl, corpus_level, nothing_computed
from rlgen.evaluation.embeddings import Encoder, embedding_spreads, mean_distance
from rlgen.evaluation.generations import Generated, Store, loaded
from rlgen.evaluation.likelihood import reference_likelihoods
from rlgen.evaluation.measures import Measure
from rlgen.evaluation.metrics import METRICS
from rlgen.generation import Completion, render_prompts
from rlgen.models import load_policy, load_tokenizer


def sample(text: str, tokens: int = 2) -> Completion:
    return Completion(text, [1] * tokens, [0.0] * tokens, True)


@pytest.fixture(scope="module")
def tiny(tiny_llama: str) -> Checkpoint:
    return open_checkpoints({"sft": tiny_llama})[0]


def slow_logprob(path: str, prompt: str, answer: str) -> tuple[float, int]:
    """The sum over the answer's tokens and the end token, one forward pass of the whole text."""
    model, tokenizer = load_policy(path), load_tokenizer(path)
    start = tokenizer(prompt)["input_ids"]
    rest = [*tokenizer(answer, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    with torch.inference_mode():
        logprobs = model(torch.tensor([start + rest])).logits.float().log_softmax(-1)[0]
    return sum(float(logprobs[len(start) + i - 1, token]) for i, token in enumerate(rest)), len(rest)


def test_likelihoods_of_references_are_those_of_a_plain_forward_pass(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("rlgen.evaluation.generations.CHUNK", 2)
    prompts, references = ["Say one.", "Say two.", "Say three."], ["One it is.", None, ["Three.", "3"]]
    tokenizer = load_tokenizer(tiny.path)
    done = []

    def measure(references):
        store = Store(tmp_path / "likelihoods.jsonl")
        with loaded(tiny) as policy:
            return reference_likelihoods(
                policy,
                tokenizer,
                prompts,
                render_prompts(tokenizer, prompts),
                references,
                store,
                batch_size=4,
                advance=done.append,
            )

    found = measure(references)
    assert found[1] is None
    for i, text in ((0, "One it is."), (2, "Three.")):
        total, count = slow_logprob(tiny.path, prompts[i], text)
        assert found[i] == (pytest.approx(total, rel=1e-3), count)
    assert sum(done) == 3
    # What is known is not computed again, and another reference is.
    monkeypatch.setattr("rlgen.evaluation.generations.load_policy", lambda path: pytest.fail("was loaded"))
    assert measure(references) == found
    with pytest.raises(pytest.fail.Exception, match="was loaded"):
        measure(["Other.", None, "Three."])


def test_distance_is_the_mean_over_pairs():
    generator = torch.Generator().manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(5, 7, generator=generator), dim=-1)
    pairs = [1 - float(vectors[i] @ vectors[j]) for i in range(5) for j in range(i)]
    assert mean_distance(vectors) == pytest.approx(sum(pairs) / len(pairs), abs=1e-6)
    assert mean_distance(vectors[:1].repeat(3, 1)) == pytest.approx(0.0, abs=1e-6)


def test_texts_are_encoded_alike_whatever_stands_beside_them(tiny):
    encoder = Encoder(tiny)
    texts = ["One.", "A rather longer text than the first.", ""]
    together = encoder.encode(texts, batch_size=3)
    alone = torch.cat([encoder.encode([text], batch_size=1) for text in texts])
    torch.testing.assert_close(together, alone, atol=1e-3, rtol=1e-3)
    assert together[:2].norm(dim=-1).tolist() == pytest.approx([1.0, 1.0], abs=1e-5)
    model = AutoModelForCausalLM.from_pretrained(tiny.path)
    ids = load_tokenizer(tiny.path)(texts[0], return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        states = model(ids, output_hidden_states=True).hidden_states[-1][0].float().mean(0)
    torch.testing.assert_close(together[0], states / states.norm(), atol=1e-3, rtol=1e-3)


def test_spreads_are_kept_and_need_two_samples(tiny, tmp_path, monkeypatch):
    completions = [
        [sample("One."), sample("One.")],
        [sample("One."), sample("Quite different, that is.")],
        [sample("x")],
    ]
    generated = Generated(completions, ["key"], 0.0)
    done = []
    store = Store(tmp_path / "embeddings.jsonl")
    alike, different, single = embedding_spreads(Encoder(tiny), generated, store, batch_size=2, advance=done.append)
    assert (alike, single) == (pytest.approx(0.0, abs=1e-5), None)
    assert different > 0.001
    assert sum(done) == 5
    monkeypatch.setattr(Encoder, "encode", lambda *_: pytest.fail("was encoded"))
    again = embedding_spreads(Encoder(tiny), generated, Store(store.path), batch_size=2, advance=done.append)
    assert again == [alike, different, None]


def test_an_encoder_that_cannot_be_read_is_one_line(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "nonesuch"}')
    (tmp_path / "model.safetensors").write_bytes(b"x")
    with pytest.raises(ModelError, match=r"encoder .* cannot be loaded") as error:
        Encoder(Checkpoint("encoder", str(tmp_path), "f")).encode(["x"], 1)
    assert "\n" not in str(error.value)


def test_kl_per_token_divides_by_length():
    answers = {"greedy": {"ppo": Generated([[sample("a b", 4)], [sample("c", 2)]], [], 0.0)}}
    computed = nothing_computed(answers)
    add_kl(computed, answers, {"greedy": {"ppo": [[2.0], [None]]}}, "sft")
    assert computed["greedy"]["ppo"] == {"kl_sft": [[2.0], [None]], "token_kl_sft": [[0.5], [None]]}


def test_corpus_level_numbers_are_of_all_completions_together():
    import sacrebleu

    texts, references = ["the cat sat on the mat", "it rains in the north"], ["the cat sat on a mat", None]
    answers = {"greedy": {"ppo": Generated([[sample(text)] for text in texts], [], 0.0)}}
    metric = METRICS["bleu"]
    measures = [Measure("bleu", metric.description, "metric", True, metric.score)]
    found = corpus_level(measures, references, answers, {"ppo": [(-6.0, 3), None, (-1.0, 2)]})
    entries = found["ppo"]["greedy"]
    assert entries["bleu"]["corpus"] == pytest.approx(sacrebleu.corpus_bleu(texts[:1], [references[:1]]).score / 100)
    assert entries["log_perplexity"]["perplexity"] == pytest.approx(math.exp(7 / 5))
