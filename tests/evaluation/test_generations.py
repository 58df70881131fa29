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

    def generate(model, tokenizer, prompts, *, num_generations, temperature, seed, **_):
        assert len(temperature) == num_generations
        made.append((len(prompts), temperature))
        return [
            [Completion(f"{prompt}, {seed}, {heat}", [1, 2], [-1.0, -2.0], True) for heat in temperature]
            for prompt in prompts
        ]

    monkeypatch.setattr(generations, "generate", generate)
    return made


def sampling(**changes):
    return Sampling(**({"temperature": 1.0, "num_samples": 2, "max_new_tokens": 8, "seed": 0} | changes))


GREEDY, HOT = sampling(temperature=0.0, num_samples=1), sampling()


def run(path, *plans, fingerprint="f", prompts=PROMPTS):
    policy = FakePolicy(Checkpoint("x", "path", fingerprint))
    return generate_cached(
        policy, None, prompts, prompts, plans or [HOT], Store(path), batch_size=4, advance=lambda count: None
    )


def lines(path):
    return [[chunk["key"] for chunk in json.loads(line)] for line in path.read_text().splitlines()]


def test_a_second_run_generates_nothing(tmp_path, calls):
    first = run(tmp_path / "x.jsonl", GREEDY, HOT)
    assert calls == [(CHUNK, [1.0, 1.0, 0.0]), (5, [1.0, 1.0, 0.0])]  # each prompt once, for all that is drawn
    assert run(tmp_path / "x.jsonl", GREEDY, HOT) == first
    assert len(calls) == 2
    for plan, answered in first.items():
        heats = {sample.text.split(", ")[-1] for row in answered.completions for sample in row}
        assert heats == {"0.0" if plan == "greedy" else "1.0"}
        assert {len(row) for row in answered.completions} == {1 if plan == "greedy" else 2}


def test_a_plan_that_is_added_later_leaves_the_others_as_they_are(tmp_path, calls):
    alone = run(tmp_path / "x.jsonl", GREEDY)
    both = run(tmp_path / "x.jsonl", GREEDY, HOT)
    assert calls[2:] == [(CHUNK, [1.0, 1.0]), (5, [1.0, 1.0])]
    assert both["greedy"] == alone["greedy"]
    assert both["T=1"].completions == run(tmp_path / "y.jsonl", HOT)["T=1"].completions


def test_a_plan_draws_the_same_whatever_other_plans_there_are(tmp_path, calls):
    warm, short = sampling(temperature=0.5), sampling(temperature=0.0, num_samples=1, max_new_tokens=4)
    run(tmp_path / "x.jsonl", GREEDY, HOT, warm, prompts=PROMPTS[:3])
    assert calls == [(3, [1.0, 1.0, 0.0]), (3, [0.5, 0.5])]  # greedy draws nothing, so it may ride along
    calls.clear()
    run(tmp_path / "y.jsonl", short, HOT, prompts=PROMPTS[:3])
    assert calls == [(3, [1.0, 1.0]), (3, [0.0])]  # another length limit


@pytest.mark.parametrize("change", [{"temperature": 0.5}, {"max_new_tokens": 9}, {"seed": 1}])
def test_whatever_decides_the_output_is_in_the_key(tmp_path, calls, change):
    run(tmp_path / "x.jsonl")
    run(tmp_path / "x.jsonl", sampling(**change))
    assert len(calls) == 4


def test_another_model_is_another_key(tmp_path, calls):
    run(tmp_path / "x.jsonl")
    run(tmp_path / "x.jsonl", fingerprint="g")
    assert len(calls) == 4


def test_more_prompts_reuse_the_full_chunks(tmp_path, calls):
    run(tmp_path / "x.jsonl")
    run(tmp_path / "x.jsonl", prompts=[*PROMPTS, "one more"])
    assert [count for count, _ in calls] == [CHUNK, 5, 6]


def test_a_kill_in_mid_write_loses_one_chunk_of_all_plans_and_changes_nothing(tmp_path, calls):
    path = tmp_path / "x.jsonl"
    whole = run(path, GREEDY, HOT)
    content = path.read_bytes()
    for cut in (len(content) - 1, len(content) - 40):
        path.write_bytes(content[:cut])
        again = run(path, GREEDY, HOT)
        assert [again[plan].completions for plan in whole] == [whole[plan].completions for plan in whole]
        assert lines(path) == [list(keys) for keys in zip(whole["T=1"].keys, whole["greedy"].keys, strict=True)]
    assert [count for count, _ in calls] == [CHUNK, 5, 5, 5]


def test_chunks_draw_with_seeds_of_their_own(tmp_path, calls):
    texts = [samples[0].text for samples in run(tmp_path / "x.jsonl")["T=1"].completions]
    assert texts[0].split(", ")[1] != texts[-1].split(", ")[1]


def test_the_time_of_a_batch_is_shared_out_by_tokens(tmp_path, calls, monkeypatch):
    clock = iter(range(0, 1000, 30))
    monkeypatch.setattr(generations.time, "monotonic", lambda: next(clock))
    generated = run(tmp_path / "x.jsonl", GREEDY, HOT, prompts=PROMPTS[:3])
    assert (generated["greedy"].seconds, generated["T=1"].seconds) == (10.0, 20.0)


def test_logprobs_are_cached_by_who_scores_what(tmp_path, calls, monkeypatch):
    scored = []

    def completion_logprobs(model, tokenizer, prompts, ids, *, temperature, **_):
        scored.append((len(prompts), temperature))
        return [[[-0.5 * (k + 1)] * len(tokens) for k, tokens in enumerate(row)] for row in ids]

    monkeypatch.setattr(generations, "completion_logprobs", completion_logprobs)
    warm = sampling(temperature=0.7)
    generated = run(tmp_path / "x.jsonl", GREEDY, warm)
    counted = []

    def score(fingerprint, *plans):
        policy = FakePolicy(Checkpoint("x", "path", fingerprint))
        store = Store(tmp_path / "logprobs.jsonl")
        return logprobs_cached(policy, None, PROMPTS, generated, plans, store, batch_size=4, advance=counted.append)

    logprobs = score("one", GREEDY, warm)
    assert logprobs["greedy"] == [[[-0.5, -0.5]]] * len(PROMPTS)
    assert logprobs["T=0.7"] == [[[-1.0, -1.0], [-1.5, -1.5]]] * len(PROMPTS)
    assert scored == [(CHUNK, [1.0, 0.7, 0.7]), (5, [1.0, 0.7, 0.7])]  # greedy text is scored at temperature 1
    assert sum(counted) == 3 * len(PROMPTS)
    assert score("one", GREEDY, warm) == logprobs
    assert len(scored) == 2
    score("two", warm)
    score("two", GREEDY, warm)
    assert scored[2:] == [(CHUNK, [0.7, 0.7]), (5, [0.7, 0.7]), (CHUNK, [1.0]), (5, [1.0])]


def test_progress_is_of_the_whole(monkeypatch):
    reported = []
    monkeypatch.setattr(generations, "report_progress", lambda *report: reported.append(report))
    steps = Steps(20)
    steps.advance(4, 3)
    steps.advance(1, 8)
    assert reported == [("compare", 12, 20), ("compare", 20, 20)]


def test_log_ratio_sums_over_tokens():
    assert log_ratio([[[-1.0, -2.0], []]], [[[-2.0, -2.5], []]]) == [[1.5, 0]]


def test_plans_have_names():
    assert Sampling(0.0, 1, 8, 0).name == "greedy"
    assert Sampling(0.7, 4, 8, 0).name == "T=0.7"
