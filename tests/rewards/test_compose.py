"""Several rewards as one."""

import math

from hypothesis import given
from hypothesis import strategies as st

from rlgen.rewards import weighted_sum

scores = st.lists(st.one_of(st.none(), st.floats(-10, 10)), min_size=3, max_size=3)


def constant(values):
    def reward(completions, **kwargs):
        return values

    return reward


@given(scores, scores, st.floats(-3, 3), st.floats(-3, 3))
def test_the_sum_leaves_out_what_does_not_apply(first, second, a, b):
    total = weighted_sum([constant(first), constant(second)], [a, b])(["p"] * 3, ["c"] * 3)
    for x, y, value in zip(first, second, total, strict=True):
        if x is None and y is None:
            assert value is None
        else:
            assert math.isclose(value, (0.0 if x is None else a * x) + (0.0 if y is None else b * y), abs_tol=1e-12)


def test_async_and_plain_rewards_mix():
    async def one(completions, **kwargs):
        return [1.0] * len(completions)

    assert weighted_sum([one, constant([2.0, 3.0])], [1.0, 0.5])(["p"] * 2, ["c"] * 2) == [2.0, 2.5]
