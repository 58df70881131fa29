"""Preference pairs: what may be paired with what, and how rankers are judged."""

import json

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from rlgen.data import row_hash
from rlgen.errors import DataError
from rlgen.generation import Completion
from rlgen.preferences import (
    BETTER,
    HUMAN,
    accuracy_interval,
    build_pairs,
    evaluate_pairs,
    sample_once,
    split_pairs,
    trivial_rankers,
    write_jsonl,
)


def completion(text):
    return Completion(text=text, token_ids=[1] * len(text), logprobs=[-1.0] * len(text), finished=True)


def letters(prompts, completions, **columns):
    """A reward without order or state: the share of the letter a; nothing to say about empty texts."""
    texts = [c if isinstance(c, str) else c[-1]["content"] for c in completions]
    return [text.count("a") / len(text) if text.strip() else None for text in texts]


def rows_of(prompts, references, *, plain):
    if plain:
        return Dataset.from_list([{"prompt": p, "completion": r} for p, r in zip(prompts, references, strict=True)])
    return Dataset.from_list(
        [
            {"prompt": [{"role": "user", "content": p}], "completion": [{"role": "assistant", "content": r}]}
            for p, r in zip(prompts, references, strict=True)
        ]
    )


def text_of(value):
    return value if isinstance(value, str) else value[-1]["content"]


texts = st.text(alphabet="ab \n", max_size=6)
cases = st.lists(st.tuples(texts, st.lists(texts, max_size=5)), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(cases, st.booleans(), st.integers(1, 3), st.booleans(), st.floats(0.0, 0.6))
def test_what_holds_for_all_pairs(case, plain, pairs_per_prompt, balance, margin):
    prompts = [f"prompt {index}" for index in range(len(case))]
    rows = rows_of(prompts, [reference for reference, _ in case], plain=plain)
    samples = [[completion(text) for text in group] for _, group in case]

    def build(order):
        try:
            return build_pairs(
                rows.select(order),
                [samples[index] for index in order],
                letters,
                min_margin=margin,
                pairs_per_prompt=pairs_per_prompt,
                balance=balance,
            ).to_list()
        except DataError:
            return []

    pairs = build(range(len(case)))
    counts = {}
    for pair in pairs:
        index = prompts.index(text_of(pair["prompt"]))
        chosen, rejected = text_of(pair["chosen"]), text_of(pair["rejected"])
        assert chosen.strip() != rejected.strip()
        sampled = {sample.text.strip() for sample in samples[index]}
        assert rejected.strip() in sampled
        assert isinstance(pair["chosen"], str) == plain
        if pair["source"] == HUMAN:
            assert chosen.strip() == case[index][0].strip() != ""
        else:
            assert chosen.strip() in sampled
            assert pair["chosen_score"] - pair["rejected_score"] >= margin
            assert pair["chosen_score"] > pair["rejected_score"]
        key = (index, pair["source"])
        counts[key] = counts.get(key, 0) + 1
    assert all(count <= pairs_per_prompt for count in counts.values())
    by_source = [sum(pair["source"] == source for pair in pairs) for source in (HUMAN, BETTER)]
    if balance and all(by_source):
        assert by_source[0] == by_source[1]
    # The same rows in another order give the same pairs.
    key = lambda pair: json.dumps(pair, sort_keys=True)  # noqa: E731
    assert sorted(build(range(len(case) - 1, -1, -1)), key=key) == sorted(pairs, key=key)


def test_the_score_gets_columns_and_token_ids():
    rows = rows_of(["p", "q"], ["good", "fine"], plain=False).add_column("code", ["c0", "c1"])
    calls = []

    def spy(prompts, completions, completion_ids, code):
        calls.append((len(prompts), [text_of(c) for c in completions], completion_ids, code))
        return [float(len(text_of(c))) for c in completions]

    pairs = build_pairs(rows, [[completion(" a"), completion("bbb")], []], spy)
    assert calls[0] == (2, [" a", "bbb"], [[1, 1], [1, 1, 1]], ["c0", "c0"])
    assert calls[1][0] == 2
    assert calls[1][3] == ["c0", "c1"]
    assert set(pairs.column_names) == {"prompt", "chosen", "rejected", "source", "chosen_score", "rejected_score"}
    better = next(pair for pair in pairs if pair["source"] == BETTER)
    assert (text_of(better["chosen"]), text_of(better["rejected"])) == ("bbb", "a")
    assert (better["chosen_score"], better["rejected_score"]) == (3.0, 2.0)


def test_no_pair_at_all_is_an_error():
    rows = rows_of(["p"], ["same"], plain=True)
    with pytest.raises(DataError, match="no preference pair"):
        build_pairs(rows, [[completion("same"), completion("same ")]], letters)
    with pytest.raises(DataError, match="1 lists of samples for 2 rows"):
        build_pairs(rows_of(["p", "q"], ["r", "s"], plain=True), [[]], letters)


def pairs_of(*triples):
    return Dataset.from_list(
        [{"prompt": p, "chosen": chosen, "rejected": rejected} for p, chosen, rejected in triples]
    )


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 8), min_size=2, max_size=20), st.floats(0.01, 0.99))
def test_a_split_shares_no_prompt_and_loses_no_pair(prompts, fraction):
    pairs = pairs_of(*[(f"prompt {p}", f"c{i}", f"r{i}") for i, p in enumerate(prompts)])
    if len(set(prompts)) < 2:
        with pytest.raises(DataError, match="more prompts"):
            split_pairs(pairs, fraction)
        return
    train, heldout = split_pairs(pairs, fraction)
    assert not {row_hash(row) for row in train} & {row_hash(row) for row in heldout}
    assert sorted([*train["chosen"], *heldout["chosen"]]) == sorted(pairs["chosen"])
    assert len(train)
    assert len(heldout)


def test_trivial_rankers_by_hand():
    pairs = pairs_of(
        ("p0", "four", "two."),  # same length; only the rejected one ends with a period
        ("p1", "longer text.", "short"),
        ("p1", "long text", "tiny"),
        ("p2", "a.", "much longer."),
    )
    rankers = trivial_rankers(pairs)
    assert rankers["longer_wins"]["accuracy"] == pytest.approx((0.5 + 1 + 1 + 0) / 4)
    assert rankers["shorter_wins"]["accuracy"] == pytest.approx((0.5 + 0 + 0 + 1) / 4)
    assert rankers["period_wins"]["accuracy"] == pytest.approx((0 + 1 + 0.5 + 0.5) / 4)
    assert rankers["random"]["accuracy"] == 0.5
    for ranker in rankers.values():
        assert (ranker["n_pairs"], ranker["n_prompts"]) == (4, 3)
        assert ranker["ci_low"] <= ranker["accuracy"] <= ranker["ci_high"]


def test_the_evaluation_by_hand():
    pairs = pairs_of(("p0", "aaaa", "bbbb"), ("p0", "aa", "bbbbbb"), ("p1", "a" * 20, "b" * 19), ("p2", "aaaa", "bbb"))
    pairs = pairs.add_column("source", [HUMAN, HUMAN, BETTER, BETTER])
    report = evaluate_pairs(pairs, [1.0, 0.0, 2.0, 5.0], [0.0, 1.0, 2.0, 4.0])
    assert report["accuracy"] == pytest.approx((1 + 0 + 0.5 + 1) / 4)
    assert report["by_source"][HUMAN]["accuracy"] == pytest.approx(0.5)
    assert report["by_source"][BETTER]["accuracy"] == pytest.approx(0.75)
    assert report["length_matched"]["accuracy"] == pytest.approx(0.75)
    assert report["length_matched"]["n_pairs"] == 2
    assert set(report["trivial_rankers"]) == {"longer_wins", "shorter_wins", "period_wins", "random"}
    assert evaluate_pairs(pairs_of(("p", "a", "bbbb")), [1.0], [0.0])["length_matched"] is None
    json.dumps(report)


def test_pairs_of_one_prompt_count_as_one_observation():
    """A hundred copies of ten prompts' answers say no more than the ten do: the interval must not shrink."""
    correct = [1.0, 1.0, 1.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0]
    prompts = [str(index) for index in range(10)]
    once = accuracy_interval(correct, prompts)
    many = accuracy_interval(correct * 100, prompts * 100)
    assert many["ci_low"] == pytest.approx(once["ci_low"])
    assert many["ci_high"] == pytest.approx(once["ci_high"])
    assert (many["n_pairs"], many["n_prompts"]) == (1000, 10)


def test_the_interval_is_that_of_a_slow_bootstrap():
    rng = np.random.default_rng(3)
    prompts = [str(value) for value in rng.integers(0, 25, size=60)]
    correct = rng.choice([0.0, 0.5, 1.0], size=60, p=[0.3, 0.1, 0.6]).tolist()
    groups = {}
    for prompt, value in zip(prompts, correct, strict=True):
        groups.setdefault(prompt, []).append(value)
    keys = list(groups)
    means = []
    for _ in range(4000):
        drawn = [value for key in rng.choice(keys, size=len(keys)) for value in groups[key]]
        means.append(sum(drawn) / len(drawn))
    low, high = np.quantile(means, [0.025, 0.975])
    interval = accuracy_interval(correct, prompts)
    assert interval["accuracy"] == pytest.approx(sum(correct) / 60)
    assert interval["ci_low"] == pytest.approx(low, abs=0.02)
    assert interval["ci_high"] == pytest.approx(high, abs=0.02)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.integers(0, 5)), min_size=1, max_size=15))
def test_an_interval_holds_its_accuracy_and_is_never_a_false_certainty(observations):
    interval = accuracy_interval([value for value, _ in observations], [str(prompt) for _, prompt in observations])
    assert 0.0 <= interval["ci_low"] <= interval["accuracy"] <= interval["ci_high"] <= 1.0
    if interval["accuracy"] in (0.0, 1.0):
        assert interval["ci_high"] - interval["ci_low"] > 0.05


def test_samples_are_kept_and_an_interrupted_run_goes_on(tmp_path):
    rows = rows_of([f"p{index}" for index in range(5)], ["r"] * 5, plain=True)
    asked = []

    def sample(part, start):
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append((start, list(part["prompt"])))
        return [[completion(f"{prompt} é")] for prompt in part["prompt"]]

    file = tmp_path / "deep" / "samples.jsonl"
    with pytest.raises(KeyboardInterrupt):
        sample_once(file, rows, sample, chunk=2)
    assert asked == [(0, ["p0", "p1"]), (2, ["p2", "p3"])]
    asked.clear()
    samples = sample_once(file, rows, sample, chunk=2)
    assert asked == [(4, ["p4"])]
    assert [group[0].text for group in samples] == [f"p{index} é" for index in range(5)]
    asked.clear()
    assert sample_once(file, rows, sample) == samples
    assert asked == []
    with pytest.raises(DataError, match="samples of other prompts"):
        sample_once(file, rows_of(["other"], ["r"], plain=True), sample)


def test_jsonl_is_whole_or_absent(tmp_path):
    file = tmp_path / "rows.jsonl"
    write_jsonl(file, [{"a": "é\n"}, {"a": None}])
    assert [json.loads(line) for line in file.read_text().splitlines()] == [{"a": "é\n"}, {"a": None}]

    def failing():
        yield {"a": 1}
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        write_jsonl(file, failing())
    assert len(file.read_text().splitlines()) == 2
