"""The process of one trial: `python -m rlgen.sweep.child RECIPE FLAGS...`, which ends when its parent does."""

import importlib
import os
import sys
import threading

INTERRUPTED = 130


def end_with_parent() -> None:
    """Leave at once when the standard input ends, which it does however the parent died, even by kill -9.

    Otherwise a trial would go on in its folder, and the retried trial would write there, too.
    """

    def wait() -> None:
        os.read(0, 1)  # not sys.stdin, whose lock a thread may not hold at the end of the process
        os._exit(INTERRUPTED)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    end_with_parent()
    name, *flags = sys.argv[1:]
    sys.argv = [f"rlgen {name.replace('_', ' ')}", *flags]
    importlib.import_module(f"recipes.{name}").main(flags)
