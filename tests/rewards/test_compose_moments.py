"""Running statistics against those of everything at once."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlgen.rewards.moments import RunningLine, RunningMoments

points = st.lists(st.lists(st.tuples(st.integers(0, 400), st.floats(-50, 50)), max_size=6), min_size=1, max_size=6)


@settings(deadline=None)
@given(points)
def test_the_line_of_batches_is_that_of_everything_at_once(batches):
    line = RunningLine()
    for batch in batches:
        line.update([x for x, _ in batch], [y for _, y in batch])
        line = RunningLine(**json.loads(json.dumps(dataclasses.asdict(line))))  # as a checkpoint keeps it
    every = [point for batch in batches for point in batch]
    assert line.count == len(every)
    if len({x for x, _ in every}) > 1:
        slope, _ = np.polyfit([x for x, _ in every], [y for _, y in every], 1)
        assert line.slope() == pytest.approx(slope, rel=1e-6, abs=1e-6)
    else:
        assert line.slope() == 0


def test_a_line_waits_for_enough_points():
    line = RunningLine()
    line.update([0, 1], [0.0, 3.0])
    assert (line.slope(), line.slope(at_least=3)) == (3.0, 0.0)


def test_values_are_standardized_once_any_is_known():
    moments = RunningMoments()
    assert moments.standardized(7.0) == 7.0
    moments.update([1.0, 3.0])
    assert moments.standardized(4.0) == pytest.approx(2.0)
