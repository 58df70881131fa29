"""What each way of tuning costs and gives, under SFT and under PPO: the quickstart's task, model and settings.

    python tests/benchmarks/tuning.py run --quickstart runs/quickstart --output_dir runs/tuning --sft_steps 45
    python tests/benchmarks/tuning.py table runs/tuning

`run` trains SFT from the preset's model, and PPO from the quickstart's SFT model, with each strategy that the stage
allows, one after the other, each in a process and a folder of its own and for the same number of steps; then it
compares all results of a stage with their common start on the preset's held-out prompts. All settings are the preset's
but the learning rate, which must fit what trains: `RATES` has the usual magnitudes, for loha, lokr, vera and
prefix_tuning the better of two by SFT's validation loss; `--rates ia3=1e-3` takes others. What a strategy cannot do is
kept as its error message. It goes on where it was interrupted.
Strategies of kind weights leave whole models: count the model's float32 size for each of them and stage.

`table` reads each folder's `run.json`, `benchmark.json` and the comparisons' `results.json`.
"""

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from recipes.quickstart import PRESETS, QuickstartArguments, stage_options
from rlgen.cli import recipe_main
from rlgen.errors import RlgenError
from rlgen.pipeline import flags
from rlgen.progress import recipe_progress
from rlgen.runs import write_atomic
from rlgen.strategies import STRATEGIES

STAGES = ("sft", "ppo")
# LoRA and its kin keep the preset's rate; the fewer numbers train, the further each has to go.
WEIGHTS = {"full": 5e-5, "gradual": 5e-5, "head": 5e-4}
VECTORS = {"bitfit": 2e-3, "layer_norm": 2e-3, "beft": 2e-3, "ia3": 5e-3}
PROMPTS = {"prompt_tuning": 3e-2, "p_tuning": 3e-3, "prefix_tuning": 5e-2}
RATES = {
    "sft": WEIGHTS | VECTORS | PROMPTS | {"loha": 3e-3, "lokr": 5e-3, "vera": 2e-2},
    "ppo": {"full": 1e-5, "gradual": 1e-5, "head": 5e-5, "vera": 5e-3} | VECTORS,
}


def preset_of(args: argparse.Namespace) -> dict[str, Any]:
    """The preset as it is shipped."""
    loaded: dict[str, Any] = yaml.safe_load((PRESETS / f"{args.preset}.yaml").read_text(encoding="utf-8"))
    return loaded


def base_of(args: argparse.Namespace) -> str:
    """The model that SFT starts from."""
    return str(preset_of(args)["model"] or Path(args.quickstart) / "model")


def options_of(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The preset's flags for each stage, reading from the quickstart's folder."""
    settings = QuickstartArguments(output_dir=args.quickstart, seed=args.seed)
    return stage_options(settings, preset_of(args), base_of(args))


def stage_flags(args: argparse.Namespace, stage: str, name: str) -> dict[str, Any]:
    """What one run is given: the preset's settings, less those that the strategy does not read."""
    options = options_of(args)[stage] | {"tuning": name, "save_strategy": "no"}
    if "top_layers" not in STRATEGIES[name].settings:
        options.pop("top_layers", None)
    given = dict(pair.split("=") for pair in args.rates or ())
    rates = RATES[stage] | given
    if name in rates:
        options["learning_rate"] = float(rates[name])
    options["output_dir"] = str(Path(args.output_dir) / stage / name)
    if stage == "sft":
        options["max_steps"] = args.sft_steps
    elif args.episodes is not None:
        options["total_episodes"] = args.episodes
    return options


def train(args: argparse.Namespace) -> None:
    """One strategy under one stage, in this process."""
    options = stage_flags(args, args.stage, args.strategy)
    folder = Path(options["output_dir"])
    record: dict[str, Any] = {"samples": options.get("total_episodes") if args.stage == "ppo" else None}
    try:
        with recipe_progress():
            recipe_main(args.stage)(flags(options))
    except RlgenError as error:
        record["refused"] = str(error)
    record["peak_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # kilobytes on Linux
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "benchmark.json", json.dumps(record) + "\n")


def run(args: argparse.Namespace) -> None:
    """All strategies under both stages, then a comparison a stage."""
    for stage in args.stages:
        names = [name for name in args.strategies if stage in STRATEGIES[name].stages]
        for name in names:
            if not (Path(args.output_dir) / stage / name / "benchmark.json").is_file():
                command = [sys.executable, __file__, "train", f"--stage={stage}", f"--strategy={name}"]
                command += [f"--{key}={getattr(args, key)}" for key in ("quickstart", "output_dir", "preset", "seed")]
                command += [f"--sft_steps={args.sft_steps}"]
                command += [] if args.episodes is None else [f"--episodes={args.episodes}"]
                command += ["--rates", *args.rates] if args.rates else []
                subprocess.run(command, check=True)
        trained = [name for name in names if "refused" not in record_of(Path(args.output_dir), stage, name)]
        start = base_of(args) if stage == "sft" else f"{args.quickstart}/sft"
        options = options_of(args)["compare"] | {"output_dir": f"{args.output_dir}/{stage}/compare"}
        options["checkpoints"] = [f"start={start}", *(f"{name}={args.output_dir}/{stage}/{name}" for name in trained)]
        options["reward_model"] = None
        with recipe_progress():
            recipe_main("compare")(flags(options))


def record_of(folder: Path, stage: str, name: str) -> dict[str, Any]:
    """What `train` has left about one run."""
    loaded: dict[str, Any] = json.loads((folder / stage / name / "benchmark.json").read_text(encoding="utf-8"))
    return loaded


def table(folder: Path, stage: str) -> list[str]:
    """One row a strategy, as Markdown."""
    results = json.loads((folder / stage / "compare" / "results.json").read_text(encoding="utf-8"))
    samplings = sorted({row["sampling"] for row in results["comparisons"]})
    found = {(row["b"], row["measure"], row["sampling"]): row for row in results["comparisons"] if row["a"] == "start"}
    titles = ["tuning", *(f"reward - start, {sampling}" for sampling in samplings), "trained parameters", "samples/s"]
    titles += ["optimizer MB", "checkpoint MB", "peak GiB"]
    lines = [f"| {' | '.join(titles)} |", f"|{'---|' * len(titles)}"]
    for name in (name for name in STRATEGIES if (folder / stage / name / "benchmark.json").is_file()):
        record = record_of(folder, stage, name)
        if "refused" in record:
            lines.append(f"| {name} | {record['refused']} |{' |' * (len(titles) - 2)}")
            continue
        run_record = json.loads((folder / stage / name / "run.json").read_text(encoding="utf-8"))
        costs, summary = run_record["tuning"], run_record["summary"]
        cells = [name]
        for sampling in samplings:
            row = found[name, "reward", sampling]
            cells.append(f"{row['difference']:+.3f} ({row['ci_low']:+.3f} to {row['ci_high']:+.3f})")
        speed = summary["train_samples_per_second"]
        if stage == "ppo":
            speed = record["samples"] / summary["train_runtime"]
        cells += [f"{costs['trainable_parameters']:,}", f"{speed:.2f}"]
        cells += [f"{costs[key] / 1e6:.2f}" for key in ("optimizer_bytes", "checkpoint_bytes")]
        lines.append(f"| {' | '.join(cells)} | {record['peak_gib']:.2f} |")
    return lines


def show(args: argparse.Namespace) -> None:
    """The tables of the stages that were compared."""
    for stage in STAGES:
        if (args.folder / stage / "compare" / "results.json").is_file():
            print(f"\n{stage.upper()}\n")
            print("\n".join(table(args.folder, stage)))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("run", "train"):
        running = commands.add_parser(name)
        running.add_argument("--quickstart", required=True, help="folder of a finished quickstart")
        running.add_argument("--output_dir", required=True)
        running.add_argument("--sft_steps", type=int, default=45, help="optimizer steps of SFT")
        running.add_argument("--episodes", type=int, help="completions that PPO trains on; default the preset's")
        running.add_argument("--rates", nargs="+", help="learning rates, strategy=rate")
        running.add_argument("--preset", default="default", help="the quickstart's preset; smoke for its tiny model")
        running.add_argument("--seed", type=int, default=0)
        if name == "run":
            running.add_argument("--stages", nargs="+", default=list(STAGES), choices=STAGES)
            running.add_argument("--strategies", nargs="+", default=list(STRATEGIES), choices=STRATEGIES)
        else:
            running.add_argument("--stage", required=True, choices=STAGES)
            running.add_argument("--strategy", required=True, choices=STRATEGIES)
    showing = commands.add_parser("table")
    showing.add_argument("folder", type=Path)
    args = parser.parse_args(argv)
    {"run": run, "train": train, "table": show}[args.command](args)


if __name__ == "__main__":
    main()
