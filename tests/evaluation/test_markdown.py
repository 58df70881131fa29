import re

from rlgen.evaluation.markdown import summary_markdown


def tables(text: str) -> list[list[str]]:
    return [block.splitlines() for block in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)]


def test_the_summary_holds_what_a_reviewer_asks_for(fake_results):
    results = fake_results()
    results |= {
        "versions": {"rlgen": "0.1.0"},
        "conditions": [{"condition": "ppo < sft on reward", "failed": False, "reason": "does not hold: 0.9"}],
        "capabilities": [
            {
                "name": "qa",
                "measure": "exact_match",
                "verdicts": [
                    {
                        **{"a": "sft", "b": "ppo", "sampling": "greedy", "verdict": "not shown", "gain": -0.01},
                        **{"ci_low": -0.06, "ci_high": 0.04, "could_lose": 0.06},
                    }
                ],
            }
        ],
    }
    text = summary_markdown(results, "rlgen compare --checkpoints sft=a ppo=b")
    for sentence in results["verdict"]:
        assert sentence in text
    assert "| qa | ppo against sft | not shown | exact_match -0.010 [-0.060, +0.040] | 0.060 |" in text
    assert "passed: fail if `ppo < sft on reward`" in text
    assert "```\nrlgen compare --checkpoints sft=a ppo=b\n```" in text
    row = next(
        r
        for r in results["comparisons"]
        if (r["a"], r["b"], r["measure"], r["sampling"]) == ("sft", "ppo", "reward", "greedy")
    )
    assert f"| ppo − sft | reward | {row['difference']:+.3f} [" in text
    assert f"{row['p_holm']:.3g}" in text
    # The pair that stands the other way round in results.json is turned, interval and all.
    other = next(
        r
        for r in results["comparisons"]
        if (r["a"], r["b"], r["measure"], r["sampling"]) == ("ppo", "dpo", "reward", "greedy")
    )
    assert f"| ppo − dpo | reward | {-other['difference']:+.3f} [{-other['ci_high']:+.3f}, " in text
    won = next(r for r in results["win_rates"] if (r["a"], r["b"], r["sampling"]) == ("ppo", "dpo", "greedy"))
    assert f"| ppo over dpo | {1 - won['win_rate']:.3f} [{1 - won['ci_high']:.3f}, " in text
    assert "-0.000" not in text
    for table in tables(text):
        assert len({line.count("|") - line.count(r"\|") for line in table}) == 1


def test_one_checkpoint_has_no_pairs_and_bars_in_names_break_no_table(fake_results):
    results = fake_results(names=("sft",))
    for measure in results["measures"]:
        if measure["name"] == "rouge_l":
            measure["name"] = "a|b"
    for by_plan in results["summary"].values():
        by_plan["greedy"]["a|b"] = by_plan["greedy"].pop("rouge_l")
    text = summary_markdown(results)
    assert "Paired differences" not in text
    assert r"| a\|b |" in text
    assert "```" not in text
