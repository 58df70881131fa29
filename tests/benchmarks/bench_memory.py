"""Memory: what the four roles of PPO hold, and whether a process grows over a long run.

    python tests/benchmarks/bench_memory.py ppo --model_name_or_path runs/quickstart/sft --out ppo_memory.json
    python tests/benchmarks/bench_memory.py sft --trim on --out sft_memory.json

Further flags go on to the recipe, for example `--per_device_train_batch_size 4`.

`ppo` and `sft` run the stage with the settings of the quickstart's default preset, in a folder that is thrown away,
and note the process's peak resident memory of each stretch of optimizer steps (Linux, from /proc). `--trim off` leaves
the heap as glibc keeps it. The summary compares the first tenth of the stretches with the rest.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import rlgen  # isort: skip  # noqa: F401  (it sets what the libraries below read when they are imported)

import torch
import yaml
from transformers import TrainerCallback

from recipes.quickstart import PRESETS, QuickstartArguments, stage_main, stage_options
from rlgen.pipeline import flags
from rlgen.runs import Run, write_atomic


def resident_gb(field: str) -> float:
    """A field of /proc/self/status in GB (10^9 bytes): VmRSS is held now, VmHWM the most since `forget_peak`."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024 / 1e9
    raise SystemExit(f"/proc/self/status has no {field}: this benchmark needs Linux")


def forget_peak() -> None:
    """Let VmHWM begin anew at what is held now (proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")


class Watch(TrainerCallback):
    """Peak resident memory of each stretch of `every` optimizer steps."""

    def __init__(self, every: int) -> None:
        self.every = every
        self.series: list[dict[str, float]] = []
        self.start = time.perf_counter()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        forget_peak()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step % self.every == 0:
            row = {"step": state.global_step, "seconds": round(time.perf_counter() - self.start, 1)}
            row |= {"peak_gb": round(resident_gb("VmHWM"), 3), "held_gb": round(resident_gb("VmRSS"), 3)}
            self.series.append(row)
            print(json.dumps(row), flush=True)
            forget_peak()


def run_stage(name: str, arguments: list[str], watch: Watch, trim: bool) -> None:
    """A recipe's bare main with one more callback."""
    callbacks = Run.callbacks

    def watched(run: Run) -> list[TrainerCallback]:
        kept = [each for each in callbacks(run) if trim or type(each).__name__ != "TrimHeapCallback"]
        return [*kept, watch]

    Run.callbacks = watched
    try:
        stage_main(name)(arguments)
    finally:
        Run.callbacks = callbacks


def growth(series: list[dict[str, float]]) -> dict[str, float]:
    """Highest peaks of the first tenth of a run, of the rest, and of its last tenth; and the slope after the first."""
    cut = max(len(series) // 10, 1)
    peaks = torch.tensor([row["peak_gb"] for row in series], dtype=torch.float64)
    steps = torch.tensor([row["step"] for row in series], dtype=torch.float64)
    x, y = steps[cut:] - steps[cut:].mean(), peaks[cut:] - peaks[cut:].mean()
    return {
        "peak_first_tenth_gb": float(peaks[:cut].max()),
        "peak_rest_gb": float(peaks[cut:].max()),
        "peak_last_tenth_gb": float(peaks[-cut:].max()),
        "slope_gb_per_100_steps": round(float((x * y).sum() / (x * x).sum()) * 100, 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=["ppo", "sft"])
    parser.add_argument("--model_name_or_path", help="SFT model for ppo, base for sft; default embedded.")
    parser.add_argument("--steps", type=int, help="Optimizer steps; default the preset's for sft, 200 for ppo.")
    parser.add_argument("--every", type=int, help="Steps of a stretch; default 8 for ppo (one rollout), 3 for sft.")
    parser.add_argument("--trim", choices=["on", "off"], default="on", help="Give the heap's free pages back.")
    parser.add_argument("--out", required=True, help="JSON with the series and its summary.")
    args, further = parser.parse_known_args()

    preset = yaml.safe_load((PRESETS / "default.yaml").read_text(encoding="utf-8"))
    model = args.model_name_or_path or "embedded"
    steps = args.steps or (200 if args.what == "ppo" else None)
    watch = Watch(args.every or {"ppo": 8, "sft": 3}[args.what])
    with tempfile.TemporaryDirectory() as folder:
        options = stage_options(QuickstartArguments(output_dir=folder), preset, model)[args.what]
        options["model_name_or_path"] = model
        if steps:
            options["max_steps"] = steps
        if args.what == "ppo":
            options.pop("total_episodes")
        run_stage(args.what, [*flags(options), *further], watch, args.trim == "on")
    summary = {"what": args.what, "trim": args.trim, "threads": torch.get_num_threads(), "further": further}
    summary |= growth(watch.series)
    write_atomic(args.out, json.dumps({"summary": summary, "series": watch.series}, indent=2) + "\n")
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
