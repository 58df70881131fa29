"""A composition of rewards as a configuration file says it, read strictly: docs/rewards/composition.md explains."""

import dataclasses
import difflib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from rlgen.errors import ConfigError, RlgenError
from rlgen.parser import find_config
from rlgen.rewards.aggregate import check_aggregate

COMPOSITE = "composite"
"""Under which name the whole is logged; no part may have it."""

Range = tuple[float, float]


@dataclass(frozen=True)
class Schedule:
    """A factor on a weight that goes linearly from `start` to `end` while training goes from `after` to `until`.

    Args:
        start: factor up to `after`.
        end: factor from `until` on.
        after: share of the training, in [0, 1].
        until: likewise, later than `after`.
    """

    start: float
    end: float = 1.0
    after: float = 0.0
    until: float = 1.0

    def factor(self, progress: float) -> float:
        """The factor at a share of the training in [0, 1]."""
        share = min(max((progress - self.after) / (self.until - self.after), 0.0), 1.0)
        return self.start + share * (self.end - self.start)


@dataclass(frozen=True)
class Member:
    """One reward by name, with its options; None where the file gives none."""

    reward: str
    options: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Part:
    """One reward, or an ensemble of rewards, in a composition.

    Args:
        name: what it is called in logs and gates.
        members: one reward, or those of the ensemble.
        is_ensemble: whether they are an ensemble, even of one.
        weight: factor of its value in the sum.
        debias_length: take out what a straight line over the completion's length explains.
        normalize: subtract the running mean and divide by the running deviation.
        clip: limits of the value; infinite where open.
        gate: by the name of another part, the range its raw score must be in for this one to count.
        when_closed: value in place of that of a row whose gate is closed; None leaves the part out of the row.
        schedule: factor on the weight over training; None for 1.
        aggregate: how an ensemble's members become one score; None leaves it to the reward.
        uncertainty_coef: see `rlgen.rewards.aggregate`.
    """

    name: str
    members: tuple[Member, ...]
    is_ensemble: bool = False
    weight: float = 1.0
    debias_length: bool = False
    normalize: bool = False
    clip: Range | None = None
    gate: Mapping[str, Range] = field(default_factory=dict)
    when_closed: float | None = 0.0
    schedule: Schedule | None = None
    aggregate: str | None = None
    uncertainty_coef: float = 0.5


KEYS = tuple(
    "reward options ensemble aggregate uncertainty_coef weight debias_length normalize clip gate when_closed "
    "schedule".split()
)


def read_spec(source: str) -> dict[str, Any]:
    """The mapping of a composition, from a YAML file or from the run folder that was trained with one.

    Args:
        source: file, name of a shipped config ("docstring/reward_mix.yaml"), or run folder or checkpoint in one.

    Raises:
        ConfigError: it cannot be read, or holds no composition.
    """
    run = Path(source).expanduser()
    if run.is_dir():
        record = next(
            (file for file in (run / "run.json", run.parent / "run.json") if file.is_file()), run / "run.json"
        )
        try:
            loaded = json.loads(record.read_text(encoding="utf-8"))["config"].get("reward_config")
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise ConfigError(f"{source} is no run folder: its run.json cannot be read") from error
        if not isinstance(loaded, dict):
            raise ConfigError(f"the run in {source} was not trained with a --reward_config")
        return loaded
    file = find_config(source)
    try:
        loaded = yaml.load(file.read_text(encoding="utf-8"), _NoDoubles)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{file} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(loaded, dict):
        raise ConfigError(f"{file} must hold 'rewards:' and below it one block per reward")
    return loaded


class _NoDoubles(yaml.SafeLoader):
    """YAML lets the later of two equal keys win without a word, which would drop a reward."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        doubled = next((key for key in keys if keys.count(key) > 1), None)
        if doubled is not None:
            raise yaml.YAMLError(f"line {node.start_mark.line + 1}: the key '{doubled}' stands there twice")
        return super().construct_mapping(node, deep)


def parse_spec(loaded: Mapping[str, Any], where: str) -> tuple[Part, ...]:
    """Read a composition's mapping into parts, in its order.

    Args:
        loaded: what `read_spec` returned.
        where: file or folder, for messages.

    Raises:
        ConfigError: one line about the first thing that is wrong, with its place.
    """
    try:
        _known(loaded, ("rewards",), "the file")
        blocks = _mapping(loaded.get("rewards"), "rewards")
        if not blocks:
            raise ConfigError("'rewards' is empty: name at least one")
        parts = tuple(_part(str(name), block) for name, block in blocks.items())
        _check_gates(parts)
    except RlgenError as error:
        raise ConfigError(f"{where}: {error}") from error
    return parts


def _part(name: str, block: Any) -> Part:
    at = f"rewards.{name}"
    if name == COMPOSITE or "/" in name or not name.strip():
        raise ConfigError(f"{at}: a reward cannot be called '{name}'; choose another name")
    block = {"reward": block} if isinstance(block, str) else _mapping({} if block is None else block, at)
    _known(block, KEYS, at)
    if "ensemble" in block and ("reward" in block or "options" in block):
        raise ConfigError(f"{at}: 'ensemble' stands in place of 'reward' and 'options'; give each member its own")
    if "ensemble" in block:
        members = _members(block["ensemble"], f"{at}.ensemble")
    else:
        members = (_member({"reward": name, **{k: block[k] for k in ("reward", "options") if k in block}}, at),)
    aggregate = block.get("aggregate", "mean" if "ensemble" in block else None)
    coef = _number(block.get("uncertainty_coef", 0.5), f"{at}.uncertainty_coef")
    if aggregate is not None:
        check_aggregate(aggregate, coef)
    if "uncertainty_coef" in block and aggregate != "uncertainty":
        raise ConfigError(f"{at}: uncertainty_coef is read with 'aggregate: uncertainty' only")
    clip = _range(block["clip"], f"{at}.clip") if block.get("clip") is not None else None
    shifts = [key for key in ("debias_length", "normalize") if _flag(block.get(key, False), f"{at}.{key}")]
    gate = {
        str(other): _range(limits if isinstance(limits, list) else [limits, None], f"{at}.gate.{other}")
        for other, limits in _mapping(block.get("gate") or {}, f"{at}.gate").items()
    }
    return Part(
        name,
        members,
        is_ensemble="ensemble" in block,
        weight=_number(block.get("weight", 1.0), f"{at}.weight"),
        debias_length="debias_length" in shifts,
        normalize="normalize" in shifts,
        clip=clip,
        gate=gate,
        when_closed=_when_closed(block, at, clip, shifts, bool(gate)),
        schedule=_schedule(block["schedule"], f"{at}.schedule") if block.get("schedule") is not None else None,
        aggregate=aggregate,
        uncertainty_coef=coef,
    )


def _members(value: Any, at: str) -> tuple[Member, ...]:
    if not isinstance(value, list) or not value:
        raise ConfigError(f"{at} must be a list of rewards")
    return tuple(
        _member(item if isinstance(item, dict) else {"reward": item}, f"{at}[{i}]") for i, item in enumerate(value)
    )


def _member(block: Mapping[str, Any], at: str) -> Member:
    _known(block, ("reward", "options"), at)
    reward, options = block.get("reward"), block.get("options")
    if not isinstance(reward, str) or not reward:
        raise ConfigError(f"{at}: 'reward' must be the name of a reward, not {reward!r}")
    return Member(reward, None if options is None else _mapping(options, f"{at}.options"))


def _when_closed(
    block: Mapping[str, Any], at: str, clip: Range | None, shifts: list[str], gated: bool
) -> float | None:
    """Without a word about it a closed gate counts as the lowest value after clipping, or as 0."""
    if "when_closed" in block:
        if not gated:
            raise ConfigError(f"{at}: when_closed is read with a gate only")
        return None if block["when_closed"] is None else _number(block["when_closed"], f"{at}.when_closed")
    if clip is not None and math.isfinite(clip[0]):
        return clip[0]
    if gated and shifts:
        raise ConfigError(
            f"{at}: with {shifts[0]} 0 is an ordinary value; say what a closed gate counts as with when_closed, "
            "or give clip a lower limit"
        )
    return 0.0


def _schedule(value: Any, at: str) -> Schedule:
    block = _mapping(value, at)
    _known(block, [item.name for item in dataclasses.fields(Schedule)], at)
    if "start" not in block:
        raise ConfigError(f"{at} needs 'start', the factor at the beginning")
    schedule = Schedule(**{key: _number(number, f"{at}.{key}") for key, number in block.items()})
    if not 0 <= schedule.after < schedule.until <= 1:
        raise ConfigError(f"{at}: 'after' and 'until' are shares of the training, 0 <= after < until <= 1")
    return schedule


def _check_gates(parts: tuple[Part, ...]) -> None:
    gates = {part.name: list(part.gate) for part in parts}
    for name, others in gates.items():
        for other in others:
            if other not in gates:
                raise ConfigError(f"rewards.{name}.gate: there is no reward '{other}'{_nearest(other, gates)}")
    state: dict[str, int] = {}  # 1: on the way, 2: done

    def visit(name: str, path: list[str]) -> None:
        if state.get(name) == 1:
            circle = [*path[path.index(name) :], name]
            raise ConfigError(f"the gates go in a circle: {' -> '.join(circle)}")
        if name not in state:
            state[name] = 1
            for other in gates[name]:
                visit(other, [*path, name])
            state[name] = 2

    for name in gates:
        visit(name, [])


def _known(block: Mapping[str, Any], keys: Any, at: str) -> None:
    for key in block:
        if key not in keys:
            hint = _nearest(str(key), keys) or f"; known: {', '.join(keys)}"
            raise ConfigError(f"{at}: unknown key '{key}'{hint}")


def _mapping(value: Any, at: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{at} must be a block of 'key: value' lines, not {value!r}")
    return value


def _flag(value: Any, at: str) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"{at} must be true or false, not {value!r}")
    return value


def _number(value: Any, at: str) -> float:
    try:  # YAML reads 1e-5 as text
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ConfigError(f"{at} must be a finite number, not {value!r}")
    return number


def _range(value: Any, at: str) -> Range:
    if not isinstance(value, list) or len(value) != 2 or value == [None, None]:
        raise ConfigError(f"{at} must be [lowest, highest], null for an open side, not {value!r}")
    low = -math.inf if value[0] is None else _number(value[0], at)
    high = math.inf if value[1] is None else _number(value[1], at)
    if low > high or (low == high and at.endswith(".clip")):
        raise ConfigError(f"{at}: {value[0]} is not below {value[1]}")
    return low, high


def _nearest(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""
