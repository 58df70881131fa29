"""The `rlgen` command itself."""

import subprocess
import sys
from pathlib import Path

import pytest

import rlgen
from rlgen import cli

ROOT = Path(__file__).parent.parent


def test_help_lists_every_recipe_with_its_first_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    for file in (ROOT / "recipes").glob("[!_]*.py"):
        assert f"  {file.stem.replace('_', ' ')} " in text
    assert "Supervised fine-tuning" in text


def test_help_imports_no_recipe_and_no_library() -> None:
    code = (
        "import sys; from rlgen import cli; cli.main(['--help']);"
        "heavy = [m for m in ('torch', 'trl', 'transformers', 'rich', 'recipes.sft') if m in sys.modules];"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("words", [[], ["help"], ["-h"]])
def test_no_words_or_a_call_for_help_shows_the_overview(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 0
    assert "rlgen quickstart" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"rlgen {rlgen.__version__}"


def test_version_is_that_of_the_package() -> None:
    assert f'version = "{rlgen.__version__}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_an_unknown_recipe_is_one_line_with_the_nearest_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["quickstrat"]) == 2
    assert capsys.readouterr().err == "error: unknown recipe quickstrat: did you mean quickstart?\n"


def test_a_recipe_gets_the_remaining_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "echo.py").write_text('"""Say it."""\nseen = []\ndef main(argv):\n    seen.extend(argv)\n')
    monkeypatch.setattr(cli, "RECIPES", tmp_path)
    monkeypatch.setattr(sys, "argv", ["rlgen"])
    monkeypatch.setattr("recipes.__path__", [str(tmp_path)])
    assert cli.main(["echo", "--seed", "3"]) == 0
    assert sys.modules["recipes.echo"].seen == ["--seed", "3"]
    assert sys.argv == ["rlgen echo", "--seed", "3"]
    del sys.modules["recipes.echo"]


def test_a_recipe_of_two_words_is_called_with_a_space(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("speak", "speak_softly"):
        (tmp_path / f"{name}.py").write_text('"""Say it."""\nseen = []\ndef main(argv):\n    seen.extend(argv)\n')
    monkeypatch.setattr(cli, "RECIPES", tmp_path)
    monkeypatch.setattr(sys, "argv", ["rlgen"])
    monkeypatch.setattr("recipes.__path__", [str(tmp_path)])
    assert cli.main(["speak", "softly", "--seed", "3"]) == 0
    assert sys.argv == ["rlgen speak softly", "--seed", "3"]
    assert sys.modules["recipes.speak_softly"].seen == ["--seed", "3"]
    assert cli.main(["speak", "--softly"]) == 0
    assert sys.modules["recipes.speak"].seen == ["--softly"]
    for name in ("speak", "speak_softly"):
        del sys.modules[f"recipes.{name}"]
