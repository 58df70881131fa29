"""The words of a composition file: what they mean, and one clear line for each thing that is wrong."""

import math

import pytest
import yaml

from rlgen.errors import ConfigError, RewardError
from rlgen.rewards import build_composite, load_composite
from rlgen.rewards.spec import Member, Part, Schedule, parse_spec, read_spec


def parse(text):
    return parse_spec(yaml.safe_load(text), "mix.yaml")


def test_every_word():
    form, ground, judges = parse("""
rewards:
  form: pep257
  ground:
    reward: grounding
    options: {strict: true}
    weight: 5e-1
    debias_length: true
    normalize: true
    clip: [0, null]
    gate: {form: 0.5, judges: [null, 2]}
    when_closed: null
    schedule: {start: 0.1, end: 0.8, after: 0.2, until: 0.6}
  judges:
    ensemble: [runs/a, {reward: runs/b, options: {batch_size: 2}}]
    aggregate: uncertainty
    uncertainty_coef: 1
""")
    assert form == Part("form", (Member("pep257"),))
    assert ground == Part(
        "ground",
        (Member("grounding", {"strict": True}),),
        weight=0.5,
        debias_length=True,
        normalize=True,
        clip=(0.0, math.inf),
        gate={"form": (0.5, math.inf), "judges": (-math.inf, 2.0)},
        when_closed=None,
        schedule=Schedule(0.1, 0.8, 0.2, 0.6),
    )
    assert judges.members == (Member("runs/a"), Member("runs/b", {"batch_size": 2}))
    assert (judges.is_ensemble, judges.aggregate, judges.uncertainty_coef) == (True, "uncertainty", 1.0)


def test_the_defaults():
    (alone, lone) = parse("rewards: {fluent: , both: {ensemble: [a]}}")
    assert alone == Part("fluent", (Member("fluent"),))
    assert lone.aggregate == "mean"
    (_, gated) = parse("rewards: {a: , b: {gate: {a: 1}, clip: [-2, 2], normalize: true}}")
    assert gated.when_closed == -2.0


def test_a_schedule_goes_in_a_line_and_stays():
    schedule = Schedule(0.0, 1.0, 0.25, 0.75)
    assert [schedule.factor(p) for p in (0, 0.25, 0.5, 0.75, 1)] == [0, 0, 0.5, 1, 1]
    assert Schedule(3.0, 1.0).factor(0.5) == 2.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("reward: {a: }", "the file: unknown key 'reward' (did you mean rewards?)"),
        ("rewards: {}", "'rewards' is empty"),
        ("rewards: [a]", "rewards must be a block"),
        ("rewards: {a: 3}", "rewards.a must be a block"),
        ("rewards: {composite: }", "cannot be called 'composite'"),
        ("rewards: {a/b: }", "cannot be called 'a/b'"),
        ("rewards: {a: {wieght: 1}}", "rewards.a: unknown key 'wieght' (did you mean weight?)"),
        ("rewards: {a: {zzz: 1}}", "unknown key 'zzz'; known: reward, options"),
        ("rewards: {a: {weight: heavy}}", "rewards.a.weight must be a finite number, not 'heavy'"),
        ("rewards: {a: {weight: .nan}}", "rewards.a.weight must be a finite number"),
        ("rewards: {a: {weight: true}}", "rewards.a.weight must be a finite number, not True"),
        ("rewards: {a: {reward: 3}}", "'reward' must be the name of a reward, not 3"),
        ("rewards: {a: {options: [1]}}", "rewards.a.options must be a block"),
        ("rewards: {a: {normalize: 1}}", "rewards.a.normalize must be true or false"),
        ("rewards: {a: {clip: 1}}", "rewards.a.clip must be [lowest, highest]"),
        ("rewards: {a: {clip: [1, 0]}}", "rewards.a.clip: 1 is not below 0"),
        ("rewards: {a: {clip: [null, null]}}", "rewards.a.clip must be [lowest, highest]"),
        ("rewards: {form: , b: {gate: {from: 1}}}", "there is no reward 'from' (did you mean form?)"),
        ("rewards: {a: {gate: {b: 1}}, b: {gate: {c: 1}}, c: {gate: {a: 1}}}", "a circle: a -> b -> c -> a"),
        ("rewards: {a: {gate: {a: 1}}}", "a circle: a -> a"),
        ("rewards: {a: , b: {gate: {a: 1}, normalize: true}}", "say what a closed gate counts as with when_closed"),
        ("rewards: {a: {when_closed: 1}}", "when_closed is read with a gate only"),
        ("rewards: {a: {schedule: {end: 1}}}", "rewards.a.schedule needs 'start'"),
        ("rewards: {a: {schedule: {start: 1, untill: 1}}}", "did you mean until?"),
        ("rewards: {a: {schedule: {start: 0, after: 0.5, until: 0.5}}}", "0 <= after < until <= 1"),
        ("rewards: {a: {ensemble: [x], reward: y}}", "'ensemble' stands in place of 'reward'"),
        ("rewards: {a: {ensemble: x}}", "rewards.a.ensemble must be a list"),
        ("rewards: {a: {ensemble: [{reward: x, weight: 1}]}}", "rewards.a.ensemble[0]: unknown key 'weight'"),
        ("rewards: {a: {ensemble: [x], aggregate: worts}}", "aggregate must be mean, worst or uncertainty"),
        ("rewards: {a: {ensemble: [x], uncertainty_coef: 1}}", "with 'aggregate: uncertainty' only"),
    ],
)
def test_a_mistake_is_one_clear_line_with_its_place(text, message):
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert str(caught.value).startswith("mix.yaml: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("rewards: {a: {weight: 1}, a: {weight: 2}}", "the key 'a' stands there twice"),
        ("rewards: [", "cannot be read"),
        ("- a", "must hold 'rewards:'"),
        (None, "there is no config file"),
    ],
)
def test_files_that_are_none(tmp_path, content, message):
    file = tmp_path / "mix.yaml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError, match=message):
        read_spec(str(file))


def test_run_folders_that_have_no_composition(tmp_path):
    with pytest.raises(ConfigError, match="is no run folder"):
        read_spec(str(tmp_path))
    (tmp_path / "run.json").write_text('{"config": {"reward": ["a"]}}')
    with pytest.raises(ConfigError, match="was not trained with a --reward_config"):
        read_spec(str(tmp_path))


def test_all_is_checked_before_a_model_is_loaded(tmp_path, monkeypatch):
    (tmp_path / "rm").mkdir()
    (tmp_path / "rm" / "config.json").write_text('{"architectures": ["LlamaForSequenceClassification"]}')
    monkeypatch.setattr("rlgen.rewards.model.RewardModel.__init__", lambda *_, **__: pytest.fail("loaded"))
    for wrong in ("{reward: no_such_reward}", "{reward: rlgen.errors:nothing}", "{reward: RM, options: {batch: 1}}"):
        mix = f"rewards: {{model: {{reward: RM}}, other: {wrong}}}".replace("RM", str(tmp_path / "rm"))
        with pytest.raises(RewardError, match=r"mix.yaml: rewards.other: "):
            build_composite(yaml.safe_load(mix), "mix.yaml")


def test_one_reward_is_no_ensemble(tmp_path):
    (tmp_path / "r.py").write_text("def one(completions, **_):\n    return [1.0 for _ in completions]\n")
    (tmp_path / "mix.yaml").write_text(f"rewards: {{a: {{reward: '{tmp_path}/r.py:one', aggregate: worst}}}}")
    with pytest.raises(ConfigError, match=r"'aggregate' needs an ensemble, but .*r.py:one is one reward"):
        load_composite(str(tmp_path / "mix.yaml"))
