"""The wheel carries everything, and works outside the checkout."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_the_wheel_runs_recipes_with_their_yaml_outside_the_checkout(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    built = subprocess.run(command, capture_output=True, text=True)
    if built.returncode and "hatchling" in built.stderr:
        pytest.skip("the build backend cannot be fetched without a network")
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("rlgen-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "site")
    assert {"rlgen/py.typed", "recipes/configs/docstring/ppo.yaml", "reward_models/docstring.py"} <= set(names)
    assert any(name.endswith("report.html.j2") for name in names)
    assert not [name for name in names if name.startswith("tests/")]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "PYTHONSAFEPATH": "1"}
    # A shipped configuration is found by its name, and a wrong key in a flag is refused by the installed parser.
    line = "sft --config docstring/sft.yaml --learning_rat 1"
    script = f"import sys; sys.argv = ['rlgen', *{line.split()!r}]; from rlgen.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 2, done.stderr
    assert "did you mean --learning_rate?" in done.stderr
