"""Which critic serves PPO best, at equal time and at equal KL? The quickstart's task, from the quickstart's SFT model.

    python tests/benchmarks/critics.py run --quickstart runs/quickstart --output_dir runs/critics --minutes 8
    python tests/benchmarks/critics.py table runs/critics

`run` trains PPO with each kind of critic, one after the other, each in a process and a folder of its own and for the
same time (the critic's warm-up included, loading and saving not), with the preset's settings for all else; then it
compares all of them with SFT on the preset's held-out prompts. It goes on where it was interrupted. `table` reads each
folder's `metrics.jsonl`, `benchmark.json` and the comparison's `results.json`.

The kinds: frozen, head, adapter, model (a copy of the SFT model), reward (a model that starts as the quickstart's
reward model).
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from recipes.quickstart import PRESETS, QuickstartArguments, stage_options
from rlgen.cli import recipe_main
from rlgen.pipeline import flags
from rlgen.progress import recipe_progress
from rlgen.runs import Run, read_metrics, write_atomic

KINDS = ("frozen", "head", "adapter", "model", "reward")
MORE_EPISODES_THAN_TIME = 10**7
WINDOW = 4  # rollouts that a reward or KL is averaged over; a single one is noise


def critic_flags(kind: str, quickstart: str) -> dict[str, Any]:
    """What tells the runs apart."""
    if kind == "model":
        return {"critic": "model", "critic_model_name_or_path": f"{quickstart}/sft"}
    if kind == "reward":
        return {"critic": "model", "critic_init": f"{quickstart}/reward"}
    return {"critic": kind}


def options_of(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The preset's flags for each stage, reading from the quickstart's folder."""
    preset = yaml.safe_load((PRESETS / f"{args.preset}.yaml").read_text(encoding="utf-8"))
    return stage_options(QuickstartArguments(output_dir=args.quickstart, seed=args.seed), preset, "")


def train(args: argparse.Namespace) -> None:
    """One kind, in this process."""
    from transformers import TrainerCallback  # only where it is needed: the table is read without it

    clock = time.process_time if args.cpu_time else time.monotonic

    class TimeLimit(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.begun = clock()

        def on_step_end(self, _args: Any, _state: Any, control: Any, **__: Any) -> None:
            control.should_training_stop |= clock() - self.begun > 60 * args.minutes

    folder = Path(args.output_dir) / args.critic
    options = options_of(args)["ppo"] | critic_flags(args.critic, args.quickstart)
    options |= {"output_dir": str(folder), "total_episodes": MORE_EPISODES_THAN_TIME, "save_strategy": "no"}
    callbacks = Run.callbacks
    Run.callbacks = lambda run, **options: [*callbacks(run, **options), TimeLimit()]  # type: ignore[method-assign]
    with recipe_progress():
        recipe_main("ppo")(flags(options))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # kilobytes on Linux
    write_atomic(folder / "benchmark.json", json.dumps({"minutes": args.minutes, "peak_gib": peak}) + "\n")


def run(args: argparse.Namespace) -> None:
    """All kinds, then the comparison."""
    for kind in args.critics:
        if not (Path(args.output_dir) / kind / "benchmark.json").is_file():
            passed = {"quickstart": args.quickstart, "output_dir": args.output_dir, "minutes": args.minutes}
            passed |= {"preset": args.preset, "seed": args.seed, "critic": kind}
            command = [sys.executable, __file__, "train", *(["--cpu_time"] if args.cpu_time else [])]
            subprocess.run(command + [f"--{name}={value}" for name, value in passed.items()], check=True)
    options = options_of(args)["compare"]
    options["checkpoints"] = [f"sft={args.quickstart}/sft"]
    options["checkpoints"] += [f"{kind}={args.output_dir}/{kind}" for kind in args.critics]
    options |= {"output_dir": f"{args.output_dir}/compare", "reward_model": None}
    with recipe_progress():
        recipe_main("compare")(flags(options))


def rollouts(folder: Path) -> list[dict[str, Any]]:
    """The logged rows at which a rollout was new."""
    return [row for row in read_metrics(folder / "metrics.jsonl") if row.get("objective/kl") is not None]


def trailing(rows: Sequence[dict[str, Any]], key: str) -> list[float]:
    """Mean over the latest rollouts, for each rollout."""
    values = [row[key] for row in rows]
    return [statistics.fmean(values[max(0, end - WINDOW) : end]) for end in range(1, len(values) + 1)]


def second_half(rows: Sequence[dict[str, Any]], key: str) -> list[float]:
    """What was logged in the second half of a run; null where a rollout does not define it."""
    return [row[key] for row in rows[len(rows) // 2 :] if row.get(key) is not None]


def equal_time(folder: Path, kinds: Sequence[str]) -> None:
    """One row a kind: how good the critic was, and what it was good for."""
    results = json.loads((folder / "compare" / "results.json").read_text(encoding="utf-8"))
    samplings = sorted({row["sampling"] for row in results["comparisons"]})
    found = {(row["b"], row["measure"], row["sampling"]): row for row in results["comparisons"] if row["a"] == "sft"}
    titles = ["critic", "rollouts", "s a rollout", "explained variance", "calibration slope"]
    titles += [f"reward - SFT, {sampling}" for sampling in samplings]
    titles += [f"KL to SFT, {sampling}" for sampling in samplings] + ["peak GiB"]
    print(f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}")
    for kind in kinds:
        rows = rollouts(folder / kind)
        seconds = (rows[-1]["time"] - rows[0]["time"]) / max(len(rows) - 1, 1)
        explained, slopes = (
            second_half(rows, f"critic/{name}") for name in ("explained_variance", "calibration_slope")
        )
        cells = [kind, str(len(rows)), f"{seconds:.1f}"]
        cells += [f"{statistics.fmean(explained):.3f}" if explained else "", _median(slopes)]
        for sampling in samplings:
            row = found[kind, "reward", sampling]
            cells.append(f"{row['difference']:+.3f} ({row['ci_low']:+.3f} to {row['ci_high']:+.3f})")
        kls = [found.get((kind, "kl_sft", sampling)) for sampling in samplings]
        cells += ["" if row is None else f"{row['mean_b']:.3f}" for row in kls]
        peak = json.loads((folder / kind / "benchmark.json").read_text(encoding="utf-8"))["peak_gib"]
        print(f"| {' | '.join(cells)} | {peak:.2f} |")


def equal_kl(folder: Path, kinds: Sequence[str], level: float | None) -> None:
    """One row a kind: the training reward when the policy had first moved this far from SFT."""
    curves = {kind: trailing(rollouts(folder / kind), "objective/kl") for kind in kinds}
    reached = min(max(curve) for curve in curves.values())
    level = reached if level is None else level
    print(f"\nWhere `objective/kl`, averaged over {WINDOW} rollouts, first reaches {level:.3f} nats:\n")
    print("| critic | rollout | seconds | training reward | reward - first rollouts |\n|---|---|---|---|---|")
    for kind, curve in curves.items():
        rows = rollouts(folder / kind)
        place = next((index for index, kl in enumerate(curve) if kl >= level), None)
        if place is None:
            print(f"| {kind} | not reached (at most {max(curve):.3f}) | | | |")
            continue
        rewards = trailing(rows, "reward")
        start = rewards[min(WINDOW, len(rewards)) - 1]
        seconds = rows[place]["time"] - rows[0]["time"]
        print(f"| {kind} | {place + 1} | {seconds:.0f} | {rewards[place]:.3f} | {rewards[place] - start:+.3f} |")


def _median(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f}" if values else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("run", "train"):
        running = commands.add_parser(name)
        running.add_argument("--quickstart", required=True, help="folder of a finished quickstart")
        running.add_argument("--output_dir", required=True)
        running.add_argument("--minutes", type=float, default=8.0, help="training time of each kind")
        running.add_argument("--cpu_time", action="store_true", help="minutes of CPU time; for a shared machine")
        running.add_argument("--preset", default="default", help="the quickstart's preset; smoke for its tiny model")
        running.add_argument("--seed", type=int, default=0)
        if name == "run":
            running.add_argument("--critics", nargs="+", default=list(KINDS), choices=KINDS)
        else:
            running.add_argument("--critic", required=True, choices=KINDS)
    showing = commands.add_parser("table")
    showing.add_argument("folder", type=Path)
    showing.add_argument("--kl", type=float, help="KL to compare at; default the highest that every kind reached")
    args = parser.parse_args()
    if args.command == "table":
        kinds = [kind for kind in KINDS if (args.folder / kind / "benchmark.json").is_file()]
        equal_time(args.folder, kinds)
        equal_kl(args.folder, kinds, args.kl)
    else:
        {"run": run, "train": train}[args.command](args)


if __name__ == "__main__":
    main()
