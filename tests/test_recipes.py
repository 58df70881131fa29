"""Every recipe through its real command line, every shipped YAML, and every mistake a user is likely to make."""

import dataclasses
import importlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from recipes import quickstart
from rlgen import cli, config
from rlgen.embedded import WHEEL
from rlgen.pipeline import flags
from rlgen.rewards import build_composite
from rlgen.tasks import get_task
from rlgen.tiny import tiny_model

ROOT = Path(__file__).parent.parent
RECIPES = sorted(file.stem for file in (ROOT / "recipes").glob("[!_]*.py"))
CONFIGS = sorted((ROOT / "recipes" / "configs").rglob("*.yaml"))
CONFIGS = [file for file in CONFIGS if file.parent.name != "accelerate"]  # see ppo/test_launch_configs.py
MIXES = [file for file in CONFIGS if file.stem.startswith("reward_mix")]  # compositions, settings of no recipe
WRITES_NOTHING = {"reward_explain", "tasks", "tasks_gain", "tasks_show"}

# The shortest command line of every recipe: a tiny model and own files, two steps. A new recipe needs a line here.
TRAINING = "--max_steps 2 --per_device_train_batch_size 2 --logging_steps 1"
MINIMAL = {
    "chain": "chain_stages --output_dir chain",
    "pretrain": "--from_scratch --train_tokenizer --vocab_size 300 --hidden_size 16 --num_hidden_layers 1 "
    f"--dataset_name text.txt --max_length 32 --output_dir pretrain {TRAINING}",
    "sft": f"--model_name_or_path MODEL --dataset_name rows.jsonl --output_dir sft {TRAINING}",
    "reward": f"--model_name_or_path MODEL --dataset_name rows.jsonl --reward my_rewards.py:shortness --min_margin 0 "
    f"--num_generations 2 --max_completion_length 8 --output_dir reward {TRAINING}",
    "reward_evaluate": "--reward my_rewards.py:shortness --pairs pairs.jsonl --output_dir reward_evaluate",
    "ppo": "--model_name_or_path MODEL --dataset_name rows.jsonl --reward my_rewards.py:shortness --output_dir ppo "
    "--per_device_train_batch_size 2 --steps_per_generation 1 --num_generations 2 --max_completion_length 8 "
    "--critic_warmup_rollouts 0 --num_ppo_epochs 1 --max_steps 2",
    "dpo": f"--model_name_or_path MODEL --dataset_name pairs.jsonl --output_dir dpo {TRAINING}",
    "compare": "--checkpoints a=MODEL b=OTHER --dataset_name rows.jsonl --reward my_rewards.py:shortness "
    "--max_new_tokens 8 --output_dir compare",
    "sweep": "--recipe sft --config sweep_base.yaml --search search.yaml --trials 2 --metric eval_loss "
    "--output_dir sweep",
    "harness": "--model_name_or_path MODEL --include_path tasks --tasks rlgen_say --output_dir harness",
    "overoptimization": "--start MODEL --dataset_name rows.jsonl --proxy my_rewards.py:shortness "
    "--gold my_rewards.py:plainness --best_of 4 --max_new_tokens 8 --output_dir overoptimization",
    "quickstart": "--preset smoke --output_dir quickstart",
    "tasks": "",
    "tasks_gain": "--comparison augmented",
    "tasks_show": "reasoning --model_name_or_path MODEL --rows 1 --scored 4 --shots 1shot-plain",
    "tokens": "--checkpoints a=MODEL b=OTHER --dataset_name rows.jsonl --reward my_rewards.py:shortness "
    "--rows 2 --max_new_tokens 6 --output_dir tokens",
    "reward_explain": "--dataset_name rows.jsonl --reward my_rewards.py:shortness",
    "reward_check": "my_rewards.py:shortness --dataset_name rows.jsonl --model_name_or_path MODEL --max_new_tokens 8 "
    "--output_dir reward_check",
}
LEAVES = {
    "chain": ["manifest.json", "report.html", "sft/model.safetensors", "ppo/adapter_model.safetensors"],
    "pretrain": ["run.json", "metrics.jsonl", "config.json", "model.safetensors", "tokenizer_config.json"],
    "sft": ["run.json", "metrics.jsonl", "config.json", "model.safetensors", "tokenizer_config.json"],
    "reward": ["run.json", "metrics.jsonl", "model.safetensors", "evaluation.json", "pairs/train.jsonl"],
    "reward_evaluate": ["run.json", "evaluation.json", "reward_report.html"],
    "ppo": ["run.json", "metrics.jsonl", "adapter_config.json", "adapter_model.safetensors", "critic"],
    "dpo": ["run.json", "metrics.jsonl", "adapter_config.json", "adapter_model.safetensors"],
    "sweep": ["run.json", "best.yaml", "trials.json", "summary.md", "sweep.db", "trial-001/model.safetensors"],
    "harness": ["run.json", "results.json", "samples_rlgen_say.jsonl"],
    "compare": ["run.json", "results.json", "report.html", "summary.md"],
    "overoptimization": ["run.json", "overoptimization.json", "overoptimization.svg", "generations/start.jsonl"],
    "quickstart": ["manifest.json", "report.html", "compare/results.json"],
    "tokens": ["run.json", "tokens.json", "tokens.html"],
    "reward_explain": [],
    "tasks": [],
    "tasks_gain": [],
    "tasks_show": [],
    "reward_check": ["run.json", "check.json"],
}
HARNESS_TASK = """
task: rlgen_say
dataset_path: json
dataset_kwargs: {data_files: {test: rows.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{prompt}}"
doc_to_target: "{{completion}}"
generation_kwargs: {max_gen_toks: 4}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""
CHAIN_SFT = """
model_name_or_path: llama
dataset_name: rows.jsonl
output_dir: runs/mine/sft
max_steps: 2
per_device_train_batch_size: 2
"""
LEAKY_TASK = """
from datasets import Dataset
from rlgen.tasks import Task

def build(source):
    rows = Dataset.from_list([{"prompt": "Tea?", "completion": "Please."}])
    return Task("leaky", "Say the same.", lambda name, count=None: rows, {}, {}, {}, 64, 64)
"""
CHAIN_PPO = """
model_name_or_path: runs/mine/sft
dataset_name: others.jsonl
reward: ["my_rewards.py:shortness"]
output_dir: runs/mine/ppo
per_device_train_batch_size: 2
steps_per_generation: 1
num_generations: 2
max_completion_length: 8
critic_warmup_rollouts: 0
num_ppo_epochs: 1
max_steps: 2
"""
CHAIN_COMPARE = """
checkpoints: [sft=runs/mine/sft, ppo=runs/mine/ppo]
dataset_name: heldout.jsonl
reward: ["my_rewards.py:shortness"]
max_new_tokens: 8
output_dir: runs/mine/compare
"""
WORDS = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu"]
MY_REWARDS = """
import random

def shortness(prompts, completions, **columns):
    texts = [c if isinstance(c, str) else c[-1]["content"] for c in completions]
    return [-float(len(text)) / 100 for text in texts]

def plainness(prompts, completions, **columns):
    texts = [c if isinstance(c, str) else c[-1]["content"] for c in completions]
    return [sum(letter.isascii() for letter in text) / max(len(text), 1) for text in texts]

def raises(prompts, completions, **columns):
    raise KeyError("no such thing")

def nan(prompts, completions, **columns):
    return [float("nan")] * len(completions)

def hangs(prompts, completions, **columns):
    while True:
        pass

def dice(prompts, completions, **columns):
    return [random.random() for _ in completions]

def too_few(prompts, completions, **columns):
    return [1.0]
"""


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder outside the checkout with a user's own models, rows, pairs and rewards."""
    folder = tmp_path_factory.mktemp("work")
    for family in ("llama", "gpt2"):
        tiny_model(folder / family, family)
        tiny_model(folder / f"{family}-other", family, seed=1)
    rows = [{"prompt": f"Say {word}.", "completion": f"It is {word}."} for word in WORDS]
    pairs = [{"prompt": f"Say {word}.", "chosen": f"It is {word}.", "rejected": "No."} for word in WORDS]
    heldout = [{"prompt": f"Tell {word}.", "completion": f"It is {word}."} for word in WORDS]
    for name, content in {
        "rows": rows,
        "heldout": heldout,
        "others": [{"prompt": f"Name {word}."} for word in WORDS],
        "pairs": pairs,
        "no_prompt": [{"question": "a"}],
        "empty": [],
    }.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    (folder / "my_rewards.py").write_text(MY_REWARDS)
    (folder / "text.txt").write_text("".join(f"{first} and {second}.\n" for first in WORDS for second in WORDS) * 3)
    (folder / "no_reference.jsonl").write_text('{"prompt": "a"}\n')
    (folder / "typo.yaml").write_text("lerning_rate: 1.0e-3\n")
    (folder / "mix_typo.yaml").write_text("rewards: {short: {reward: 'my_rewards.py:shortness', wieght: 2}}\n")
    base = "model_name_or_path: llama\ndataset_name: rows.jsonl\neval_dataset_name: heldout.jsonl\nmax_steps: 2\n"
    (folder / "sweep_base.yaml").write_text(base)
    (folder / "search_seed.yaml").write_text("seed: [1, 2]\n")
    (folder / "search.yaml").write_text("learning_rate: {low: 1e-5, high: 1e-3, log: true}\n")
    (folder / "search_typo.yaml").write_text("lerning_rate: [1e-5, 1e-3]\n")
    (folder / "search_bad.yaml").write_text("learning_rate: {low: 1e-3, high: 1e-5}\n")
    (folder / "search_end.yaml").write_text("dropout: {low: 0.5, high: 1.5}\n")
    (folder / "chain_stages").mkdir()
    (folder / "chain_stages" / "sft.yaml").write_text(CHAIN_SFT)
    (folder / "chain_stages" / "ppo.yaml").write_text(CHAIN_PPO)
    (folder / "chain_stages" / "compare.yaml").write_text(CHAIN_COMPARE)
    (folder / "chain_typo").mkdir()
    (folder / "chain_typo" / "sft.yaml").write_text(CHAIN_SFT)
    (folder / "chain_typo" / "ppo.yaml").write_text(f"{CHAIN_PPO}kl_coeff: 0.1\n")
    (folder / "many.yaml").write_text("data: many.jsonl\nrewards: {my_rewards.py:shortness: 1}\n")
    (folder / "many.jsonl").write_text("".join(f'{{"prompt": "Say {n}.", "completion": "{n}"}}\n' for n in range(99)))
    (folder / "leaky.py").write_text(LEAKY_TASK)
    for name, line in {"tuning": "tuning: prompt_tuning", "task": "task: reasonin"}.items():
        (folder / f"chain_{name}").mkdir()
        (folder / f"chain_{name}" / "sft.yaml").write_text(CHAIN_SFT)
        (folder / f"chain_{name}" / "ppo.yaml").write_text(f"{CHAIN_PPO}{line}\n")
    (folder / "no_model").mkdir()
    (folder / "tasks").mkdir()
    (folder / "tasks" / "rlgen_say.yaml").write_text(HARNESS_TASK)
    (folder / "a_file").touch()
    return folder


def arguments(recipe: str, family: str) -> list[str]:
    line = MINIMAL[recipe].replace("MODEL", family).replace("OTHER", f"{family}-other")
    return line.split()


def script(recipe: str, words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(ROOT / "recipes" / f"{recipe}.py"), *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_every_recipe_has_a_command_line_here() -> None:
    assert sorted(MINIMAL) == sorted(LEAVES) == RECIPES


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [name for name in RECIPES if name != "quickstart"])
def test_two_steps_through_the_real_command_line(recipe: str, workplace: Path, tmp_path: Path) -> None:
    if recipe == "harness":
        pytest.importorskip("lm_eval")
    if recipe == "tasks_gain":
        pytest.skip("needs data that is fetched: tests/tasks/test_gain.py")
    for file in workplace.iterdir():
        (tmp_path / file.name).symlink_to(file)
    done = script(recipe, arguments(recipe, "llama"), tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert not [name for name in LEAVES[recipe] if not (tmp_path / recipe / name).exists()]
    if recipe not in WRITES_NOTHING:
        record = "manifest.json" if recipe == "chain" else "run.json"
        assert json.loads((tmp_path / recipe / record).read_text())["finished"]
    assert done.stdout.strip().splitlines()[-1].lstrip().startswith(("next:", "or:", "report:"))


@pytest.mark.slow
def test_a_gpt2_goes_through_all_recipes_one_upon_the_other(
    workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in workplace.iterdir():
        (tmp_path / file.name).symlink_to(file)
    monkeypatch.chdir(tmp_path)
    chain: dict[str, dict[str, str]] = {
        "sft": {},
        "reward": {"gpt2": "sft"},
        "ppo": {"gpt2": "sft", "my_rewards.py:shortness": "my_rewards.py:shortness reward"},
        "dpo": {"gpt2": "sft", "--dataset_name pairs.jsonl": "--pairs reward/pairs"},
        "compare": {"a=gpt2 b=gpt2-other": "base=gpt2 sft=sft ppo=ppo dpo=dpo --reward_model reward"},
    }
    for recipe, changes in chain.items():
        line = " ".join(arguments(recipe, "gpt2"))
        for old, new in changes.items():
            assert old in line
            line = line.replace(old, new)
        if recipe == "compare":
            line = line.replace("rows.jsonl", "heldout.jsonl")
        importlib.import_module(f"recipes.{recipe}").main(line.split())
        assert not [name for name in LEAVES[recipe] if not (tmp_path / recipe / name).exists()]
    results = json.loads(Path("compare/results.json").read_text())
    assert {(row["a"], row["b"]) for row in results["comparisons"]} >= {("base", "sft"), ("sft", "ppo")}


@pytest.mark.slow
def test_an_ensemble_goes_through_reward_evaluate_and_ppo(workplace: Path, tmp_path: Path) -> None:
    for file in workplace.iterdir():
        (tmp_path / file.name).symlink_to(file)
    line = f"--model_name_or_path llama --dataset_name pairs.jsonl --num_members 2 --output_dir reward {TRAINING}"
    for recipe, words in {
        "reward": line.split(),
        "reward_evaluate": "--reward reward --pairs reward/pairs/heldout.jsonl --aggregate worst".split(),
        "ppo": [*arguments("ppo", "llama"), "--reward", "reward"],
    }.items():
        done = script(recipe, words, tmp_path)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "reward" / "member_1" / "adapter_model.safetensors").is_file()
    evaluation = json.loads((tmp_path / "runs" / "reward_evaluate" / "evaluation.json").read_text())
    assert len(evaluation["ensemble"]["members"]) == 2
    assert evaluation["ensemble"]["aggregate"] == "worst"
    again = script("reward", line.split(), tmp_path)
    assert again.stdout.startswith("reward is finished")


@pytest.mark.slow
def test_an_audited_ppo_run_becomes_an_over_optimization_curve(
    workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in workplace.iterdir():
        (tmp_path / file.name).symlink_to(file)
    monkeypatch.chdir(tmp_path)
    words = arguments("ppo", "llama")
    options = {flag.removeprefix("--"): value for flag, value in zip(words[::2], words[1::2], strict=True)}
    options |= {"audit_steps": 1, "audit_action": "rollback"}
    options |= {"eval_dataset_name": "heldout.jsonl", "max_steps": 3, "learning_rate": 0.01}
    Path("ppo.yaml").write_text(yaml.safe_dump(options))
    line = " ".join(arguments("overoptimization", "llama")).replace("rows.jsonl", "heldout.jsonl")
    words = f"{line} --ppo_config ppo.yaml --save_steps 1 --num_samples 2".split()
    with pytest.raises(SystemExit):  # rows that the audit has seen are not held out for the curve
        importlib.import_module("recipes.overoptimization").main(words)
    assert "validation data of run" in capsys.readouterr().err
    run = Path("overoptimization/ppo")
    assert [json.loads(each)["step"] for each in (run / "audit.jsonl").read_text().splitlines()] == [1, 2, 3]
    assert (run / "audit" / "start.json").exists()
    fresh = [{"prompt": f"Ask {word}.", "completion": f"It is {word}."} for word in WORDS]
    Path("fresh.jsonl").write_text("".join(json.dumps(row) + "\n" for row in fresh))
    words = [word.replace("heldout.jsonl", "fresh.jsonl") for word in words]
    words[words.index("overoptimization")] = "curves"
    importlib.import_module("recipes.overoptimization").main(
        [*[word for word in words if word not in ("--ppo_config", "ppo.yaml")], "--ppo_run", str(run)]
    )
    curves = json.loads(Path("curves/overoptimization.json").read_text())["curves"]
    assert [point["label"] for point in curves["rl"]["points"]] == ["step-1", "step-2", "step-3"]
    assert [point["label"] for point in curves["best_of_n"]["points"]] == ["best of 2", "best of 3", "best of 4"]
    assert all(point["kl"] >= 0 for point in curves["rl"]["points"])


@pytest.mark.slow
def test_the_quickstart_killed_in_the_middle_goes_on(tmp_path: Path) -> None:
    words = arguments("quickstart", "llama")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(ROOT / "recipes" / "quickstart.py"), *words]
    manifest = tmp_path / "quickstart" / "manifest.json"

    def states() -> dict[str, Any]:
        return {entry["name"]: entry for entry in json.loads(manifest.read_text())["stages"]}

    with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE) as process:
        while process.poll() is None and not (manifest.exists() and states()["reward"]["state"] == "running"):
            time.sleep(0.2)
        process.kill()
        assert process.stderr is not None
        assert states()["sft"]["state"] == "finished", process.stderr.read().decode()
    before = states()["sft"]
    done = script("quickstart", words, tmp_path)
    assert done.returncode == 0, done.stderr
    assert not [name for name in LEAVES["quickstart"] if not (tmp_path / "quickstart" / name).exists()]
    assert {entry["state"] for entry in states().values()} == {"finished"}
    assert states()["sft"] == before
    data = json.loads(manifest.read_text())["data"]
    assert {"sft", "preference", "rl", "heldout"} <= data.keys()
    *_, warned, _, last = done.stdout.strip().splitlines()
    assert warned == "these numbers mean nothing: a tiny random model can only show that every stage runs"
    assert last == f"report: {Path('quickstart') / 'report.html'}"


# Help and configuration


@pytest.mark.parametrize("recipe", RECIPES)
def test_help_is_for_newcomers(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        importlib.import_module(f"recipes.{recipe}").main(["--help"])
    assert left.value.code == 0
    text = capsys.readouterr().out
    assert "--output_dir" in text or recipe in WRITES_NOTHING
    assert len(text.splitlines()) < 150


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_docstring_gives_the_command(recipe: str) -> None:
    docstring = importlib.import_module(f"recipes.{recipe}").__doc__
    assert f"    rlgen {cli.spoken(recipe)}" in docstring
    assert docstring.partition("\n")[0].endswith(".")


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_setting_of_a_recipe_is_explained(recipe: str) -> None:
    module = importlib.import_module(f"recipes.{recipe}")
    for kind in vars(module).values():
        if dataclasses.is_dataclass(kind) and kind.__module__ == module.__name__:
            for field in dataclasses.fields(kind):
                assert field.name not in kind.__annotations__ or field.metadata.get("help"), field.name


def test_every_setting_of_our_own_is_read_somewhere() -> None:
    kinds = [config.ModelArguments, config.TaskArguments]
    for recipe in RECIPES:
        module = importlib.import_module(f"recipes.{recipe}")
        kinds += [kind for kind in vars(module).values() if isinstance(kind, type) and dataclasses.is_dataclass(kind)]
    files = [file for folder in ("rlgen", "recipes") for file in (ROOT / folder).rglob("*.py")]
    source = "\n".join(file.read_text(encoding="utf-8") for file in files)
    for base in {base for kind in kinds for base in kind.__mro__}:
        if not base.__module__.startswith(("rlgen.", "recipes.")):
            continue
        libraries = [b for b in base.__mro__ if b.__module__.startswith(("trl.", "transformers."))]
        inherited = {name for library in libraries for name in getattr(library, "__annotations__", {})}
        for name in base.__annotations__.keys() - inherited:
            assert re.search(rf"\.{name}\b", source), f"nothing reads {base.__name__}.{name}"


class Parsed(Exception):
    """Stops a recipe once it has read its settings."""


@pytest.fixture
def parse_only(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, list[str]], tuple[Any, ...]]:
    """Lets a recipe read its command line and nothing more."""

    def stop(*args: Any, **kwargs: Any) -> None:
        raise Parsed(config.parse_arguments(*args, **kwargs))

    def parse(recipe: str, words: list[str]) -> tuple[Any, ...]:
        module = importlib.import_module(f"recipes.{recipe}")
        monkeypatch.setattr(module, "parse_arguments", stop)
        with pytest.raises(Parsed) as caught:
            module.main.__wrapped__(words)
        return caught.value.args[0]

    return parse


@pytest.mark.parametrize("file", MIXES, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_every_shipped_composition_loads(file: Path) -> None:
    task = get_task(file.parent.name)
    assert build_composite(yaml.safe_load(file.read_text()), file.name, task).parts


SETTINGS = [file for file in CONFIGS if file not in MIXES]


@pytest.mark.parametrize("file", SETTINGS, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_every_shipped_yaml_loads(file: Path, parse_only: Callable[[str, list[str]], tuple[Any, ...]]) -> None:
    if file.parent.name != "quickstart":
        parse_only(file.stem, ["--config", str(file)])
        return
    preset = yaml.safe_load(file.read_text())
    for stage, options in quickstart.stage_options(quickstart.QuickstartArguments(), preset, "MODEL").items():
        parsed = parse_only(stage, flags(options))
        values = {name: value for part in parsed for name, value in vars(part).items()}
        assert values["output_dir"] == str(Path("runs/quickstart") / stage)
        for key, value in preset["stages"][stage].items():
            assert values[key] == (None if value == "none" else value), f"{stage}: {key}"


def test_there_is_a_yaml_for_every_stage_of_the_docstring_task() -> None:
    names = {file.stem for file in CONFIGS if file.parent.name == "docstring"}
    assert {"sft", "reward", "ppo", "dpo"} <= names


# Mistakes

SFT = "--model_name_or_path llama --max_steps 1"
PPO = "--model_name_or_path llama --dataset_name rows.jsonl --max_steps 1"
MISTAKES = {
    "unknown task": ("sft", f"{SFT} --task docstrin", "docstring"),
    "missing column": ("sft", f"{SFT} --dataset_name no_prompt.jsonl", "question"),
    "empty dataset": ("sft", f"{SFT} --dataset_name empty.jsonl", "empty.jsonl"),
    "missing dataset": ("sft", f"{SFT} --dataset_name nowhere.jsonl", "nowhere.jsonl"),
    "misspelt key": ("sft", "--config typo.yaml", "did you mean learning_rate?"),
    "misspelt flag": ("ppo", f"{PPO} --kl_coeff 0.1", "did you mean --kl_coef?"),
    "folder without a model": ("sft", "--model_name_or_path no_model --dataset_name rows.jsonl", "no_model"),
    "unwritable output": ("sft", f"{SFT} --dataset_name rows.jsonl --output_dir a_file/run", "a_file"),
    "unwritable quickstart": ("quickstart", "--preset smoke --output_dir a_file/run", "a_file"),
    "chain that is not there": ("chain", "reasonin", "there is no chain reasonin"),
    "chain with a misspelt key": ("chain", "chain_typo", "chain_typo/ppo.yaml: "),
    "chain with a later stage that cannot be": (
        "chain",
        "chain_tuning",
        "chain_tuning/ppo.yaml: --tuning prompt_tuning",
    ),
    "chain with a later task that is not there": (
        "chain",
        "chain_task",
        "chain_task/ppo.yaml: unknown task 'reasonin'",
    ),
    "unwritable chain": ("chain", "chain_stages --output_dir a_file/run", "a_file"),
    "unknown preset": ("quickstart", "--preset smoky", "--preset"),
    "reward that raises": ("ppo", f"{PPO} --reward my_rewards.py:raises", "raises"),
    "reward that is NaN": ("ppo", f"{PPO} --reward my_rewards.py:nan", "nan"),
    "reward of wrong length": ("ppo", f"{PPO} --reward my_rewards.py:too_few", "too_few"),
    "reward that hangs": ("ppo", f"{PPO} --reward my_rewards.py:hangs --reward_timeout 0.2", "took longer than 0.2 s"),
    "reward that is a dice": ("ppo", f"{PPO} --reward my_rewards.py:dice", "not reproducible"),
    "check of nothing": ("reward_check", "", "no reward is named"),
    "check without rows": ("reward_check", "my_rewards.py:shortness", "--dataset_name FILE"),
    "check without references": (
        "reward_check",
        "my_rewards.py:shortness --dataset_name no_reference.jsonl",
        "completion or reference",
    ),
    "missing reward": ("ppo", f"{PPO} --reward my_rewards.py:shortnes", "shortness"),
    "own rows without a reward": ("ppo", PPO, "--reward my_rewards.py:function"),
    "quantization": ("sft", f"{SFT} --dataset_name rows.jsonl --load_in_4bit", "load_in_4bit is not supported"),
    # These name a folder without a model: they are found out before one is looked for.
    "unknown tuning": ("sft", "--model_name_or_path no_model --dataset_name rows.jsonl --tuning lorra", "mean lora?"),
    "prompt under ppo": (
        "ppo",
        "--model_name_or_path no_model --dataset_name rows.jsonl --tuning prefix_tuning --critic adapter",
        "--tuning prefix_tuning does not go with ppo",
    ),
    "prompt under dpo": (
        "dpo",
        "--model_name_or_path no_model --dataset_name pairs.jsonl --tuning prompt_tuning",
        "take full, gradual",
    ),
    "prompt in a reward model": (
        "reward",
        "--model_name_or_path no_model --dataset_name pairs.jsonl --tuning p_tuning",
        "does not go with reward",
    ),
    "critic's adapter on moving weights": (
        "ppo",
        "--model_name_or_path no_model --dataset_name rows.jsonl --tuning full --critic adapter",
        "take --critic frozen, head or model",
    ),
    "packing behind a prompt": (
        "sft",
        "--model_name_or_path no_model --dataset_name rows.jsonl --tuning prompt_tuning --packing",
        "has one prompt",
    ),
    "one weight too many": ("ppo", f"{PPO} --reward my_rewards.py:shortness --reward_weights 1 2", "weight"),
    "rewards given twice": (
        "ppo",
        f"{PPO} --reward my_rewards.py:shortness --reward_config docstring/reward_mix.yaml",
        "one or the other",
    ),
    "misspelt composition": ("ppo", f"{PPO} --reward_config mix_typo.yaml", "did you mean weight?"),
    "missing composition": ("ppo", f"{PPO} --reward_config docstring/reward_mixx.yaml", "docstring/reward_mix.yaml?"),
    "run without a composition": ("reward_explain", "--checkpoint no_model", "no run folder"),
    "pairs that are not there": ("dpo", "--model_name_or_path llama --pairs nowhere/pairs", "nowhere"),
    "no checkpoints": ("compare", "", "--checkpoints"),
    "no proxy": ("overoptimization", "--start llama", "--proxy"),
    "run without checkpoints": (
        "overoptimization",
        "--start llama --dataset_name rows.jsonl --proxy my_rewards.py:shortness --gold my_rewards.py:plainness "
        "--ppo_run no_model",
        "no complete checkpoint",
    ),
    "unknown optimizer": (
        "sft",
        f"{SFT} --dataset_name rows.jsonl --optim adamw",
        "unknown optimizer adamw: did you mean",
    ),
    "adapter's dropout that is turned off": (
        "dpo",
        "--model_name_or_path no_model --dataset_name pairs.jsonl --lora_dropout 0.1",
        "add --disable_dropout false",
    ),
    "adapter's rank without an adapter": (
        "sft",
        "--model_name_or_path no_model --dataset_name rows.jsonl --tuning full --lora_r 8",
        "does not read --lora_r",
    ),
    "held-out rows beside those of the pairs": (
        "dpo",
        "--model_name_or_path llama --pairs nowhere/pairs --eval_dataset_name heldout.jsonl",
        "leave --eval_dataset_name out",
    ),
    "few-shot in tokens": (
        "tokens",
        "--checkpoints a=llama b=llama-other@2shot --dataset_name rows.jsonl",
        "checkpoint b: examples",
    ),
    "startup of a pruner that has none": (
        "sweep",
        "--recipe sft --config sweep_base.yaml --search search.yaml --metric eval_loss --pruner hyperband "
        "--prune_startup 2",
        "prune_startup has no effect",
    ),
    "early stopping without evaluation": (
        "sft",
        f"{SFT} --dataset_name rows.jsonl --eval_strategy no --early_stopping_patience 2",
        "--eval_strategy steps",
    ),
    "early stopping without held-out rows": (
        "sft",
        f"{SFT} --dataset_name rows.jsonl --early_stopping_patience 2",
        "--eval_dataset_name",
    ),
    "best metric that nobody evaluates": (
        "sft",
        f"{SFT} --dataset_name rows.jsonl --eval_dataset_name heldout.jsonl --metric_for_best_model eval_reward",
        "--eval_generate_rows",
    ),
    "best metric that nobody evaluates in ppo": (
        "ppo",
        f"{PPO} --reward my_rewards.py:shortness --eval_dataset_name heldout.jsonl --eval_strategy steps "
        "--eval_steps 1 --metric_for_best_model eval_rouge_l --per_device_train_batch_size 4 --steps_per_generation 1 "
        "--num_ppo_epochs 1 --max_completion_length 4 --critic_warmup_rollouts 0",
        "the evaluation has only",
    ),
    "label smoothing in dpo": ("dpo", f"{SFT} --dataset_name pairs.jsonl --label_smoothing 0.1", "robust"),
    "dropout in a shared reference": ("dpo", f"{SFT} --dataset_name pairs.jsonl --dropout 0.1", "--tuning full"),
    "sweep over nothing": ("sweep", "--recipe pp --search search.yaml --metric reward", "there is no recipe pp"),
    "sweep over a misspelt flag": (
        "sweep",
        "--recipe sft --config sweep_base.yaml --search search_typo.yaml --metric eval_loss",
        "did you mean --learning_rate?",
    ),
    "sweep with reversed bounds": (
        "sweep",
        "--recipe sft --config sweep_base.yaml --search search_bad.yaml --metric eval_loss",
        "must be below",
    ),
    "sweep over what --seeds sets": (
        "sweep",
        "--recipe sft --config sweep_base.yaml --search search_seed.yaml --metric eval_loss --seeds 2",
        "search_seed.yaml: seed has no place beside --seeds 2",
    ),
    "sweep whose end a recipe refuses": (
        "sweep",
        "--recipe sft --config sweep_base.yaml --search search_end.yaml --metric eval_loss",
        "dropout is 1.5",
    ),
    "audit without held-out rows": (
        "ppo",
        f"{PPO} --reward my_rewards.py:shortness --audit_steps 1",
        "--eval_dataset_name",
    ),
    "audit action without an audit": ("ppo", f"{PPO} --audit_action rollback", "--audit_steps"),
    "audit reward that raises": (
        "ppo",
        f"{PPO} --reward my_rewards.py:shortness --eval_dataset_name heldout.jsonl --audit_steps 1 "
        "--audit_reward my_rewards.py:raises",
        "raises",
    ),
    "tokens of one checkpoint": ("tokens", "--checkpoints a=llama", "two checkpoints or more"),
    "tokens of nobody": (
        "tokens",
        "--checkpoints a=llama b=llama-other --author c --dataset_name rows.jsonl",
        "no checkpoint has that name",
    ),
    "checkpoint without a model": ("compare", "--checkpoints a=llama b=no_model", "no_model"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_clear_line(
    mistake: str,
    workplace: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe, line, message = MISTAKES[mistake]
    monkeypatch.chdir(workplace)
    words = line.split()
    if "--output_dir" not in words and recipe not in WRITES_NOTHING:
        words += ["--output_dir", str(tmp_path / "run")]
    with pytest.raises(SystemExit) as left:
        importlib.import_module(f"recipes.{recipe}").main(words)
    assert left.value.code == 2
    written = [text for text in capsys.readouterr().err.splitlines() if text]
    assert written[-1].startswith("error: ")
    assert message in written[-1]
    assert len([text for text in written if text.startswith("error")]) == 1


def test_an_embedded_model_that_cannot_be_had_is_one_clear_line(
    workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RLGEN_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / WHEEL).write_text("cut short")
    monkeypatch.chdir(workplace)
    with pytest.raises(SystemExit):
        importlib.import_module("recipes.sft").main(
            ["--dataset_name", "rows.jsonl", "--output_dir", f"{tmp_path}/run"]
        )
    assert "has sha256" in capsys.readouterr().err.splitlines()[-1]


def test_a_folder_with_another_run_is_refused(
    workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workplace)
    main = importlib.import_module("recipes.sft").main
    line = f"{SFT} --dataset_name no_prompt.jsonl --output_dir {tmp_path}/run"
    for extra in ("", " --learning_rate 0.7"):
        with pytest.raises(SystemExit):
            main((line + extra).split())
        (tmp_path / "run" / "metrics.jsonl").touch()  # as if training had begun
    error = capsys.readouterr().err.splitlines()[-1]
    assert "learning_rate" in error
    assert "0.7" in error
