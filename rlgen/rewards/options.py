"""Options of a reward, as a configuration file gives them: bound to a function, or given to what makes one."""

import difflib
import functools
import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from rlgen.errors import RewardError
from rlgen.rewards.check import Reward

# What a trainer passes for every row or call; a function that asks for none of it is no reward but makes one.
ROWS = frozenset({"prompts", "completions", "completion_ids"})
ONE_ROW = frozenset({"prompt", "completion"})
EXTRAS = frozenset({"trainer_state", "log_metric", "log_extra", "environments"})


class Configured(functools.partial):  # type: ignore[type-arg]
    """A reward with some of its parameters fixed; a column of the same name does not replace them."""

    def __call__(self, /, *args: Any, **columns: Any) -> Any:
        """Call the reward with the columns and the fixed parameters."""
        return self.func(*args, **{**columns, **self.keywords})


def configured(found: Any, options: Mapping[str, Any], where: str) -> Reward:
    """A reward made from what a name stands for and its options.

    Args:
        found: a class or a function that makes a reward, which is called with the options; or a reward function,
            whose parameters of these names are fixed.
        options: keyword arguments, possibly none.
        where: the name, for messages.

    Raises:
        RewardError: an option that does not exist or is missing, or what is made is no function.
    """
    if not callable(found):
        raise RewardError(f"{where} is a {type(found).__name__}, not a function")
    known = parameters(found)
    if isinstance(found, type) or makes_a_reward(found):
        check_options(options, known, where)
        return _made(found, options, where)
    check_options(options, known - ROWS - ONE_ROW - EXTRAS, where)
    if not options:
        return found  # type: ignore[no-any-return]
    bound = Configured(found, **options)
    bound.__wrapped__ = found  # type: ignore[attr-defined]  # so that an error names the line in the user's function
    return bound


def makes_a_reward(found: Any) -> bool:
    """Whether a function asks for nothing that a trainer passes: then it makes a reward and is none itself."""
    takes_all = any(p.kind is p.VAR_KEYWORD for p in signature(found).parameters.values())
    return not takes_all and not parameters(found) & (ROWS | ONE_ROW)


def check_options(options: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    """Refuse options that a reward does not have.

    Raises:
        RewardError: names the first such option, and the nearest that there is.
    """
    names = sorted(known)
    for option in options:
        if option not in names:
            close = difflib.get_close_matches(str(option), names, n=1)
            hint = f"did you mean {close[0]}?" if close else f"it has: {', '.join(names) or 'none'}"
            raise RewardError(f"reward {where} has no option '{option}': {hint}")


def parameters(found: Any) -> set[str]:
    """Names of the parameters that can be given by keyword; none where there is no signature to read."""
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {name for name, parameter in signature(found).parameters.items() if parameter.kind in by_name}


def signature(found: Any) -> inspect.Signature:
    """What a callable asks for; a decorator's wrapper counts unless it passes everything through."""
    try:
        own = inspect.signature(found, follow_wrapped=False)
        passes_through = {parameter.kind for parameter in own.parameters.values()} <= {
            inspect.Parameter.VAR_POSITIONAL,
            inspect.Parameter.VAR_KEYWORD,
        }
        return inspect.signature(found) if passes_through else own
    except (TypeError, ValueError):  # some functions written in C
        return inspect.signature(lambda **_: None)


def _made(found: Any, options: Mapping[str, Any], where: str) -> Reward:
    try:
        made = found(**options)
    except RewardError:
        raise
    except Exception as error:
        raise RewardError(
            f"reward {where} cannot be made from its options: {type(error).__name__}: {' '.join(str(error).split())}"
        ) from error
    if not callable(made):
        raise RewardError(f"{where} made a {type(made).__name__} from its options, not a reward function")
    return made  # type: ignore[no-any-return]
