import json

import pytest

from rlgen.evaluation.results import compare_all, find_comparison, main_pairs, primary_measure, verdicts
from rlgen.evaluation.tables import results_table

COMPARISON_KEYS = {
    *("a", "b", "measure", "sampling", "n", "mean_a", "mean_b", "difference", "ci_low", "ci_high"),
    *("win_rate", "tie_rate"),
}
ORDER = [("base", "sft"), ("base", "ppo"), ("base", "dpo"), ("sft", "ppo"), ("sft", "dpo"), ("ppo", "dpo")]


@pytest.fixture(scope="module")
def results(fake_results):
    return fake_results(40, temperatures=(0.0, 0.7))


def test_every_pair_is_compared_in_the_given_order_on_every_measure(results):
    comparisons = results["comparisons"]
    assert all(set(row) == COMPARISON_KEYS for row in comparisons)
    measures = [m["name"] for m in results["measures"] if m["name"] != "distinct_2"]
    expected = [(a, b, m, s) for s in ("greedy", "T=0.7") for a, b in ORDER for m in measures]
    assert [(row["a"], row["b"], row["measure"], row["sampling"]) for row in comparisons] == expected


def test_differences_are_b_minus_a_and_agree_with_the_summary(results):
    for row in results["comparisons"]:
        assert row["difference"] == pytest.approx(row["mean_b"] - row["mean_a"], abs=2e-6)
        assert row["ci_low"] <= row["difference"] <= row["ci_high"]
        for side in "ab":
            summary = results["summary"][row[side]][row["sampling"]][row["measure"]]
            assert summary["mean"] == pytest.approx(row[f"mean_{side}"], abs=2e-6)


def test_results_are_json_without_nan_and_samples_hold_every_score(results):
    assert json.loads(json.dumps(results, allow_nan=False)) == results
    assert len(results["samples"]) == 2 * results["n_prompts"]
    sample = results["samples"][-1]
    assert sample["sampling"] == "T=0.7"
    assert [len(answers) for answers in sample["completions"].values()] == [2] * 4
    scores = sample["completions"]["ppo"][0]["scores"]
    assert scores["reward"] == pytest.approx(0.6 * scores["ends_with_period"] + 0.4 * scores["brevity"], abs=1e-5)


def test_the_reference_has_no_divergence_from_itself(results):
    assert results["summary"]["sft"]["greedy"]["kl_sft"]["mean"] == 0
    assert results["summary"]["ppo"]["greedy"]["kl_sft"]["mean"] > 0


def test_comparisons_read_from_both_sides(results):
    forth = find_comparison(results, "sft", "ppo", "reward", "greedy")
    back = find_comparison(results, "ppo", "sft", "reward", "greedy")
    assert back.difference == -forth.difference
    assert back.win_rate == pytest.approx(forth.loss_rate)


def test_main_pairs_put_ppo_against_sft_first():
    assert main_pairs(["base", "sft", "ppo", "dpo"]) == [
        ("sft", "ppo"),
        ("sft", "dpo"),
        ("base", "sft"),
        ("dpo", "ppo"),
    ]
    assert main_pairs(["sft", "ppo-seed1", "ppo-seed2"]) == [("sft", "ppo-seed1"), ("sft", "ppo-seed2")]
    assert main_pairs(["old", "new", "newer"]) == [("old", "new"), ("old", "newer")]
    assert main_pairs(["ppo"]) == []


def fixed_scores(**values):
    return {"greedy": {name: {"reward": [[v] for v in reward], "rouge_l": [[v] for v in rouge]}
                       for name, (reward, rouge) in values.items()}}  # fmt: skip


def judged(**values):
    measures = [
        {"name": "reward", "kind": "reward", "higher_is_better": True},
        {"name": "rouge_l", "kind": "metric", "higher_is_better": True},
    ]

    class Named:
        def __init__(self, name):
            self.name = name
            self.higher_is_better = True

    results = {
        "measures": measures,
        "n_prompts": 20,
        "checkpoints": [{"name": name} for name in values],
        "sampling": [{"name": "greedy"}],
        "comparisons": compare_all(fixed_scores(**values), [Named("reward"), Named("rouge_l")]),
    }
    return verdicts(results)


LOW, HIGH = [0.1, 0.2] * 10, [0.6, 0.5] * 10


def test_verdicts_say_what_is_shown_and_what_is_not():
    (sentence,) = judged(sft=(LOW, LOW), ppo=(HIGH, LOW))
    assert sentence.startswith("PPO beats SFT on reward: 0.550 against 0.150")
    assert "better on 100% of them" in sentence
    (sentence,) = judged(sft=(HIGH, LOW), ppo=(LOW, LOW))
    assert sentence.startswith("PPO falls behind SFT")
    noise = [0.1, 0.3, 0.2, 0.2] * 5
    (sentence,) = judged(sft=([0.2] * 20, LOW), ppo=(noise, LOW))
    assert sentence.startswith("No difference shown between PPO and SFT")
    (sentence,) = judged(sft=(LOW, LOW), ppo=(LOW, LOW))
    assert sentence.startswith("No difference shown")


def test_a_fall_of_rouge_beyond_the_tolerance_is_a_warning():
    lower = [value - 0.03 for value in LOW]
    slightly = [value - 0.01 for value in LOW]
    sentence, warning = judged(sft=(LOW, LOW), ppo=(HIGH, lower))
    assert "beats" in sentence
    assert warning.startswith("Warning: ROUGE-L of PPO is 0.030 below that of SFT")
    assert len(judged(sft=(LOW, LOW), ppo=(HIGH, slightly))) == 1


def test_the_order_of_checkpoints_does_not_change_the_verdict():
    assert judged(ppo=(HIGH, LOW), sft=(LOW, LOW))[0].startswith("PPO beats SFT on reward: 0.550 against 0.150")


def test_without_rewards_the_metric_decides_and_without_both_nothing():
    assert primary_measure({"measures": [{"name": "m", "kind": "metric"}]}) == "m"
    assert primary_measure({"measures": [{"name": "length", "kind": "diagnostic"}]}) is None


def test_the_terminal_table_holds_means_and_intervals(results):
    from rich.console import Console

    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(results_table(results))
    text = console.export_text()
    mean = results["summary"]["ppo"]["greedy"]["reward"]["mean"]
    assert f"{mean:.3f}" in text
    assert "ppo - sft" in text
