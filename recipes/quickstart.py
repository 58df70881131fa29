"""Run everything once: SFT, reward model, PPO and DPO on the docstring task, then a comparison and a report.

    rlgen quickstart                              # the embedded model; minutes on two CPU cores
    rlgen quickstart --preset smoke               # a tiny random model, to see that everything works

Needs nothing but this package and, once, the embedded model (93 MB, fetched and checked). Leaves one folder with a
sub-folder per stage, `manifest.json` and `report.html`. Stop it whenever you like: the same command goes on.
"""

import rlgen  # isort: skip  # noqa: F401  (it sets what the libraries below read when they are imported)

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from rlgen.cli import recipe_main
from rlgen.config import parse_arguments, recipe
from rlgen.display import chain_display
from rlgen.errors import ConfigError
from rlgen.pipeline import Stage, flags, open_manifest, run_stages
from rlgen.progress import format_seconds
from rlgen.runs import write_atomic
from rlgen.tasks import get_task
from rlgen.tiny import tiny_model

PRESETS = Path(__file__).parent / "configs" / "quickstart"
STAGES = ("sft", "reward", "ppo", "dpo", "compare")


@dataclass
class QuickstartArguments:
    """What to run, and where."""

    output_dir: str = field(default="runs/quickstart", metadata={"help": "Folder for everything."})
    preset: Literal["smoke", "default", "full"] = field(
        default="default",
        metadata={"help": "smoke: a tiny model, under 3 minutes; default: the embedded model; full: hours."},
    )
    seed: int = field(default=0, metadata={"help": "Seed of all random choices."})
    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Start from this model instead of the preset's: hub id or local folder."}
    )
    task_source: str | None = field(
        default=None,
        metadata={"help": "Folder of Python sources to take the rows from; default the standard library."},
    )


def stage_options(args: QuickstartArguments, preset: dict[str, Any], base: str) -> dict[str, dict[str, Any]]:
    """Per stage its flags: how the stages hang together, then what the preset says."""
    run = Path(args.output_dir)
    task = {"task": "docstring", "task_source": args.task_source, "seed": args.seed}
    sft, reward, ppo, dpo = (str(run / name) for name in STAGES[:4])
    # What PPO optimizes is what the comparison adds up; a reward model that is no part of it is measured beside it.
    mix: dict[str, Any] = {}
    if preset["reward_model_weight"]:
        rewards = {**get_task("docstring").rewards, reward: preset["reward_model_weight"]}
        mix = {"reward": list(rewards), "reward_weights": list(rewards.values())}
    wiring: dict[str, dict[str, Any]] = {
        "sft": {"model_name_or_path": base},
        "reward": {"model_name_or_path": sft},
        "ppo": {"model_name_or_path": sft, **mix},
        "dpo": {"model_name_or_path": sft, "pairs": f"{reward}/pairs"},
        "compare": {
            "checkpoints": [f"base={base}", f"sft={sft}", f"ppo={ppo}", f"dpo={dpo}"],
            **(mix or {"reward_model": reward}),
        },
    }
    return {name: {"output_dir": str(run / name), **task, **wiring[name], **preset["stages"][name]} for name in STAGES}


def build_tiny_model(folder: Path, seed: int) -> None:
    """Make the model of the smoke preset, whole or not at all."""
    aside = folder.with_name(".model")
    shutil.rmtree(aside, ignore_errors=True)
    tiny_model(aside, seed=seed)
    aside.rename(folder)


@recipe
def main(argv: Sequence[str] | None = None) -> None:
    """Run the chain."""
    (args,) = parse_arguments([QuickstartArguments], description=__doc__.partition("\n")[0], argv=argv)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("quickstart runs in one process; launch the single recipes on several")
    run = Path(args.output_dir)
    preset = yaml.safe_load((PRESETS / f"{args.preset}.yaml").read_text(encoding="utf-8"))
    model = args.model_name_or_path or preset["model"]
    base = model or str(run / "model")
    options = stage_options(args, preset, base)
    stages = [Stage(name, flags(options[name])) for name in STAGES]
    settings = {"preset": args.preset, "seed": args.seed, "model": model, "task_source": args.task_source}
    open_manifest(run, stages, settings)  # refuses a folder that cannot be used, before anything is built in it
    if model is None and not (run / "model").exists():
        build_tiny_model(run / "model", args.seed)

    with chain_display("quickstart", preset["minutes"]) as display:
        manifest = run_stages(run, stages, recipe_main, settings=settings, display=display)

    report = run / "report.html"
    write_atomic(report, (run / "compare" / "report.html").read_text(encoding="utf-8"))
    results = json.loads((run / "compare" / "results.json").read_text(encoding="utf-8"))
    print("\n".join(results["verdict"]))
    if args.preset == "smoke":
        who = f"a few steps of {model}" if model else "a tiny random model"
        print(f"these numbers mean nothing: {who} can only show that every stage runs")
    print(f"took {format_seconds(sum(entry['seconds'] for entry in manifest['stages']))}")
    print(f"report: {report}")


if __name__ == "__main__":
    main()
