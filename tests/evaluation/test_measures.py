import pytest
from datasets import Dataset

from rlgen.data import conversational
from rlgen.errors import ConfigError, RewardError
from rlgen.evaluation.measures import (
    Measure,
    check_unique,
    choose_measures,
    combined,
    diagnostic_measures,
    metric_measures,
    reward_measures,
    score_completions,
    score_side_by_side,
)
from rlgen.generation import Completion


def answer(text: str) -> Completion:
    return Completion(text, [1] * len(text), [0.0] * len(text), True)


def test_rewards_see_what_trl_gives_them_and_scores_keep_their_prompts():
    seen = {}

    def reward(prompts, completions, completion_ids, color, **columns):
        """Count letters."""
        seen.update(prompts=prompts, color=color, ids=completion_ids, others=set(columns))
        return [len(completion[0]["content"]) for completion in completions]

    rows = Dataset.from_dict({"prompt": [conversational("p"), conversational("q")], "color": ["red", "blue"]})
    scores = score_completions(reward, rows, [[answer("a"), answer("bb")], [answer("ccc")]])
    assert scores == [[1.0, 2.0], [3.0]]
    assert seen["color"] == ["red", "red", "blue"]
    assert seen["prompts"][2] == conversational("q")
    assert [len(ids) for ids in seen["ids"]] == [1, 2, 3]
    assert "completion" not in seen["others"]


def test_plain_prompts_get_plain_completions_and_async_rewards_are_awaited():
    async def shout(completions, **_):
        return [1 if text.isupper() else None for text in completions]

    rows = Dataset.from_dict({"prompt": ["p", "q"]})
    assert score_completions(shout, rows, [[answer("A")], [answer("b")]]) == [[1.0], [None]]


def test_wrong_number_of_scores_is_one_clear_error():
    rows = Dataset.from_dict({"prompt": ["p"]})

    def bad(completions, **_):
        return [1.0, 2.0]

    with pytest.raises(RewardError, match="bad"):
        score_completions(bad, rows, [[answer("A")]])


def test_what_all_checkpoints_wrote_for_a_prompt_is_scored_side_by_side():
    seen = []

    def length(prompts, completions, color, **_):
        seen.append(list(zip(prompts, completions, color, strict=True)))
        return [len(text) for text in completions]

    rows = Dataset.from_dict({"prompt": ["p", "q", "r"], "color": ["red", "blue", "green"]})
    authors = {
        ("greedy", "sft"): [[answer("a")], [answer("bb")], [answer("ccc")]],
        ("T=1", "ppo"): [[answer("d" * 4), answer("e" * 5)], [answer("f" * 6), answer("g" * 7)], [answer("h")] * 2],
    }
    scores = score_side_by_side(length, rows, authors, range(1, 3))
    assert scores == {("greedy", "sft"): [[2], [3]], ("T=1", "ppo"): [[6, 7], [1, 1]]}
    (call,) = seen
    assert [row[0] for row in call] == ["q", "q", "q", "r", "r", "r"]
    assert call[1] == ("q", "f" * 6, "blue")


def test_an_error_names_whose_completion_it_was():
    def picky(completions, **_):
        return [float("nan") if text == "bad" else 1.0 for text in completions]

    def crashing(completions, **_):
        return [1 / (text != "bad") for text in completions]

    def short(completions, **_):
        return [1.0]

    rows = Dataset.from_dict({"prompt": ["p", "q"]})
    authors = {
        ("greedy", "sft"): [[answer("a")], [answer("b")]],
        ("T=1", "ppo"): [[answer("c"), answer("d")], [answer("e"), answer("bad")]],
    }
    for reward in (picky, crashing):
        for part in (range(2), range(1, 2)):
            with pytest.raises(RewardError, match=r"row \d is what ppo wrote for held-out prompt 1 \(T=1\)") as error:
                score_side_by_side(reward, rows, authors, part)
            assert reward.__name__ in str(error.value)
    with pytest.raises(RewardError, match="'short' returned 1 values for 6 completions"):
        score_side_by_side(short, rows, authors, range(2))


def test_sum_skips_what_does_not_apply():
    whole = Measure("reward", "", "reward", True, terms=(("a", 0.5), ("b", 2.0)))
    samples = [[answer("x"), answer("y")], [answer("z")]]
    scores = {"a": [[1.0, None], [None]], "b": [[2.0, None], [3.0]]}
    assert combined(whole, scores, samples) == [[4.5, None], [6.0]]


MIX = """
rewards:
  polite: {reward: FILE:polite, weight: 2}
  long: {reward: FILE:long, gate: {polite: 1}}
"""


def test_a_composition_is_measured_from_the_raw_scores_of_its_parts(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "def polite(completions, **_):\n    return [float('please' in c) for c in completions]\n"
        "def long(completions, **_):\n    return [float(len(c)) for c in completions]\n"
    )
    mix = tmp_path / "mix.yaml"
    mix.write_text(MIX.replace("FILE", str(file)))
    rows = Dataset.from_dict({"prompt": ["p", "q"]})
    options = {"reward_weights": None, "reward_model": None, "metrics": [], "kl_reference": None}
    whole, *parts = choose_measures(None, rows, reward=None, reward_config=str(mix), **options)[:3]
    assert [measure.name for measure in (whole, *parts)] == ["reward", "polite", "long"]
    samples = [[answer("please"), answer("now")], [answer("yes please")]]
    scores = {measure.name: score_completions(measure.score, rows, samples) for measure in parts}
    assert combined(whole, scores, samples) == [[2 + 6, 0.0], [2 + 10]]
    with pytest.raises(ConfigError, match="one or the other"):
        choose_measures(None, rows, reward=["x"], reward_config=str(mix), **options)
    mix.write_text(MIX.replace("FILE", str(file)).replace("weight: 2", "normalize: true"))
    with pytest.raises(ConfigError, match="give the run's folder as --reward_config"):
        choose_measures(None, rows, reward=None, reward_config=str(mix), **options)


def test_one_plain_reward_is_its_own_sum():
    def reward(completions, **_):
        return [0.0]

    assert [measure.name for measure in reward_measures([reward], [1.0])] == ["reward"]
    names = [measure.name for measure in reward_measures([reward, reward], [1.0, 0.5])]
    assert names == ["reward", "reward_2", "reward_3"]
    assert reward_measures([reward], [0.5])[0].terms == (("reward_2", 0.5),)
    assert reward_measures([], []) == []


def test_metrics_default_to_the_tasks_and_need_their_columns():
    def fail(name):
        raise AssertionError(name)

    names = [m.name for m in metric_measures(None, {}, fail, ["prompt", "reference"])]
    assert names == ["rouge_l"]
    assert metric_measures(None, {}, fail, ["prompt"]) == []
    with pytest.raises(ConfigError, match="rouge_l needs a 'reference'"):
        metric_measures(["rouge_l"], {}, fail, ["prompt"])


def test_names_must_differ():
    measures = diagnostic_measures("sft")
    assert [measure.name for measure in measures] == ["length", "truncated", "kl_sft", "token_kl_sft"]
    with pytest.raises(ConfigError, match="'length' is named twice"):
        check_unique([*measures, measures[0]])


def test_own_rewards_and_metrics_come_from_files(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "def polite(completions, **_):\n    'Says please.'\n    return [float('please' in c) for c in completions]\n"
        "def broken(completions, **_):\n    raise ValueError('no')\n"
    )
    rows = Dataset.from_dict({"prompt": ["p"], "reference": ["please"]})
    options = {"reward_weights": None, "reward_model": None, "metrics": None, "kl_reference": None}
    measures = choose_measures(None, rows, reward=[f"{file}:polite"], **options)
    assert [measure.name for measure in measures] == ["polite", "rouge_l", "length", "truncated"]
    assert measures[0].description == "Says please."
    with pytest.raises(RewardError, match="broken"):
        choose_measures(None, rows, reward=[f"{file}:broken"], **options)
    with pytest.raises(ConfigError, match="no reward"):
        choose_measures(None, rows, reward=None, **(options | {"reward_weights": [1.0]}))
