"""What may vary in a sweep: a YAML file of flags with bounds or choices."""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rlgen.errors import ConfigError

BOUND_KEYS = frozenset({"low", "high", "log", "step"})


@dataclass(frozen=True)
class Bounds:
    """Numbers from `low` to `high`, both included."""

    low: float
    high: float
    log: bool = False
    step: float | None = None

    @property
    def whole(self) -> bool:
        """Whether only integers are meant."""
        return isinstance(self.low, int)

    def suggest(self, trial: Any, name: str) -> float:
        """Ask optuna for a value."""
        if self.whole:
            return int(trial.suggest_int(name, self.low, self.high, log=self.log, step=int(self.step or 1)))
        return float(trial.suggest_float(name, self.low, self.high, log=self.log, step=self.step))

    def ends(self) -> list[Any]:
        """Values that stand for all of them in a check."""
        return [self.low, self.high]


@dataclass(frozen=True)
class Choice:
    """One of a few values."""

    values: tuple[Any, ...]

    def suggest(self, trial: Any, name: str) -> Any:
        """Ask optuna for a value."""
        return trial.suggest_categorical(name, self.values)

    def ends(self) -> list[Any]:
        """All of them."""
        return list(self.values)


@dataclass(frozen=True)
class Space:
    """What varies, and what is the same in every trial."""

    varied: Mapping[str, Bounds | Choice]
    fixed: Mapping[str, Any]

    def grid(self) -> list[dict[str, Any]]:
        """Every combination of the choices.

        Raises:
            ConfigError: something varies between bounds, of which there is no end.
        """
        between = [name for name, part in self.varied.items() if isinstance(part, Bounds)]
        if between:
            raise ConfigError(f"sampler grid needs lists of choices, but {between[0]} has bounds: list its values")
        combinations = itertools.product(*(part.ends() for part in self.varied.values()))
        return [dict(zip(self.varied, values, strict=True)) for values in combinations]

    def samples(self) -> Iterator[dict[str, Any]]:
        """Settings in which each end and each choice occurs once, to check that the recipe takes them all."""
        first = {name: part.ends()[0] for name, part in self.varied.items()}
        yield {**self.fixed, **first}
        for name, part in self.varied.items():
            for value in part.ends()[1:]:
                yield {**self.fixed, **first, name: value}


def read_space(file: str | Path) -> Space:
    """Read a search space.

    Args:
        file: YAML: `flag: {low: 1e-5, high: 1e-3, log: true}` for numbers (integers if both bounds are),
            `flag: [a, b]` for choices, `flag: value` for what is the same in every trial.

    Raises:
        ConfigError: the file cannot be read, nothing varies, or a bound or choice makes no sense.
    """
    try:
        loaded = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{file} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(loaded, dict) or not loaded:
        raise ConfigError(f"{file} must hold `flag: {{low: ..., high: ...}}` or `flag: [a, b]` lines")
    varied: dict[str, Bounds | Choice] = {}
    fixed: dict[str, Any] = {}
    for key, value in loaded.items():
        name, where = str(key).replace("-", "_"), f"{file}: {key}"
        if name == "output_dir":
            raise ConfigError(f"{where}: the sweep gives each trial a folder of its own: leave it out")
        if isinstance(value, dict):
            varied[name] = _bounds(value, where)
        elif isinstance(value, list):
            varied[name] = _choice(value, where)
        else:
            fixed[name] = value
    if not varied:
        raise ConfigError(f"{file}: nothing varies; give at least one flag bounds or a list of choices")
    return Space(varied, fixed)


def _bounds(value: Mapping[str, Any], where: str) -> Bounds:
    unknown = set(map(str, value)) - BOUND_KEYS
    if unknown or not {"low", "high"} <= value.keys():
        raise ConfigError(f"{where}: bounds are {{low: ..., high: ..., log: true, step: ...}}, the last two optional")
    low, high = _number(value["low"], where), _number(value["high"], where)
    step = None if value.get("step") is None else _number(value["step"], where)
    if not isinstance(low, int) or not isinstance(high, int):
        low, high = float(low), float(high)
    log = value.get("log", False)
    if not isinstance(log, bool):
        raise ConfigError(f"{where}: log is true or false, not {log!r}")
    if not low < high:
        raise ConfigError(f"{where}: low ({low:g}) must be below high ({high:g})")
    if log and low <= 0:
        raise ConfigError(f"{where}: log needs a low above 0, not {low:g}")
    if step is not None and (log or step <= 0 or (isinstance(low, int) and not isinstance(step, int))):
        raise ConfigError(f"{where}: step must be above 0, whole between whole bounds, and has no place beside log")
    return Bounds(low, high, log, step)


def _choice(values: list[Any], where: str) -> Choice:
    if len(values) < 2:
        raise ConfigError(f"{where}: a list needs two choices or more; one value without brackets is always taken")
    for value in values:
        if isinstance(value, (list, dict)):
            raise ConfigError(f"{where}: a choice is one value, not {value!r}")
    if len({(type(value), value) for value in values}) < len(values):
        raise ConfigError(f"{where}: a choice stands there twice")
    return Choice(tuple(values))


def _number(value: Any, where: str) -> float:
    try:  # YAML reads 1e-5 as text
        number = value if isinstance(value, (int, float)) and not isinstance(value, bool) else float(str(value))
    except ValueError as error:
        raise ConfigError(f"{where}: {value!r} is no number; choices stand in a list") from error
    if not math.isfinite(number):
        raise ConfigError(f"{where}: a bound must be finite, not {value!r}")
    return number
