"""The `rlgen` command: `rlgen NAME [flags]` runs the main of recipes/NAME.py.

A recipe `reward_check` is called as `rlgen reward check`.
"""

import ast
import difflib
import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import rlgen

RECIPES = Path(rlgen.__file__).parent.parent / "recipes"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one recipe, or say which there are.

    Args:
        argv: the words after `rlgen`; None takes those of the process.

    Returns:
        The exit code.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    if words[0] in ("-V", "--version"):
        print(f"rlgen {rlgen.__version__}")
        return 0
    known = recipe_summaries()
    of_two = "_".join(words[:2])
    name, flags = (of_two, words[2:]) if of_two in known else (words[0], words[1:])
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
        print(f"error: unknown recipe {name}: {hint}", file=sys.stderr)
        return 2
    sys.argv = [f"rlgen {spoken(name)}", *flags]
    importlib.import_module(f"recipes.{name}").main(flags)
    return 0


def recipe_main(name: str) -> Callable[[list[str]], Any]:
    """The bare main of a recipe, which lets its errors through."""
    return importlib.import_module(f"recipes.{name}").main.__wrapped__  # type: ignore[no-any-return]


def recipe_summaries() -> dict[str, str]:
    """Names and first docstring lines of all recipes, read without importing them."""
    summaries = {}
    for file in sorted(RECIPES.glob("[!_]*.py")):
        docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
        summaries[file.stem] = docstring.partition("\n")[0]
    return summaries


def spoken(name: str) -> str:
    """How a recipe is called on the command line."""
    return name.replace("_", " ")


def overview() -> str:
    """The text of `rlgen --help`."""
    summaries = {spoken(name): summary for name, summary in recipe_summaries().items()}
    width = max(map(len, summaries), default=0)
    lines = [f"  {name:<{width}}  {summary}" for name, summary in summaries.items()]
    return "\n".join(
        [
            "usage: rlgen NAME [--config FILE] [--FLAG VALUE ...]",
            "",
            "Reinforcement fine-tuning of language models. Start with: rlgen quickstart",
            "",
            *lines,
            "",
            "rlgen NAME --help shows the flags of one; rlgen --version the version.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
