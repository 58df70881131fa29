import json

import pytest

from rlgen.evaluation.measures import Measure
from rlgen.evaluation.results import (
    compare_all,
    compare_methods,
    find_comparison,
    main_pairs,
    primary_measure,
    seeds_of,
    verdicts,
)
from rlgen.evaluation.significance import holm
from rlgen.evaluation.tables import results_table

COMPARISON_KEYS = {
    *("a", "b", "measure", "sampling", "n", "mean_a", "mean_b", "difference", "ci_low", "ci_high"),
    *("win_rate", "tie_rate", "test", "p_value", "p_holm", "effect_size", "detectable", "prompts_needed"),
}
ORDER = [("base", "sft"), ("base", "ppo"), ("base", "dpo"), ("sft", "ppo"), ("sft", "dpo"), ("ppo", "dpo")]


@pytest.fixture(scope="module")
def results(fake_results):
    return fake_results(40, temperatures=(0.0, 0.7))


def test_every_pair_is_compared_in_the_given_order_on_every_measure(results):
    comparisons = results["comparisons"]
    assert all(set(row) == COMPARISON_KEYS for row in comparisons)
    measures = [m["name"] for m in results["measures"] if not m["name"].startswith("distinct_")]
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
    assert main_pairs(["sft-seed1", "sft-seed2", "ppo-seed1", "ppo-seed2", "ppo-seed3"]) == [
        ("sft-seed1", "ppo-seed1"),
        ("sft-seed2", "ppo-seed2"),
        ("sft-seed1", "ppo-seed3"),  # it has no partner of its own
    ]
    assert main_pairs(["old", "new", "newer"]) == [("old", "new"), ("old", "newer")]
    assert main_pairs(["grpo-1", "sft", "ppo"]) == [("sft", "ppo"), ("grpo-1", "sft"), ("grpo-1", "ppo")]
    assert main_pairs(["base", "prompted", "sft", "ppo"]) == [
        ("sft", "ppo"),
        ("base", "sft"),
        ("prompted", "ppo"),
        ("prompted", "sft"),
        ("base", "prompted"),
    ]
    assert ("prompted", "dpo") in main_pairs(["prompted", "sft", "dpo"])
    assert main_pairs(["prompted", "sft-seed0", "sft-seed1", "ppo-seed0", "ppo-seed1"]) == [
        ("sft-seed0", "ppo-seed0"),
        ("sft-seed1", "ppo-seed1"),
        ("prompted", "ppo-seed0"),
        ("prompted", "ppo-seed1"),
        ("prompted", "sft-seed0"),
        ("prompted", "sft-seed1"),
    ]
    assert main_pairs(["ppo"]) == []


def fixed_scores(**values):
    return {"greedy": {name: {"reward": [[v] for v in reward], "rouge_l": [[v] for v in rouge]}
                       for name, (reward, rouge) in values.items()}}  # fmt: skip


def judged(**values):
    measures = [
        {"name": "reward", "kind": "reward", "higher_is_better": True},
        {"name": "rouge_l", "kind": "metric", "higher_is_better": True},
    ]

    scores = fixed_scores(**values)
    columns = [Measure("reward", "", "reward", True), Measure("rouge_l", "", "metric", True)]
    results = {
        "measures": measures,
        "n_prompts": 20,
        "checkpoints": [{"name": name} for name in values],
        "sampling": [{"name": "greedy"}],
        "comparisons": compare_all(scores, columns),
        "methods": compare_methods(scores, columns),
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


def test_where_nothing_is_shown_the_verdict_says_what_could_have_been():
    noise = [0.1, 0.35, 0.2, 0.2] * 5
    (sentence,) = judged(sft=([0.2] * 20, LOW), ppo=(noise, LOW))
    assert "a difference of 0.060 is found in 80% of cases; one as small as the one seen needs about" in sentence
    (sentence,) = judged(sft=(LOW, LOW), ppo=(HIGH, LOW))
    assert "is found in" not in sentence


def test_p_values_are_corrected_over_the_measures_that_claims_are_made_of(results):
    groups = {}
    for row in results["comparisons"]:
        groups.setdefault((row["a"], row["b"], row["sampling"]), []).append(row)
    kinds = {measure["name"]: measure["kind"] for measure in results["measures"]}
    for rows in groups.values():
        claims = [row for row in rows if kinds[row["measure"]] != "diagnostic"]
        assert [row["p_holm"] for row in claims] == pytest.approx(holm([row["p_value"] for row in claims]), abs=1e-6)
        assert all(row["p_holm"] is None for row in rows if kinds[row["measure"]] == "diagnostic")


def test_names_that_differ_in_the_seed_are_one_method():
    names = ["base", "sft", "ppo-seed0", "ppo-seed1", "dpo_seed_0", "seedling"]
    assert seeds_of(names) == {
        "base": {"": "base"},
        "sft": {"": "sft"},
        "ppo": {"0": "ppo-seed0", "1": "ppo-seed1"},
        "dpo": {"0": "dpo_seed_0"},
        "seedling": {"": "seedling"},
    }


def test_several_seeds_make_a_claim_about_the_method():
    wave = [0.01, -0.01] * 10
    up = [[low + 0.4 + d + s for low, d in zip(LOW, wave, strict=True)] for s in (0.0, 0.02, -0.02)]
    values = {"sft": (LOW, LOW), **{f"ppo-seed{i}": (scores, LOW) for i, scores in enumerate(up)}}
    first, *others = judged(**values)
    assert first.startswith("PPO over SFT as methods, 3 seeds, reward (greedy): gains, +0.400 (95% interval +0.3")
    assert "deviation between seeds 0.020" in first
    assert len(others) == 3
    rows = compare_methods(fixed_scores(**values), [Measure("reward", "", "reward", True)])
    assert [row["by_seed"] for row in rows] == [pytest.approx([0.4, 0.42, 0.38])]


def test_methods_are_paired_by_seed_and_not_compared_where_seeds_differ():
    shift = {"0": 0.0, "1": 0.3}
    values = {}
    for seed, by in shift.items():
        values[f"sft-seed{seed}"] = ([v + by for v in LOW], LOW)
        values[f"ppo-seed{seed}"] = ([v + by + 0.1 for v in LOW], LOW)
    (row,) = compare_methods(fixed_scores(**values), [Measure("reward", "", "reward", True)])
    assert row["by_seed"] == pytest.approx([0.1, 0.1])
    assert row["between_seeds"] == pytest.approx(0, abs=1e-6)
    backwards = {name: values[name] for name in ("sft-seed0", "sft-seed1", "ppo-seed1", "ppo-seed0")}
    (same,) = compare_methods(fixed_scores(**backwards), [Measure("reward", "", "reward", True)])
    assert same == row
    values["ppo-seed7"] = values.pop("ppo-seed1")
    assert compare_methods(fixed_scores(**values), [Measure("reward", "", "reward", True)]) == []


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
