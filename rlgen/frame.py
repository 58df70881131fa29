"""The frame around a recipe's main: quiet libraries, a progress display, and errors as one line."""

import errno
import functools
import logging
import sys
import warnings
from collections.abc import Callable
from typing import NoReturn, ParamSpec, TypeVar

from rlgen.errors import RlgenError
from rlgen.progress import recipe_progress

P = ParamSpec("P")
R = TypeVar("R")

NOISY = r"(torch|transformers|trl|peft|accelerate|datasets|evaluate|huggingface_hub|multiprocess|rouge_score)(\.|$)"
# The last two are what torch's zip writer says when a write comes back short.
DISK_FULL_TEXTS = (
    "no space left on device",
    "os error 28",
    "disk quota exceeded",
    "pytorchstreamwriter failed",
    "unexpected pos",
)

DISK_FULL_MESSAGE = (
    "the disk is full: free some space and rerun the same command, it goes on from the last complete checkpoint"
)


def recipe(main: Callable[P, R]) -> Callable[P, R]:
    """Turn a function into a command: problems become one line on stderr and an exit code.

    An `RlgenError` or a full disk ends with code 2, Ctrl-C with 130; anything else is a bug and keeps its traceback.
    `main.__wrapped__` is the bare function, for callers that want the exceptions.
    """

    @functools.wraps(main)
    def framed(*args: P.args, **kwargs: P.kwargs) -> R:
        quiet_libraries()
        try:
            with recipe_progress():
                return main(*args, **kwargs)
        except RlgenError as error:
            _leave(f"error: {error}", 2)
        except KeyboardInterrupt:
            _leave("interrupted: rerun the same command to go on", 130)
        except Exception as error:
            if not is_disk_full(error):
                raise
            _leave(f"error: {DISK_FULL_MESSAGE}", 2)

    return framed


def is_disk_full(error: BaseException | None) -> bool:
    """Whether a full disk is behind an exception: the system's own error, or the text of safetensors' or torch's."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if any(text in str(error).lower() for text in DISK_FULL_TEXTS):
            return True
        error = error.__cause__ or error.__context__
    return False


def quiet_libraries() -> None:
    """Show rlgen's own messages and hide what libraries say to their developers."""
    warnings.filterwarnings("ignore", module=NOISY)
    warnings.filterwarnings("ignore", message="`label_smoothing_factor` is deprecated", category=FutureWarning)
    for name in ("rlgen", "recipes", "reward_models", "__main__"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        if not any(isinstance(handler, _StderrHandler) for handler in logger.handlers):
            logger.addHandler(_StderrHandler())
        logger.propagate = False
    for name in ("trl", "peft", "accelerate", "datasets", "huggingface_hub", "evaluate", "absl"):
        logging.getLogger(name).setLevel(logging.ERROR)


class _StderrHandler(logging.Handler):
    """Writes to whatever `sys.stderr` is at the time, so that a live progress display can put lines above itself."""

    def emit(self, record: logging.LogRecord) -> None:
        level = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        sys.stderr.write(f"{level}{record.getMessage()}\n")


def _leave(message: str, code: int) -> NoReturn:
    sys.stderr.write(" ".join(message.split()) + "\n")
    raise SystemExit(code)
