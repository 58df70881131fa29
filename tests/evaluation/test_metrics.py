import math
from pathlib import Path

import pytest

from rlgen.errors import ConfigError
from rlgen.evaluation.metrics import (
    METRICS,
    exact_match,
    length_tokens,
    missing_column,
    parse_pass,
    pass_group,
    rouge_l,
    truncated,
    unknown_metric,
)


def test_rouge_l_scores_rows():
    scores = rouge_l(
        ["Return the name.", "Nothing alike", [{"role": "assistant", "content": "Return the name."}], "x"],
        reference=["Return the name.", "Return the name.", "Return a name.", None],
    )
    assert scores[:2] == [1.0, 0.0]
    assert 0.5 < scores[2] < 1
    assert scores[3] is None


@pytest.mark.parametrize("name", ["rouge_1", "rouge_2", "rouge_l", "rouge_lsum", "bleu", "chrf", "exact_match"])
def test_reference_metrics_order_answers_and_skip_rows_without_reference(name):
    reference = "Return the name of the open file."
    answers = [reference, "Return the name of a file.", "Bananas, mostly.", "x"]
    same, near, far, none = METRICS[name].score(answers, reference=[reference] * 3 + [None])
    assert (same, none) == (pytest.approx(1.0), None)
    assert same > near >= far >= 0
    assert near > far or name == "exact_match"


def test_the_best_of_several_references_counts():
    references = [["no", "a b c"], ["a  b", "z"]]
    assert rouge_l(["a b c", "a b"], reference=references) == [1.0, 1.0]
    assert exact_match(["a b c", "a b"], reference=references) == [1.0, 1.0]


def test_length_and_truncation():
    assert length_tokens(["x", "y"], completion_ids=[[1, 2], []]) == [2.0, None]  # an endpoint tells no tokens
    assert truncated(["x", "y"], finished=[True, False]) == [0.0, 1.0]


def test_groups_say_nothing_about_one_sample():
    for name in ("self_bleu", "sample_distinct_1", "sample_distinct_2"):
        group = METRICS[name].group
        assert group(["a b c d e"]) is None
        alike, different = group(["a b c d e"] * 2), group(["a b c d e", "f g h i j"])
        assert alike > different if name == "self_bleu" else alike < different


def test_pass_at_k_reads_another_measure():
    assert parse_pass("pass@4:exact_match") == (4, "exact_match")
    assert parse_pass("rouge_l") is None
    group = pass_group(2, "exact_match")
    assert group([1.0, 0.0, 0.0]) == pytest.approx(2 / 3)
    assert group([1.0]) is None
    assert group([1.0, None]) is None
    with pytest.raises(ConfigError, match=r"pass@2:exact_match: .*not 0\.5; name a measure that is pass or fail"):
        group([0.5, 1.0])
    for wrong in ("pass@0:x", "pass@2", "pass@:x"):
        with pytest.raises(ConfigError, match="write it as pass@K:MEASURE"):
            parse_pass(wrong)


@pytest.mark.parametrize(
    ("name", "near"), [("perplexity", "log_perplexity"), ("rogue_l", "rouge_l"), ("mine2", "mine")]
)
def test_an_unknown_name_gets_the_nearest_one(name, near):
    assert str(unknown_metric(name, ["mine"])) == f"unknown metric {name}: did you mean {near}?"
    assert "pass@K:MEASURE" in str(unknown_metric("qqqq"))


def test_columns_that_are_missing_are_named():
    assert "needs a 'language' or 'target_language' column" in missing_column("language_fit", ["prompt"])
    assert "needs a 'reference' or 'completion' column" in missing_column("bleu", ["prompt"])
    assert missing_column("language_fit", ["prompt", "target_language"]) is None
    assert missing_column("refusal", ["prompt"]) is None


def test_every_metric_says_what_it_is():
    for name, metric in METRICS.items():
        assert metric.description.endswith("."), name
        assert metric.kind == ("diagnostic" if metric.higher_is_better is None else "metric")
        assert f"`{name}`" in (Path(__file__).parents[2] / "docs" / "results.md").read_text(encoding="utf-8")
    assert not math.isnan(METRICS["bleu"].score(["a"], reference=["b"])[0])
