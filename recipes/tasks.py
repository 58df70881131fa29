"""List the tasks: what each asks for, how it is rewarded, and a public data set for a run of full size.

    rlgen tasks

Needs nothing and takes a few seconds. Writes nothing. A task of your own is one file, Python or YAML: docs/tasks.md.
"""

import rlgen  # isort: skip  # noqa: F401  (it sets what the libraries below read when they are imported)

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rlgen.config import parse_arguments, recipe
from rlgen.errors import ConfigError
from rlgen.tasks import get_task, task_names


@dataclass
class TasksArguments:
    """The list has no settings."""


@recipe
def main(argv: Sequence[str] | None = None) -> None:
    """Print the list."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and not words[0].startswith("-"):
        raise ConfigError(f"rlgen tasks takes no name; to see one of them: rlgen tasks show {words[0]}")
    parse_arguments((TasksArguments,), description="List the tasks.", argv=words)
    table = Table(box=SIMPLE, pad_edge=False)
    for heading in ("task", "what it asks for", "rewards", "public data for a full run"):
        table.add_column(heading, overflow="fold")
    for name in task_names():
        task = get_task(name)
        rewards = ", ".join(f"{weight:g} {reward}" for reward, weight in task.rewards.items())
        table.add_row(*(escape(text) for text in (name, task.description, rewards, task.public_data or "-")))
    Console().print(table)
    print("next: rlgen tasks show NAME")


if __name__ == "__main__":
    main()
