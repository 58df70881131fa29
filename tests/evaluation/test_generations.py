import json

import pytest

from rlgen.evaluation import generations
from rlgen.evaluation.checkpoints import Checkpoint
from rlgen.evaluation.generations import (
    CHUNK,
    Loaded,
    Sampling,
    Steps,
    Store,
    generate_cached,
    log_ratio,
    logprobs_cached,
)
from rlgen.generation import Completion

PROMPTS = [f"prompt {index}" for index in range(CHUNK + 5)]


class FakePolicy(Loaded):
    """Counts how often a model is asked for."""

    model = "the model"


@pytest.fixture
def calls(monkeypatch):
    made = []

    def generate(model, tokenizer, prompts, *, num_generations, seed, **_):
        made.append(list(prompts))
        return [
            [Completion(f"{prompt}, {seed}, {k}", [1, 2], [-1.0, -2.0], True) for k in range(num_generations)]
            for prompt in prompts
        ]

    monkeypatch.setattr(generations, "generate", generate)
    return made


def run(path, *, fingerprint="f", prompts=PROMPTS, **sampling):
    plan = Sampling(**({"temperature": 1.0, "num_samples": 2, "max_new_tokens": 8, "seed": 0} | sampling))
    policy = FakePolicy(Checkpoint("x", "path", fingerprint))
    return generate_cached(policy, None, prompts, prompts, plan, Store(path), batch_size=4, steps=Steps("s", 1))


def test_a_second_run_generates_nothing(tmp_path, calls):
    first = run(tmp_path / "x.jsonl")
    assert [len(chunk) for chunk in calls] == [CHUNK, 5]
    assert run(tmp_path / "x.jsonl") == first
    assert len(calls) == 2


@pytest.mark.parametrize("change", [{"fingerprint": "g"}, {"temperature": 0.5}, {"max_new_tokens": 9}, {"seed": 1}])
def test_whatever_decides_the_output_is_in_the_key(tmp_path, calls, change):
    run(tmp_path / "x.jsonl")
    run(tmp_path / "x.jsonl", **change)
    assert len(calls) == 4


def test_more_prompts_reuse_the_full_chunks(tmp_path, calls):
    run(tmp_path / "x.jsonl")
    run(tmp_path / "x.jsonl", prompts=[*PROMPTS, "one more"])
    assert [len(chunk) for chunk in calls] == [CHUNK, 5, 6]


def test_a_kill_in_mid_write_loses_one_chunk_and_changes_nothing(tmp_path, calls):
    path = tmp_path / "x.jsonl"
    whole = run(path)
    content = path.read_bytes()
    for cut in (len(content) - 1, len(content) - 40):
        path.write_bytes(content[:cut])
        again = run(path)
        assert again.completions == whole.completions
        assert [json.loads(line)["key"] for line in path.read_text().splitlines()] == whole.keys
    assert [len(chunk) for chunk in calls] == [CHUNK, 5, 5, 5]


def test_chunks_draw_with_seeds_of_their_own(tmp_path, calls):
    texts = [samples[0].text for samples in run(tmp_path / "x.jsonl").completions]
    assert texts[0].split(", ")[1] != texts[-1].split(", ")[1]


def test_logprobs_are_cached_by_who_scores_what(tmp_path, calls, monkeypatch):
    scored = []

    def completion_logprobs(model, tokenizer, prompts, ids, *, temperature, **_):
        scored.append((len(prompts), temperature))
        return [[-0.5] * len(row) for row in ids]

    monkeypatch.setattr(generations, "completion_logprobs", completion_logprobs)
    generated = run(tmp_path / "x.jsonl")
    plan = Sampling(0.0, 2, 8, 0)

    def score(fingerprint):
        policy = FakePolicy(Checkpoint("x", "path", fingerprint))
        store = Store(tmp_path / "logprobs.jsonl")
        return logprobs_cached(
            policy, None, PROMPTS, generated, plan, store, batch_size=4, steps=Steps("measure KL", 1)
        )

    logprobs = score("one")
    assert (len(logprobs), logprobs[0]) == (len(PROMPTS), [[-0.5, -0.5], [-0.5, -0.5]])
    assert scored == [(2 * CHUNK, 1.0), (10, 1.0)]  # greedy text is scored at temperature 1
    assert score("one") == logprobs
    assert len(scored) == 2
    score("two")
    assert len(scored) == 4


def test_log_ratio_sums_over_tokens():
    assert log_ratio([[[-1.0, -2.0], []]], [[[-2.0, -2.5], []]]) == [[1.5, 0]]


def test_plans_have_names():
    assert Sampling(0.0, 1, 8, 0).name == "greedy"
    assert Sampling(0.7, 4, 8, 0).name == "T=0.7"
