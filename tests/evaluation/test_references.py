import itertools
import json
import math

import evaluate
import numpy as np
import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st

from rlgen.errors import ConfigError
from rlgen.evaluation.modules import module_names, module_path
from rlgen.evaluation.references import (
    Bleu,
    Chrf,
    DistinctN,
    ExactMatch,
    PassAtK,
    Rouge,
    SelfBleu,
    corpus_score,
    pass_at_k,
    word_ngrams,
)

TEXTS = ["The cat sat on the mat today.", "It rains in the north of the country."]
REFERENCES = ["The cat sat on a mat today.", "It rained in the north of our country."]


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory):
    """Keep what `evaluate` copies and writes out of the user's cache."""
    folder = tmp_path_factory.mktemp("evaluate")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HF_MODULES_CACHE", "HF_EVALUATE_CACHE", "HF_METRICS_CACHE"):
            patch.setattr(evaluate.config, name, folder / name)
        yield folder


def test_rouge_and_its_rows():
    metric = Rouge(keep_in_memory=True)
    result = metric.compute(predictions=["a b c", "d e"], references=["a b c", "d f"])
    assert result["rouge_l_scores"] == [1.0, 0.5]
    assert (result["rouge_1"], result["rouge_2"]) == (0.75, 0.5)
    metric.add_batch(predictions=["a b c", "d e"], references=["a b c", "d f"])
    assert metric.compute() == result
    lines = metric.compute(predictions=["x y\na b"], references=["a b\nx y"])
    assert lines["rouge_lsum"] == 1.0 > lines["rouge_l"]


@pytest.mark.parametrize(("metric", "name"), [(Bleu, "bleu"), (Chrf, "chrf")])
def test_corpus_scores_are_sacrebleus(metric, name):
    result = metric(keep_in_memory=True).compute(predictions=TEXTS, references=REFERENCES)
    corpus = getattr(sacrebleu, f"corpus_{name}")(TEXTS, [REFERENCES]).score
    rows = [
        getattr(sacrebleu, f"sentence_{name}")(text, [target]).score
        for text, target in zip(TEXTS, REFERENCES, strict=True)
    ]
    assert result[name] == pytest.approx(corpus / 100)
    assert result[f"{name}_scores"] == pytest.approx([row / 100 for row in rows])
    assert corpus_score(name, TEXTS, REFERENCES) == pytest.approx(corpus / 100)


@pytest.mark.parametrize("metric", [Rouge, Bleu, Chrf, ExactMatch])
def test_rows_may_have_different_numbers_of_references(metric):
    name = next(iter(metric(keep_in_memory=True).compute(predictions=["a"], references=["a"])))
    result = metric(keep_in_memory=True).compute(
        predictions=TEXTS, references=[[REFERENCES[0]], [REFERENCES[1], TEXTS[1]]]
    )
    assert result[f"{name}_scores"][1] == pytest.approx(1.0)
    assert result[f"{name}_scores"][0] < 1


def test_exact_match_and_what_it_may_ignore():
    metric = ExactMatch(keep_in_memory=True)
    pairs = {"predictions": ["Paris ", "paris.", "Rome"], "references": ["Paris", "Paris", ["Milan", "Rome"]]}
    pairs["references"] = [[r] if isinstance(r, str) else r for r in pairs["references"]]
    assert metric.compute(**pairs)["exact_match_scores"] == [1, 0, 1]
    assert metric.compute(**pairs, ignore_case=True, ignore_punctuation=True)["exact_match"] == 1.0


@given(st.lists(st.sampled_from([0, 1]), min_size=1, max_size=7), st.integers(1, 7))
def test_pass_at_k_is_the_share_of_draws_with_a_pass(passed, k):
    if k > len(passed):
        with pytest.raises(ValueError, match="samples"):
            pass_at_k(passed, k)
        return
    draws = list(itertools.combinations(passed, k))
    assert pass_at_k(passed, k) == pytest.approx(sum(any(draw) for draw in draws) / len(draws))


def test_pass_at_k_as_a_module():
    result = PassAtK(keep_in_memory=True).compute(predictions=[[1, 0, 0, 0], [0, 0], [1, 1]], k=[1, 2])
    assert result["pass@1_scores"] == pytest.approx([0.25, 0, 1])
    assert result["pass@2"] == pytest.approx((0.5 + 0 + 1) / 3)
    with pytest.raises(ValueError, match=r"1 or 0, not 0\.5"):
        PassAtK(keep_in_memory=True).compute(predictions=[[0.5, 1]])


def test_distinct_counts_over_all_texts():
    metric = DistinctN(keep_in_memory=True)
    assert metric.compute(predictions=["a b", "a b"], n=2)["distinct_2"] == 0.5
    assert metric.compute(predictions=["a b", "c d"], n=2)["distinct_2"] == 1.0
    assert metric.compute(predictions=["a", ""], n=2)["distinct_2"] == 1.0
    assert word_ngrams("A b C", 2) == [("a", "b"), ("b", "c")]


def test_self_bleu_compares_each_text_with_the_others():
    metric = SelfBleu(keep_in_memory=True)
    assert metric.compute(predictions=[TEXTS[0]] * 3)["self_bleu"] == pytest.approx(1.0)
    mixed = [TEXTS[0], REFERENCES[0], TEXTS[1]]
    rows = [
        sacrebleu.sentence_bleu(text, [other for j, other in enumerate(mixed) if j != i]).score
        for i, text in enumerate(mixed)
    ]
    assert metric.compute(predictions=mixed)["self_bleu"] == pytest.approx(np.mean(rows) / 100)
    with pytest.raises(ValueError, match="two or more"):
        metric.compute(predictions=["one"])


def test_every_module_loads_from_its_folder(own_cache):
    assert module_names() == ["bleu", "chrf", "distinct", "exact_match", "pass_at_k", "rouge", "self_bleu"]
    for name in module_names():
        metric = evaluate.load(module_path(name))
        assert isinstance(metric, evaluate.Metric)
    assert (own_cache / "HF_MODULES_CACHE" / "evaluate_modules" / "metrics" / "rlgen_rouge").is_dir()
    with pytest.raises(ConfigError, match="did you mean rouge"):
        module_path("rogue")


def test_loaded_modules_combine_with_own_ones_and_are_saved(tmp_path):
    both = evaluate.combine([evaluate.load(module_path("rouge")), module_path("chrf"), ExactMatch(), DistinctN()])
    result = both.compute(predictions=TEXTS, references=REFERENCES)
    assert result["chrf"] == pytest.approx(corpus_score("chrf", TEXTS, REFERENCES))
    assert {"rouge_l", "exact_match", "distinct_2"} <= set(result)
    file = evaluate.save(tmp_path / "scores.json", **result)
    saved = json.loads(file.read_text())
    assert math.isclose(saved["rouge_l"], result["rouge_l"])
