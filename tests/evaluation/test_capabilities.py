import json

import pytest

from rlgen.errors import ConfigError, DataError
from rlgen.evaluation.capabilities import capability_verdicts, open_capabilities
from rlgen.tasks import get_task


@pytest.fixture
def qa(tmp_path):
    file = tmp_path / "qa.jsonl"
    rows = [{"prompt": f"What is {i} + {i}?", "reference": str(2 * i)} for i in range(12)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_own_rows_and_tasks_become_capabilities(qa):
    first, second = open_capabilities([f"qa={qa}@exact_match,log_perplexity", "docstring"], 11)
    assert (first.name, len(first.rows), first.max_new_tokens) == ("qa", 11, 64)
    assert [m.name for m in first.measures] == ["exact_match", "log_perplexity", "length", "truncated"]
    assert (second.name, second.source) == ("docstring", "docstring")
    assert second.max_new_tokens == get_task("docstring").max_completion_tokens
    asked = open_capabilities([f"qa={qa}@exact_match", "docstring"], 11, max_new_tokens=9)
    assert [capability.max_new_tokens for capability in asked] == [9, 9]
    assert second.measures[0].kind == "reward"


def test_own_rows_are_measured_against_their_reference_by_default(qa):
    (found,) = open_capabilities([f"qa={qa}"], 3)
    assert found.measures[0].name == "rouge_l"
    assert found.warnings == ["only 3 held-out prompts: intervals are not to be trusted below 10"]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("=x", "letters, digits"),
        ("qa=", "write it as TASK"),
        ("qa=QA@", "write it as TASK"),
        ("a/b=QA", "letters, digits"),
        ("qa=QA@exact_mach", "unknown metric exact_mach: did you mean exact_match"),
        ("qa=QA@refusal", "nothing says which answers are better"),
        ("qa=QA@language_fit", "needs a 'language' or 'target_language' column"),
        ("qa=QA@pass@2:chrf_", "add it to --metrics"),
    ],
)
def test_bad_entries_are_one_clear_line(qa, entry, message):
    with pytest.raises(ConfigError, match=message) as error:
        open_capabilities([entry.replace("QA", str(qa))], None)
    assert "\n" not in str(error.value)


def test_a_name_is_given_once_and_files_exist(qa):
    with pytest.raises(ConfigError, match="given twice"):
        open_capabilities([f"qa={qa}", f"qa={qa}"], None)
    with pytest.raises(DataError, match=r"missing\.jsonl"):
        open_capabilities(["qa=missing.jsonl"], None)


def test_few_shot_checkpoints_find_examples_for_each_capability(qa):
    (found,) = open_capabilities(["docstring"], 11, few_shot=True)
    assert "completion" in found.examples.column_names
    with pytest.raises(ConfigError, match="give --examples FILE"):
        open_capabilities([f"qa={qa}"], None, few_shot=True)
    (found,) = open_capabilities([f"qa={qa}"], None, few_shot=True, examples=found.examples, as_chat=True)
    assert found.examples is not None
    assert found.rows[0]["prompt"] == [{"role": "user", "content": "What is 0 + 0?"}]


def results(low, high, *, higher=True, n=20, samples=()):
    row = {
        **{"a": "sft", "b": "ppo", "measure": "score", "sampling": "greedy", "n": n, "mean_a": 0.5, "mean_b": 0.5},
        **{"difference": None if low is None else (low + high) / 2, "ci_low": low, "ci_high": high},
        **{"win_rate": 0.5, "tie_rate": 0.0, "p_value": None},
    }
    return {
        "measures": [{"name": "score", "kind": "metric", "higher_is_better": higher}],
        "sampling": [{"name": "greedy"}],
        "checkpoints": [{"name": "sft"}, {"name": "ppo"}],
        "comparisons": [row],
        "samples": samples,
    }


@pytest.mark.parametrize(
    ("low", "high", "verdict", "could_lose"),
    [
        (0.01, 0.05, "gained", 0.0),
        (-0.01, 0.05, "kept", 0.01),
        (-0.015, -0.005, "kept", 0.015),
        (-0.08, -0.01, "lost", 0.08),
        (-0.08, 0.03, "not shown", 0.08),
        (-0.02, 0.02, "kept", 0.02),
        (None, None, "not shown", None),
    ],
)
def test_verdicts(low, high, verdict, could_lose):
    (found,) = capability_verdicts("qa", results(low, high), 0.02)
    assert (found["verdict"], found["could_lose"]) == (verdict, could_lose)
    if verdict == "not shown" and low is not None:
        assert "a loss could be as large as 0.080" in found["sentence"]


def answered(*pairs):
    return [
        {
            "sampling": "greedy",
            "completions": {"sft": [{"scores": {"score": a}}], "ppo": [{"scores": {"score": b}}]},
        }
        for a, b in pairs
    ]


def test_equal_scores_on_few_prompts_are_no_proof_that_nothing_was_lost():
    few, many = (results(0.0, 0.0, n=n, samples=answered((0.0, 0.0), (1.0, 1.0))) for n in (16, 400))
    (found,) = capability_verdicts("qa", few, 0.02)
    assert (found["verdict"], found["gain"]) == ("not shown", 0)
    # None of 16 prompts changed: up to this share could, with a probability of 2.5% for what was seen.
    assert (1 - found["could_lose"]) ** 16 == pytest.approx(0.025, abs=1e-4)
    assert capability_verdicts("qa", many, 0.02)[0]["verdict"] == "kept"
    # Scores that are no pass or fail can lose what they range over; if they are all the same, they tell nothing.
    (ranged,) = capability_verdicts("qa", results(0.0, 0.0, n=16, samples=answered((0.3, 0.3), (0.8, 0.8))), 0.02)
    assert ranged["could_lose"] == pytest.approx(found["could_lose"] / 2, abs=1e-5)
    (flat,) = capability_verdicts("qa", results(0.0, 0.0, n=16, samples=answered((0.3, 0.3))), 0.02)
    assert (flat["verdict"], flat["could_lose"]) == ("not shown", None)


def test_where_lower_is_better_a_rise_is_a_loss():
    (found,) = capability_verdicts("qa", results(0.1, 0.3, higher=False), 0.02)
    assert (found["verdict"], found["gain"], found["could_lose"]) == ("lost", -0.2, 0.3)
