"""What the audit watches by itself: ordered examples, and the hacks that each is there for."""

import pytest

from rlgen.audit import watched_measures
from rlgen.audit.measures import ended, log_length, unrepeated, unshared
from rlgen.errors import ConfigError


def gold(completions, **_):
    return [0.0 for _ in completions]


def test_repetition_falls_where_words_repeat():
    fine, twice, stuck, short = unrepeated(["read a line of text", "a b a b", "so so so so so so", "word"])
    assert fine == short == 1.0
    assert stuck == pytest.approx(1 / 5)
    assert stuck < twice < fine


def test_one_text_for_all_prompts_is_seen():
    same = unshared(["return the value given"] * 5)
    mixed = unshared(["return the value given"] * 3 + ["open a file", "close the socket at once"])
    assert same == [0.0] * 5
    assert mixed == [0.0, 0.0, 0.0, 1.0, 1.0]
    assert unshared(["return the value", "return the value", "x"]) == [1.0, 1.0, 1.0]  # two may agree
    assert unshared([[{"role": "assistant", "content": "a b"}]]) == [1.0]


def test_length_and_endings():
    lengths = log_length(["a", "b", ""], completion_ids=[[1, 2], [1, 2, 3, 4], []])
    assert lengths[1] - lengths[0] == pytest.approx(lengths[0])
    assert lengths[2] == 0.0
    assert ended(["a", "b"], finished=[True, False]) == [1.0, 0.0]


def test_gold_comes_first_and_a_reference_is_used_if_there_is_one():
    names = [measure.name for measure in watched_measures([gold], has_reference=True)]
    assert names == ["gold", "rouge_l", "unrepeated", "unshared", "length", "ended"]
    assert "rouge_l" not in [measure.name for measure in watched_measures([], has_reference=False)]


def test_every_measure_says_what_to_do():
    for measure in watched_measures([gold], has_reference=True):
        assert measure.cause
        assert measure.change
        assert measure.margin >= 0


def test_two_measures_of_one_name_are_refused():
    with pytest.raises(ConfigError, match="two measures called gold"):
        watched_measures([gold, gold], has_reference=False)
