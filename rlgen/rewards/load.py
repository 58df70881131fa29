"""From a name on the command line to a reward function: a file, a module, a short name, or a trained model."""

import difflib
import importlib
import json
import math
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from rlgen.errors import ConfigError, RewardError
from rlgen.importing import import_file, importable
from rlgen.rewards.adapters import REASONING_GYM, ReasoningGym, adapted
from rlgen.rewards.check import CheckedReward, Reward, checked
from rlgen.rewards.options import check_options, configured, makes_a_reward, parameters
from rlgen.rewards.tokens import CheckedTokenReward, checked_tokens

if TYPE_CHECKING:
    from rlgen.tasks import Task


ENTRY_POINTS = "rlgen.rewards"
BUILT_IN = {"judge": "rlgen.rewards.judge:Judge"}


def load_reward(
    name: str,
    *,
    task: "Task | None" = None,
    options: Mapping[str, Any] | None = None,
    model_options: Mapping[str, Any] | None = None,
) -> CheckedReward:
    """Load one reward and put it under the contract.

    Args:
        name: `path/to/file.py:function`, `module:function`, a short name (of the task, of an installed package's
            `rlgen.rewards` entry points, or of `trl.rewards`), `reasoning_gym:DATASET`, `judge`, or the folder or hub
            id of a trained reward model. A function of one row (verifiers' signature) is as good as one of a batch.
        task: whose short names count first.
        options: keyword arguments; for a function, values of its parameters. With options, even none, the name may
            also be that of a class or of a function that makes a reward.
        model_options: keyword arguments for `load_model_reward`, used when the name is a model.

    Raises:
        RewardError: nothing of that name can be loaded, or it has no such option.
    """
    return resolve_reward(name, task=task, options=options, model_options=model_options)()


def resolve_reward(
    name: str,
    *,
    task: "Task | None" = None,
    options: Mapping[str, Any] | None = None,
    model_options: Mapping[str, Any] | None = None,
) -> Callable[[], CheckedReward]:
    """Find a reward as `load_reward` does and check its options, but leave it to the caller when to load a model.

    Returns:
        What gives the reward; it reads a model's weights, if the reward is one.

    Raises:
        RewardError: as `load_reward`.
    """
    found, where = _found(name, task)
    if found is not None:
        made = options is not None or isinstance(found, partial)
        function = configured(found, options or {}, where) if made else _callable(found, where)
        reward = checked(adapted(function))
        return lambda: reward
    if Path(name).expanduser().is_dir():
        _require_classifier(Path(name).expanduser())
    elif _may_be_hub_id(name):
        _require_hub_classifier(name, bool((model_options or {}).get("trust_remote_code")))
    else:
        raise _unknown(name, task)

    from rlgen.models import load_reward_model
    from rlgen.rewards.model import RewardModel, load_model_reward  # only now: it brings torch

    known = parameters(load_model_reward) | parameters(RewardModel) | parameters(load_reward_model)
    check_options(options or {}, known - {"name_or_path", "model_options"}, name)
    return lambda: checked(load_model_reward(name, **{**(model_options or {}), **(options or {})}))


def _found(name: str, task: "Task | None") -> tuple[Any, str]:
    """What a name stands for and how to speak of it; None if it can only be a model."""
    if name == REASONING_GYM or name.startswith(f"{REASONING_GYM}:"):
        return partial(ReasoningGym, name.partition(":")[2] or None), name
    found = _referenced(name)
    if found is not None:
        return found, name
    if task is not None and name in task.reward_functions:
        return task.reward_functions[name], name
    for entry in entry_points(group=ENTRY_POINTS, name=name):
        with _import_errors(f"reward '{name}' of {entry.dist.name if entry.dist else 'an installed package'}"):
            return entry.load(), f"entry point '{name}'"
    if name in BUILT_IN:
        module, _, attribute = BUILT_IN[name].partition(":")
        return getattr(importlib.import_module(module), attribute), name
    if name in _trl_rewards():
        return getattr(importlib.import_module("trl.rewards"), name), name
    return None, name


def load_rewards(
    names: Sequence[str] | None,
    weights: Sequence[float] | None,
    task: "Task | None",
    *,
    own_rows: bool = False,
    required: bool = True,
    model_options: Mapping[str, Any] | None = None,
    config: str | None = None,
) -> tuple[list[CheckedReward], list[float]]:
    """Load several rewards with their weights.

    Args:
        names: see `load_reward`; None or none for the task's own mix.
        weights: one per name; None for 1.0 each, or for the task's own weights.
        task: whose rewards are the default.
        own_rows: the rows are not the task's, so that its mix is no default.
        required: whether own rows need one at all; not if rewards of single tokens judge them.
        model_options: keyword arguments for every `RewardModel` among them.
        config: file or run folder of a composition (docs/rewards/composition.md), in place of names and weights.

    Returns:
        The functions, each with a name of its own, and the weights.

    Raises:
        ConfigError: no reward, a repeated name, or weights that do not fit.
        RewardError: one cannot be loaded.
    """
    if config is not None:
        if names or weights:
            raise ConfigError("reward_config stands in place of reward and reward_weights: give one or the other")
        from rlgen.rewards.build import load_composite  # only now: it builds on this module

        return [load_composite(config, task, model_options=model_options)], [1.0]
    if not names:
        if own_rows and not required:
            return [], []
        if own_rows:
            raise ConfigError("own rows need a reward of their own; give --reward my_rewards.py:function")
        if task is None or not task.rewards:
            raise ConfigError("no reward is named and there is no task to take one from; give --reward NAME")
        names = list(task.rewards)
        weights = list(task.rewards.values()) if weights is None else weights
    weights = [1.0] * len(names) if weights is None else [float(weight) for weight in weights]
    if len(weights) != len(names):
        raise ConfigError(
            f"{len(weights)} reward weights for {len(names)} rewards ({', '.join(names)}); give one weight each"
        )
    if not all(math.isfinite(weight) for weight in weights):
        raise ConfigError(f"reward weights must be finite numbers, not {weights}")
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise ConfigError(f"reward {repeated[0]} is named twice; name it once and add up its weights")
    functions = [load_reward(name, task=task, model_options=model_options) for name in names]
    _make_names_unique(functions)
    return functions, weights


def load_token_rewards(names: Sequence[str] | None) -> list[CheckedTokenReward]:
    """Load rewards of single tokens and put them under the contract of `rlgen.rewards.tokens`.

    Args:
        names: `path/to/file.py:function` or `module:function` each; None or none for no such rewards.

    Returns:
        The functions, each with a name of its own.

    Raises:
        RewardError: one cannot be loaded.
    """
    functions = []
    for name in names or ():
        function = _referenced(name)
        if function is None:
            raise RewardError(f"unknown token reward {name}; give path/to/file.py:function or module:function")
        functions.append(checked_tokens(_callable(function, name)))
    _make_names_unique(functions)
    return functions


def _referenced(name: str) -> Any:
    """What `path/to/file.py:function` or `module:function` names, None for other kinds of names."""
    path, separator, attribute = name.rpartition(":")
    if not (separator and path and attribute) or "/" in attribute:
        return None
    module = _file_module(path) if path.endswith(".py") else _module(path)
    return _attribute(module, attribute, where=path)


def _make_names_unique(functions: Sequence[CheckedReward]) -> None:
    """Rewards are logged by name: the second `score` becomes `score_2`."""
    seen: Counter[str] = Counter()
    for function in functions:
        seen[function.__name__] += 1
        if seen[function.__name__] > 1:
            function.__name__ = f"{function.__name__}_{seen[function.__name__]}"


def _file_module(path: str) -> ModuleType:
    """Import a file under a name of its own, once per content; modules beside it can be imported by it."""
    file = Path(path).expanduser().resolve()
    if not file.is_file():
        beside = sorted(other.name for other in file.parent.glob("*.py")) if file.parent.is_dir() else []
        raise RewardError(f"there is no reward file {path}{_nearest(file.name, beside)}; give its path and :function")
    with _import_errors(path, file):
        return import_file(file, "reward")


def _module(name: str) -> ModuleType:
    try:
        with importable(Path.cwd()):
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(error.name + ".")):
            raise RewardError(
                f"there is no module {error.name} (reward in {name}); for a file give path/to/file.py:function"
            ) from error
        raise RewardError(f"{name} cannot be imported: no module named {error.name}") from error
    except Exception as error:
        raise RewardError(f"{name} cannot be imported: {_where(error)}") from error


@contextmanager
def _import_errors(what: str, file: Path | None = None) -> Iterator[None]:
    try:
        yield
    except RewardError:
        raise
    except (Exception, SystemExit) as error:
        raise RewardError(f"{what} cannot be imported: {_where(error, file)}") from error


def _where(error: BaseException, file: Path | None = None) -> str:
    """Error type, message, and the line to look at: the last one in `file`, else the last one at all."""
    if isinstance(error, SyntaxError) and error.lineno:
        source = Path(error.filename).name if error.filename else "the file"
        return f"{type(error).__name__}: {error.msg} ({source}, line {error.lineno})"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if file is not None and frame.filename == str(file)] or frames
    place = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{place}"


def _attribute(module: ModuleType, attribute: str, where: str) -> Any:
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            known = sorted(
                key
                for key, value in vars(module).items()
                if callable(value)
                and not isinstance(value, type)
                and not key.startswith("_")
                and getattr(value, "__module__", "") == module.__name__
            )
            has = f"it has: {', '.join(known)}" if known else "it defines none"
            raise RewardError(f"{where} has no function '{attribute}'{_nearest(attribute, known)}; {has}")
        found = getattr(found, part)
    return found


def _callable(found: Any, where: str) -> Reward:
    if isinstance(found, type):
        raise RewardError(f"{where} is a class; give a function, or name it with options in a --reward_config file")
    if not callable(found):
        raise RewardError(f"{where} is no function but of type {type(found).__name__}")
    if makes_a_reward(found):
        raise RewardError(f"{where} makes a reward and is none itself; give its options in a --reward_config file")
    return found  # type: ignore[no-any-return]


def _trl_rewards() -> list[str]:
    """TRL's ready rewards; its `get_...` functions make rewards and are none themselves."""
    module = importlib.import_module("trl.rewards")
    return [name for name in dir(module) if name.endswith("_reward") and not name.startswith(("get_", "_"))]


def _require_classifier(folder: Path) -> None:
    config, adapter = folder / "config.json", folder / "adapter_config.json"
    if (folder / "ensemble.json").is_file():  # its own loader says what is wrong with one
        return
    try:
        if adapter.is_file():
            kinds = [str(json.loads(adapter.read_text()).get("task_type"))]
        elif config.is_file():
            kinds = list(json.loads(config.read_text()).get("architectures") or [])
        else:
            raise RewardError(
                f"{folder} holds no model (neither config.json nor adapter_config.json); "
                "give the folder that the reward recipe wrote"
            )
    except ValueError as error:
        raise RewardError(f"the configuration in {folder} is not valid JSON: {error}") from error
    _require_kind(str(folder), kinds)


def _require_kind(name: str, kinds: Sequence[str]) -> None:
    if not any(kind == "SEQ_CLS" or kind.endswith("ForSequenceClassification") for kind in kinds):
        raise RewardError(
            f"{name} is no reward model but {', '.join(kinds) or 'of unknown architecture'}; "
            "give a sequence-classification model, as the reward recipe writes"
        )


def _require_hub_classifier(name: str, trust_remote_code: bool) -> None:
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise RewardError(f"the reward model {name} cannot be found: {str(error).splitlines()[0]}") from error
    _require_kind(name, list(config.architectures or []))


def _may_be_hub_id(name: str) -> bool:
    if name.count("/") != 1 or name.startswith((".", "/", "~")) or name.endswith(("/", ".py")):
        return False
    return not Path(name).parent.is_dir()  # runs/rewrd beside a folder runs/ is a slip, not somebody's model


def _unknown(name: str, task: "Task | None") -> RewardError:
    known = sorted(
        {
            *(task.reward_functions if task else ()),
            *(e.name for e in entry_points(group=ENTRY_POINTS)),
            *BUILT_IN,
            *_trl_rewards(),
        }
    )
    if "/" in name or name.endswith(".py"):
        hint = "; for a function in a file add :function" if name.endswith(".py") else "; there is no such folder"
        return RewardError(f"unknown reward {name}{hint}")
    near = _nearest(name, known) or f"; known: {', '.join(known)}"
    return RewardError(
        f"unknown reward {name}{near}; or give path/to/file.py:function, module:function, or a reward model's folder"
    )


def _nearest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]}?)" if close else ""
