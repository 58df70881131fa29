"""A composition against a slow computation from its formulas; what it learns, keeps, logs and explains."""

import copy
import json
import math
import pickle
import statistics
from collections import defaultdict
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlgen.errors import RewardError
from rlgen.rewards import CompositeReward, call_reward, explainable_rewards
from rlgen.rewards.check import checked
from rlgen.rewards.composite import ENOUGH_POINTS
from rlgen.rewards.spec import parse_spec


def column(name):
    """A reward that returns a column of the rows."""

    def reward(completions, **columns):
        return columns[name]

    return checked(reward, name)


def compose(blocks, **functions):
    parts = parse_spec({"rewards": blocks}, "mix")
    given = {part.name: functions.get(part.name) or [column(part.name)] for part in parts}
    return CompositeReward(parts, given)


class Trainer:
    """What stands behind `log_metric` in TRL's trainer."""

    def __init__(self, training=True, step=0, steps=0):
        self.model = SimpleNamespace(training=training)
        self.state = SimpleNamespace(global_step=step, max_steps=steps)
        self.logged, self.extra = defaultdict(list), {}

    def log_metric(self, name, value):
        self.logged[name].append(value)

    def log_extra(self, name, values):
        self.extra[name] = values

    def __call__(self, reward, completions, **columns):
        extras = {"trainer_state": self.state, "log_metric": self.log_metric, "log_extra": self.log_extra}
        return reward(["p"] * len(completions), completions, **columns, **extras)


FULL = {
    "form": {"weight": 0.3},
    "ground": {
        "weight": 0.5,
        "debias_length": True,
        "normalize": True,
        "clip": [-1, 1.5],
        "gate": {"form": 0.5},
        "schedule": {"start": 0.1, "end": 1.0, "until": 0.5},
    },
}
numbers = st.one_of(st.none(), st.floats(-10, 10))
row = st.tuples(numbers, numbers, st.integers(0, 60))
batches = st.lists(st.lists(row, min_size=1, max_size=12), min_size=1, max_size=4)


def by_the_formulas(seen, batch, progress):
    """The composition FULL once more, with plain loops over everything that was seen."""
    points = [(length, ground) for _, ground, length in seen if ground is not None]
    slope = center = 0.0
    if len(points) >= ENOUGH_POINTS and len({x for x, _ in points}) > 1:
        mean_x, mean_y = (statistics.fmean(axis) for axis in zip(*points, strict=True))
        slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)
    if points:
        center = statistics.fmean(x for x, _ in points)
    factor = 0.1 + min(progress / 0.5, 1.0) * 0.9
    rewards = []
    for form, ground, length in batch:
        terms = [] if form is None else [0.3 * form]
        if ground is not None:
            debiased = ground - slope * (length - center)
            terms.append((0.5 * factor, debiased, form is not None and form >= 0.5))
        rewards.append(terms)
    return rewards


@settings(deadline=None, max_examples=60)
@given(batches, st.floats(0, 1))
def test_one_batch_after_the_other_against_the_formulas(batches, progress):
    reward, seen, debiased_so_far = compose(FULL), [], []
    for batch in batches:
        seen += batch
        values = Trainer(step=progress, steps=1)(
            reward,
            ["x" * length for *_, length in batch],
            form=[row[0] for row in batch],
            ground=[row[1] for row in batch],
        )
        expected = by_the_formulas(seen, batch, progress)
        debiased_so_far += [term[1] for terms in expected for term in terms if isinstance(term, tuple)]
        mean = statistics.fmean(debiased_so_far) if debiased_so_far else 0.0
        deviation = statistics.pstdev(debiased_so_far) if debiased_so_far else 0.0
        for terms, value in zip(expected, values, strict=True):
            total = None
            for term in terms:
                if isinstance(term, tuple):
                    weight, debiased, is_open = term
                    normal = (debiased - mean) / (deviation + 1e-8)
                    term = weight * (min(max(normal, -1.0), 1.5) if is_open else -1.0)
                total = (total or 0.0) + term
            if total is None:
                assert value is None
            elif deviation > 1e-3:
                assert value == pytest.approx(total, abs=1e-4)


@settings(deadline=None)
@given(batches)
def test_contributions_add_up_exactly_to_the_reward(batches):
    reward = compose(FULL)
    for batch in batches:
        texts = ["x" * length for *_, length in batch]
        columns = {"form": [row[0] for row in batch], "ground": [row[1] for row in batch]}
        trained = Trainer()(reward, texts, **columns)
        explained = reward.explain(["p"] * len(batch), texts, **columns)
        assert [row.reward for row in explained] == call_reward(reward, ["p"] * len(batch), texts, **columns)
        for value, row in zip(trained, explained, strict=True):
            contributions = [part.contribution for part in row.parts if part.contribution is not None]
            assert row.reward == (sum(contributions) if contributions else None)
            assert value == row.reward  # nothing was learned in between, and there is no progress to speak of
            for part in row.parts:
                assert part.contribution is None or part.contribution == part.weight * part.value


def values(reward, **columns):
    rows = len(next(iter(columns.values())))
    return call_reward(reward, ["p"] * rows, ["c"] * rows, **columns)


def test_gates_by_hand():
    gate = {"a": {}, "b": {"gate": {"a": 0.5}}, "c": {"weight": 10, "gate": {"b": [None, 1]}, "when_closed": None}}
    reward = compose(gate)
    # b is closed by a; c by what b's score is, or since b is held back itself.
    columns = {"a": [0.5, 0.4, 0.6, None, None], "b": [1.0, 1.0, 2.0, 3.0, None], "c": [1.0, 1.0, 1.0, 1.0, None]}
    assert values(reward, **columns) == [0.5 + 1 + 10, 0.4, 2.6, 0.0, None]
    rows = reward.explain(["p"] * 5, ["c"] * 5, **columns)
    assert [[part.gate for part in row.parts[1:]] for row in rows] == [
        ["", ""],
        ["a 0.4 < 0.5", "b is held back"],
        ["", "b 2 > 1"],
        ["a does not apply", "b 3 > 1"],
        ["", ""],
    ]


def test_ensembles_by_hand():
    members = [column("x"), column("y"), column("z")]
    scores = {"x": [1.0, None], "y": [2.0, None], "z": [6.0, None]}
    for how, coef, expected in (("mean", 0, 3.0), ("worst", 0, 1.0), ("uncertainty", 1.5, 3.0 - 1.5 * 14 / 3)):
        block = {"ensemble": ["x", "y", "z"], "aggregate": how, "weight": 2}
        if how == "uncertainty":
            block["uncertainty_coef"] = coef
        reward = compose({"all": block}, all=members)
        assert values(reward, **scores) == [pytest.approx(2 * expected), None]
        row, nothing = reward.explain(["p"] * 2, ["c"] * 2, **scores)
        assert row.parts[0].members == (1.0, 2.0, 6.0)
        assert nothing.reward is None
        trainer = Trainer()
        trainer(reward, ["c"] * 2, **scores)
        assert trainer.logged["rewards/all/disagreement"] == [pytest.approx(math.sqrt(14 / 3))]


def test_a_reward_with_members_of_its_own_is_aggregated():
    class Shared:
        def member_scores(self, prompts, completions, x, **_):
            return [x, [2 * value for value in x]]

        def __call__(self, prompts, completions, **columns):
            raise AssertionError("its members are asked")

    reward = compose({"all": {"reward": "shared", "aggregate": "worst"}}, all=[checked(Shared(), "all")])
    assert values(reward, x=[1.0, -1.0]) == [1.0, -2.0]
    broken = compose({"all": {"reward": "s", "aggregate": "worst"}}, all=[checked(Shared(), "all")])
    with pytest.raises(RewardError, match="ensemble 'all' raised TypeError"):
        values(broken, y=[1.0])
    with pytest.raises(RewardError, match=r"reward 'all\[0\]' returned nan for row 1"):
        values(broken, x=[1.0, math.nan])


def test_length_debiasing_takes_out_the_line_and_leaves_the_rest():
    reward = compose({"a": {"debias_length": True}})
    lengths = list(range(40))
    quality = [(-1.0) ** i for i in lengths]
    biased = [q + 0.3 * n for q, n in zip(quality, lengths, strict=True)]
    scores = Trainer()(reward, ["x" * n for n in lengths], a=biased)
    assert abs(statistics.correlation(lengths, scores)) < 1e-9
    assert statistics.correlation(quality, scores) > 0.99
    few = compose({"a": {"debias_length": True}})
    assert Trainer()(few, ["x", "xxx"], a=[1.0, 3.0]) == [1.0, 3.0]  # too few points for a line


def test_schedules_follow_the_trainer_and_end_outside_of_one():
    reward = compose({"a": {"schedule": {"start": 0.0, "end": 1.0, "until": 0.5}}})
    assert values(reward, a=[4.0]) == [4.0]
    assert Trainer(step=1, steps=4)(reward, ["c"], a=[4.0]) == [2.0]
    assert values(reward, a=[4.0]) == [2.0]  # as last trained with
    assert Trainer(training=False, step=2, steps=4)(reward, ["c"], a=[4.0]) == [4.0]
    assert values(reward, a=[4.0]) == [2.0]


def test_it_learns_in_training_steps_only():
    reward = compose({"a": {"normalize": True}})
    assert reward.unlearned == ["a"]
    for call in (values, lambda reward, a: Trainer(training=False)(reward, ["c"] * 2, a=a)):
        assert call(reward, a=[1.0, 3.0]) == [1.0, 3.0]
    assert Trainer()(reward, ["c"] * 2, a=[1.0, 3.0]) == [pytest.approx(-1), pytest.approx(1)]
    assert reward.unlearned == []
    state = reward.state_dict()
    assert values(reward, a=[5.0]) == [pytest.approx(3)]
    assert Trainer(training=False)(reward, ["c"], a=[5.0]) == [pytest.approx(3)]
    assert reward.state_dict() == state


def test_a_killed_and_resumed_composite_scores_to_the_bit_as_the_straight_one():
    batch = {"form": [0.3, 0.9, None, 0.7], "ground": [0.1, 0.25, -3.0, 7.1]}
    texts = ["a", "bb" * 9, "ccc", "d" * 40]
    straight, first, resumed = (compose(FULL) for _ in range(3))
    for step in range(6):
        Trainer(step=step, steps=9)(straight, texts, **batch)
        Trainer(step=step, steps=9)(first, texts, **batch)
    resumed.load_state_dict(json.loads(json.dumps(first.state_dict())))
    last = {"form": [0.8] * 4, "ground": [0.5, 0.1, 0.2, 0.9]}
    expected = Trainer(step=6, steps=9)(straight, texts, **last)
    assert Trainer(step=6, steps=9)(resumed, texts, **last) == expected
    assert Trainer(step=6, steps=9)(pickle_copy(first), texts, **last) == expected
    assert resumed.state_dict() == straight.state_dict()
    with pytest.raises(RewardError, match="the saved state is of the rewards form, ground, not of a"):
        compose({"a": {}}).load_state_dict(straight.state_dict())


def pickle_copy(reward):
    return copy.deepcopy(reward)


def constant_reward(completions, **_):
    return [1.0 for _ in completions]


def test_it_can_be_pickled():
    reward = compose({"a": {"weight": 2}}, a=[checked(constant_reward)])
    assert pickle.loads(pickle.dumps(reward))(["p"], ["c"]) == [2.0]


def test_states_of_the_rewards_in_it_are_kept():
    class Counter:
        def __init__(self):
            self.calls = 0

        def __call__(self, completions, **_):
            self.calls += 1
            return [1.0 for _ in completions]

        def state_dict(self):
            return {"calls": self.calls}

        def load_state_dict(self, state):
            self.calls = state["calls"]

    counters = [Counter(), Counter()]
    one, two = (compose({"a": {}, "b": {}}, a=[checked(counter)]) for counter in counters)
    values(one, b=[1.0])
    two.load_state_dict(one.state_dict())
    assert counters[1].calls == 1


def test_every_part_is_logged():
    reward = compose(FULL)
    trainer = Trainer(step=1, steps=4)
    trainer(reward, ["c"] * 3, form=[0.2, 0.8, None], ground=[1.0, 3.0, None])
    logged = {name: value for name, (value,) in trainer.logged.items()}
    assert logged["rewards/form/mean"] == pytest.approx(0.5)
    assert logged["rewards/form/contribution"] == pytest.approx(0.15)
    assert logged["rewards/form/skipped"] == pytest.approx(1 / 3)
    assert logged["rewards/ground/gate_open"] == 0.5
    assert logged["rewards/ground/weight"] == pytest.approx(0.5 * 0.55)
    assert logged["rewards/ground/length_slope"] == 0
    assert logged["rewards/composite/unscored"] == 1
    assert trainer.extra["form"] == [pytest.approx(0.06), pytest.approx(0.24), pytest.approx(math.nan, nan_ok=True)]


def test_async_parts_run_beside_each_other():
    import asyncio
    import time

    async def slow(completions, **_):
        await asyncio.sleep(0.2)
        return [1.0 for _ in completions]

    reward = compose({name: {} for name in "abcde"}, **{name: [checked(slow, name)] for name in "abcde"})
    started = time.monotonic()
    assert call_reward(reward, ["p"], ["c"]) == [5.0]
    assert time.monotonic() - started < 0.7


def test_a_failing_part_is_named():
    def fails(completions, **_):
        raise KeyError("x")

    reward = compose({"a": {}, "b": {}}, b=[checked(fails, "b")])
    with pytest.raises(RewardError, match="reward 'b' raised KeyError"):
        values(reward, a=[1.0])


def test_a_weighted_sum_is_explainable_too(tmp_path):
    (tmp_path / "r.py").write_text(
        "def a(completions, **_):\n    return [1.0]\ndef b(completions, **_):\n    return [None]\n"
    )
    reward = explainable_rewards([f"{tmp_path}/r.py:a", f"{tmp_path}/r.py:b"], [0.5, 2], None)
    (row,) = reward.explain(["p"], ["c"])
    assert (row.reward, [part.contribution for part in row.parts]) == (0.5, [0.5, None])


@settings(deadline=None)
@given(st.lists(row, min_size=1, max_size=10), st.randoms(use_true_random=False))
def test_what_is_not_learning_scores_each_row_on_its_own(rows, random):
    reward = compose(FULL)
    Trainer()(reward, ["x" * i for i in range(30)], form=[1.0] * 30, ground=[i % 7 for i in range(30)])

    def scores(rows):
        columns = {"form": [row[0] for row in rows], "ground": [row[1] for row in rows]}
        return call_reward(reward, ["p"] * len(rows), ["x" * length for *_, length in rows], **columns)

    order = random.sample(range(len(rows)), len(rows))
    assert scores([rows[i] for i in order]) == [scores(rows)[i] for i in order]
    assert scores(rows) == [score for row in rows for score in scores([row])]


def test_any_log_metric_will_do():
    logged = []
    assert compose({"a": {}})(["p"], ["c"], a=[1.0], log_metric=lambda *entry: logged.append(entry)) == [1.0]
    compose({"a": {"normalize": True}})(["p"], ["c"], a=[1.0], log_metric={}.setdefault)
    assert ("rewards/a/mean", 1.0) in logged
