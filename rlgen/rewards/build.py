"""From a composition's file, a run folder, or names with weights to a composite reward."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rlgen.errors import RewardError
from rlgen.rewards.check import CheckedReward
from rlgen.rewards.composite import CompositeReward
from rlgen.rewards.load import load_rewards, resolve_reward
from rlgen.rewards.spec import Member, Part, parse_spec, read_spec
from rlgen.rewards.state import load_reward_state, newest_state

if TYPE_CHECKING:
    from rlgen.tasks import Task


def load_composite(
    source: str, task: "Task | None" = None, *, model_options: Mapping[str, Any] | None = None
) -> CompositeReward:
    """Make a composite from a file, or from the run folder that was trained with one, with what it learned there.

    Args:
        source: see `read_spec`.
        task: whose short names count first.
        model_options: keyword arguments for every `RewardModel` in it.

    Raises:
        ConfigError: the file is wrong.
        RewardError: a reward cannot be found, has no such option, or cannot be loaded.
    """
    composite = build_composite(read_spec(source), source, task, model_options=model_options)
    folder = newest_state(source)
    if folder is not None:
        load_reward_state(folder, [composite])
    return composite


def explainable_rewards(
    names: Sequence[str] | None,
    weights: Sequence[float] | None,
    task: "Task | None",
    *,
    own_rows: bool = False,
    config: str | None = None,
) -> CompositeReward:
    """Rewards as `load_rewards` takes them, made explainable: a weighted sum is a composition too.

    Raises:
        ConfigError, RewardError: as `load_rewards`.
    """
    functions, factors = load_rewards(names, weights, task, own_rows=own_rows, config=config)
    if isinstance(functions[0], CompositeReward):
        return functions[0]
    by_name = {function.__name__: [function] for function in functions}
    parts = [Part(name, (Member(name),), weight=weight) for name, weight in zip(by_name, factors, strict=True)]
    return CompositeReward(parts, by_name)


def build_composite(
    loaded: Mapping[str, Any],
    where: str,
    task: "Task | None" = None,
    *,
    model_options: Mapping[str, Any] | None = None,
) -> CompositeReward:
    """Make a composite from a mapping; everything is checked before the first model is loaded.

    Args:
        loaded: see `parse_spec`.
        where: for messages.
        task: see `load_composite`.
        model_options: likewise.

    Raises:
        ConfigError, RewardError: as `load_composite`.
    """
    parts = parse_spec(loaded, where)
    found: dict[str, list[Callable[[], CheckedReward]]] = {}
    for part in parts:
        try:
            found[part.name] = [
                resolve_reward(member.reward, task=task, options=member.options, model_options=model_options)
                for member in part.members
            ]
        except RewardError as error:
            raise RewardError(f"{where}: rewards.{part.name}: {error}") from error
    functions = {name: [load() for load in loaders] for name, loaders in found.items()}
    for name, each in functions.items():
        for i, function in enumerate(each):
            function.__name__ = name if len(each) == 1 else f"{name}[{i}]"
    return CompositeReward(parts, functions)
