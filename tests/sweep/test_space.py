"""Search spaces: what a file may say, what it may not, and that suggestions keep to it."""

import optuna
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from rlgen.errors import ConfigError
from rlgen.sweep.space import Bounds, Choice, read_space


def read(tmp_path, text):
    file = tmp_path / "search.yaml"
    file.write_text(text)
    return read_space(file)


def test_bounds_choices_and_fixed_values(tmp_path):
    space = read(
        tmp_path,
        "learning_rate: {low: 1e-5, high: 1e-3, log: true}\nlora-r: {low: 4, high: 32, step: 4}\n"
        "kl_coef: [0.02, 0.05]\nmax_steps: 80\n",
    )
    assert space.varied == {
        "learning_rate": Bounds(1e-5, 1e-3, log=True),
        "lora_r": Bounds(4, 32, step=4),
        "kl_coef": Choice((0.02, 0.05)),
    }
    assert space.varied["lora_r"].whole
    assert not space.varied["learning_rate"].whole
    assert space.fixed == {"max_steps": 80}


def test_each_end_is_checked_once(tmp_path):
    space = read(tmp_path, "a: {low: 1, high: 9}\nb: [x, y, z]\nc: 5\n")
    assert list(space.samples()) == [
        {"c": 5, "a": 1, "b": "x"},
        {"c": 5, "a": 9, "b": "x"},
        {"c": 5, "a": 1, "b": "y"},
        {"c": 5, "a": 1, "b": "z"},
    ]


def test_a_grid_is_every_combination(tmp_path):
    grid = read(tmp_path, "a: [1, 2]\nb: [x, y]\n").grid()
    assert grid == [{"a": 1, "b": "x"}, {"a": 1, "b": "y"}, {"a": 2, "b": "x"}, {"a": 2, "b": "y"}]
    with pytest.raises(ConfigError, match="a has bounds: list its values"):
        read(tmp_path, "a: {low: 1, high: 2}\n").grid()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must hold"),
        ("- a\n", "must hold"),
        ("a: [1\n", "cannot be read"),
        ("a: 3\n", "nothing varies"),
        ("a: {low: 2, high: 1}\n", r"low \(2\) must be below high \(1\)"),
        ("a: {low: 1, high: 1}\n", "must be below"),
        ("a: {low: 0, high: 1, log: true}\n", "log needs a low above 0"),
        ("a: {low: 1}\n", "bounds are"),
        ("a: {low: 1, high: 2, lgo: true}\n", "bounds are"),
        ("a: {low: one, high: 2}\n", "is no number"),
        ("a: {low: true, high: 2}\n", "is no number"),
        ("a: {low: 1, high: .inf}\n", "must be finite"),
        ("a: {low: 1, high: 9, step: 0.5}\n", "step must be"),
        ("a: {low: 1.0, high: 9, step: 2, log: true}\n", "step must be"),
        ("a: {low: 1, high: 9, log: 3}\n", "log is true or false"),
        ("a: []\n", "two choices or more"),
        ("a: [1]\n", "two choices or more"),
        ("a: [1, 1]\n", "stands there twice"),
        ("a: [[1], [2]]\n", "a choice is one value"),
        ("output_dir: [a, b]\n", "leave it out"),
    ],
)
def test_a_mistake_is_named(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, text)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        read_space(tmp_path / "no.yaml")


@given(
    st.floats(1e-8, 1e8),
    st.floats(1.001, 1e6),
    st.booleans(),
    st.integers(-50, 50),
    st.integers(1, 50),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=40, deadline=None)
def test_suggestions_keep_to_the_bounds(tmp_path_factory, low, factor, log, whole, width, seed):
    spec = {"a": {"low": low, "high": low * factor, "log": log}, "b": {"low": whole, "high": whole + width}}
    file = tmp_path_factory.mktemp("space") / "search.yaml"
    file.write_text(yaml.safe_dump(spec))
    space = read_space(file)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    trial = study.ask()
    a, b = (space.varied[name].suggest(trial, name) for name in ("a", "b"))
    assert low <= a <= low * factor
    assert whole <= b <= whole + width
    assert isinstance(b, int)
