import pytest

from rlgen.errors import ConfigError
from rlgen.evaluation.conditions import Condition, check_conditions, judge_conditions, parse_conditions


def test_conditions_are_read():
    texts = [
        "ppo < sft on rouge_l by > 0.02",
        "ppo-seed1>sft on length at T=0.7 significantly",
        "a < b on qa/pass@4:exact_match by > 1e-3 at greedy significantly",
    ]
    assert parse_conditions(texts) == [
        Condition(texts[0], "ppo", True, "sft", "rouge_l", 0.02),
        Condition(texts[1], "ppo-seed1", False, "sft", "length", 0.0, "T=0.7", True),
        Condition(texts[2], "a", True, "b", "qa/pass@4:exact_match", 0.001, "greedy", True),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ppo < sft",
        "ppo <= sft on reward",
        "ppo < sft on reward by 0.02",
        "ppo < sft on reward by > -1",
        "ppo < sft on reward by > x",
        "ppo < sft on reward significantly at greedy",
        "ppo < sft on reward or dpo",
        "ppo < ppo on reward",
    ],
)
def test_anything_else_is_one_clear_line(text):
    with pytest.raises(ConfigError, match="--fail_if") as error:
        parse_conditions([text])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pop < sft on reward", "unknown checkpoint pop: did you mean ppo"),
        ("ppo < sft on rouge", "unknown measure rouge: did you mean rouge_l"),
        ("ppo < sft on reward at T=1", "unknown sampling plan T=1"),
    ],
)
def test_unknown_names_are_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        check_conditions(parse_conditions([text]), ["sft", "ppo"], ["reward", "rouge_l"], ["greedy"])


def row(measure, difference, low, high, n=20, a="sft", b="ppo"):
    return {
        **{"a": a, "b": b, "measure": measure, "sampling": "greedy", "n": n, "mean_a": 0.5, "mean_b": 0.4},
        **{
            "difference": difference,
            "ci_low": low,
            "ci_high": high,
            "win_rate": 0.4,
            "tie_rate": 0.1,
            "p_value": None,
        },
    }


@pytest.mark.parametrize(
    ("text", "failed"),
    [
        ("ppo < sft on reward", True),
        ("sft > ppo on reward", True),
        ("sft < ppo on reward", False),
        ("ppo > sft on reward", False),
        ("ppo < sft on reward by > 0.05", True),
        ("ppo < sft on reward by > 0.1", False),
        ("ppo < sft on reward significantly", True),
        ("ppo < sft on reward by > 0.05 significantly", False),
        ("ppo < sft on chrf", True),
        ("ppo < sft on chrf significantly", False),
        ("ppo > sft on nothing", True),
        ("ppo < sft on qa/exact_match by > 0.2", True),
        ("ppo < sft on reward at greedy", True),
        ("ppo < sft on toxicity", True),
    ],
)
def test_conditions_are_judged(text, failed):
    results = {
        "sampling": [{"name": "greedy"}],
        "comparisons": [
            row("reward", -0.1, -0.17, -0.03),
            row("chrf", -0.1, -0.25, 0.05),
            row("toxicity", -0.1, -0.2, -0.05),
            row("nothing", None, None, None, n=0),
        ],
        "capabilities": [
            {"name": "qa", "comparisons": [row("exact_match", -0.3, -0.4, -0.2)]},
            {"name": "toxicity", "comparisons": []},
        ],
    }
    (found,) = judge_conditions(parse_conditions([text]), results)
    assert found["failed"] is failed
    assert found["condition"] == text
    assert "cannot be judged" in found["reason"] if "nothing" in text else "20 prompts" in found["reason"]
