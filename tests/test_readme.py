"""What the README and the other documents say can be done, can be done."""

import importlib
import itertools
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest

from rlgen import cli, config
from rlgen.parser import find_config

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
README = DOCUMENTS[0].read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def shell_lines(text: str) -> list[str]:
    """Lines of the code blocks that are meant for a shell, continuations joined, comments cut off."""
    blocks = [body.replace("\\\n", " ") for language, body in BLOCK.findall(text) if language in ("", "bash", "sh")]
    return [line.partition(" #")[0].strip() for body in blocks for line in body.splitlines() if line.strip()]


def recipe_commands(text: str) -> list[str]:
    """Commands that run a recipe, as `rlgen NAME ...`, whichever way they are written."""
    found = []
    for line in shell_lines(text):
        for part in line.split("&&"):
            words = part.replace("accelerate launch ", "").replace("python ", "").strip()
            words = re.sub(r"^recipes/(\w+)\.py", r"rlgen \1", words)
            if words.startswith(("rlgen ", ".venv/bin/rlgen ")):
                found.append(words.replace(".venv/bin/", ""))
    return found


DOCSTRINGS = [importlib.import_module(f"recipes.{name}").__doc__ for name in cli.recipe_summaries()]
INDENTED = [line.partition(" #")[0].strip() for text in DOCSTRINGS for line in text.splitlines() if line[:4].isspace()]
COMMANDS = sorted(
    {command for document in DOCUMENTS for command in recipe_commands(document.read_text(encoding="utf-8"))}
    | {line for line in INDENTED if line.startswith("rlgen ")}
)


class Parsed(Exception):
    """Stops a recipe once it has read its settings."""


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_understood(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, name, *flags = shlex.split(command)
    if name.startswith("--"):
        assert cli.main([name]) == 0
        return
    if flags and f"{name}_{flags[0]}" in cli.recipe_summaries():
        name, flags = f"{name}_{flags[0]}", flags[1:]
    assert name in cli.recipe_summaries(), f"there is no recipe {name}"
    module = importlib.import_module(f"recipes.{name}")

    def stop(*args: Any, **kwargs: Any) -> None:
        config.parse_arguments(*args, **kwargs)
        raise Parsed

    monkeypatch.setattr(module, "parse_arguments", stop)
    with pytest.raises(Parsed):
        module.main.__wrapped__(flags)
    for flag, value in itertools.pairwise(flags):
        if flag == "--config":
            assert find_config(value).is_file()


def test_there_are_commands_to_check() -> None:
    assert len(COMMANDS) > 8
    named = {name for command in COMMANDS for name in (command.split()[1], "_".join(command.split()[1:3]))}
    assert named >= set(cli.recipe_summaries())


def test_both_commands_make_their_own_environment_in_one_line() -> None:
    lines = shell_lines(README)
    assert lines[0].startswith("python3 -m venv .venv && .venv/bin/pip install -q -e . && ")
    assert lines[0].endswith(".venv/bin/rlgen quickstart")
    assert lines[1].startswith('python3 -m venv .venv && .venv/bin/pip install -q -e ".[test]" && ')
    assert lines[1].endswith(".venv/bin/pytest")


def test_ci_runs_exactly_the_test_command() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert [line for line in script if "pip install" in line or "pytest" in line] == [shell_lines(README)[1]]
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o100


def test_installed_extras_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for document in DOCUMENTS:
        for names in re.findall(r'-e "?\.\[([\w,]+)\]', document.read_text(encoding="utf-8")):
            assert set(names.split(",")) <= project["optional-dependencies"].keys()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: file.name)
def test_links_and_paths_lead_somewhere(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)", text):
        if not target.startswith(("http://", "https://")):
            assert (document.parent / target).exists(), target
    for path in re.findall(r"`((?:recipes|rlgen|reward_models|tests|docs)/[\w./-]*\w)`", text):
        assert (ROOT / path).exists(), path


def test_every_recipe_is_in_the_table() -> None:
    for name in cli.recipe_summaries():
        assert f"| `{cli.spoken(name)}` |" in README


def test_the_reward_of_the_readme_keeps_the_contract() -> None:
    code = next(body for language, body in BLOCK.findall(README) if language == "python")
    names: dict[str, Any] = {}
    exec(code, names)
    chat = [{"role": "assistant", "content": "No."}]
    assert names["politeness"](prompts=["", ""], completions=["Yes, please.", chat], code=["", ""]) == [1.0, 0.0]
    assert "--reward my_rewards.py:politeness" in README


def test_dependencies_are_explained_and_bounded() -> None:
    lines = (ROOT / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    start = lines.index("dependencies = [")
    for line in lines[start + 1 : lines.index("]", start)]:
        assert re.search(r'^    "[\w-]+>=[\d.]+.*", +# \w', line), line
