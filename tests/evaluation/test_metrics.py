import evaluate
import pytest

from rlgen.evaluation.metrics import DistinctN, RougeL, length_tokens, rouge_l, truncated, word_ngrams


def test_rouge_l_scores_rows():
    scores = rouge_l(
        ["Return the name.", "Nothing alike", [{"role": "assistant", "content": "Return the name."}], "x"],
        reference=["Return the name.", "Return the name.", "Return a name.", None],
    )
    assert scores[:2] == [1.0, 0.0]
    assert 0.5 < scores[2] < 1
    assert scores[3] is None


def test_rouge_metric_agrees_with_its_rows_and_works_with_evaluate():
    predictions, references = ["a b c", "d e"], ["a b c", "d f"]
    metric = RougeL(keep_in_memory=True)
    result = metric.compute(predictions=predictions, references=references)
    assert result["rouge_l_scores"] == rouge_l(predictions, reference=references)
    assert result["rouge_l"] == pytest.approx(sum(result["rouge_l_scores"]) / 2)
    metric.add_batch(predictions=predictions, references=references)
    assert metric.compute()["rouge_l"] == pytest.approx(result["rouge_l"])
    assert "rouge_l" in evaluate.combine([RougeL()]).compute(predictions=predictions, references=references)


def test_distinct_counts_over_all_texts():
    metric = DistinctN(keep_in_memory=True)
    assert metric.compute(predictions=["a b", "a b"], n=2)["distinct_2"] == 0.5
    assert metric.compute(predictions=["a b", "c d"], n=2)["distinct_2"] == 1.0
    assert metric.compute(predictions=["a", ""], n=2)["distinct_2"] == 1.0
    assert word_ngrams("A b C", 2) == [("a", "b"), ("b", "c")]


def test_length_and_truncation():
    assert length_tokens(["x", "y"], completion_ids=[[1, 2], []]) == [2.0, 0.0]
    assert truncated(["x", "y"], finished=[True, False]) == [0.0, 1.0]
