"""Memory: what the four roles of PPO hold, and whether a process grows over a long run.

    python tests/benchmarks/bench_memory.py roles --out roles_memory.json
    python tests/benchmarks/bench_memory.py ppo --model_name_or_path runs/quickstart/sft --out ppo_memory.json
    python tests/benchmarks/bench_memory.py sft --trim on --out sft_memory.json

`roles` counts the bytes of all parameters and buffers of policy, reference, critic and a trained reward model (random
weights do), each storage once, with adapters of the default rank on all layers. `ppo` and `sft` run the stage with the
settings of the quickstart's default preset, in a folder that is thrown away, and note the process's peak resident
memory of each stretch of optimizer steps (Linux, from /proc); `--trim off` leaves the heap as glibc keeps it. The
summary compares the first tenth of the stretches with the rest. Further flags go on to the recipe. `shapes` multiplies
matrices of ever new sizes, nothing else, and prints what the process holds after every 15 of them.
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

from recipes.quickstart import PRESETS, QuickstartArguments, stage_options
from rlgen.cli import recipe_main
from rlgen.memory import release_memory
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

    def watched(run: Run, **options: Any) -> list[TrainerCallback]:
        kept = [each for each in callbacks(run, **options) if trim or type(each).__name__ != "TrimHeapCallback"]
        return [*kept, watch]

    Run.callbacks = watched
    try:
        recipe_main(name)(arguments)
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


def count_roles(name: str) -> dict[str, Any]:
    """Bytes of the SFT model, and of the four roles that train it."""
    from datasets import Dataset
    from peft import get_peft_model

    from rlgen.config import ModelArguments
    from rlgen.models import load_policy, load_reward_model, load_tokenizer, resolve_model
    from rlgen.ppo import PPOConfig, PPOTrainer
    from rlgen.rewards.model import RewardModel
    from rlgen.tuning import peft_config

    resolved = resolve_model(name)
    arguments, tokenizer = ModelArguments(model_name_or_path=resolved), load_tokenizer(resolved)
    with tempfile.TemporaryDirectory() as folder:
        classifier = load_reward_model(resolved)
        get_peft_model(classifier, peft_config(arguments, classifier, "SEQ_CLS")).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        del classifier
        reward, policy = RewardModel(folder, device="cpu"), load_policy(resolved)
        counts: dict[str, Any] = {"sft_model": held_bytes(policy), "reward_model_alone": held_bytes(reward.model)}
        for critic in ("frozen", "adapter"):
            policy = load_policy(resolved)
            trainer = PPOTrainer(
                policy,
                reward,
                PPOConfig(output_dir=folder, use_cpu=True, critic=critic),
                Dataset.from_dict({"prompt": [str(i) for i in range(64)]}),
                processing_class=tokenizer,
                peft_config=peft_config(arguments, policy),
            )
            assert trainer.reference is None
            counts[f"roles_with_critic_{critic}"] = held_bytes(trainer.model, trainer.critic, reward.model)
            counts[f"ratio_with_critic_{critic}"] = counts[f"roles_with_critic_{critic}"] / counts["sft_model"]
    return counts


def multiply_new_shapes() -> dict[str, Any]:
    """Megabytes held while linear maps in bfloat16 meet batches of ever new lengths, heap trimmed."""
    maps = [torch.nn.Linear(i, o, dtype=torch.bfloat16) for i, o in ((576, 576), (576, 192), (576, 1536), (1536, 576))]
    held = []
    for step in range(60):
        for linear in maps:
            rows = torch.randn(200 + 7 * step, linear.in_features).bfloat16().requires_grad_()
            linear(rows).sum().backward()
            linear.zero_grad()
            del rows
        if step % 15 == 14:
            release_memory()
            held.append(round(resident_gb("VmRSS") * 1000))
    return {"held_mb": held}


def held_bytes(*modules: torch.nn.Module) -> int:
    """Bytes of the storages behind all parameters and buffers, each once."""
    tensors = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=["roles", "ppo", "sft", "shapes"])
    parser.add_argument("--model_name_or_path", help="SFT model for ppo and roles, base for sft; default embedded.")
    parser.add_argument("--steps", type=int, help="Optimizer steps; default the preset's for sft, 200 for ppo.")
    parser.add_argument("--every", type=int, help="Steps of a stretch; default 8 for ppo (one rollout), 3 for sft.")
    parser.add_argument("--trim", choices=["on", "off"], default="on", help="Give the heap's free pages back.")
    parser.add_argument("--out", required=True, help="JSON with the series and its summary.")
    args, further = parser.parse_known_args()

    preset = yaml.safe_load((PRESETS / "default.yaml").read_text(encoding="utf-8"))
    model = args.model_name_or_path or "embedded"
    if args.what in ("roles", "shapes"):
        counts = count_roles(model) if args.what == "roles" else multiply_new_shapes()
        write_atomic(args.out, json.dumps(counts, indent=2) + "\n")
        print(json.dumps(counts))
        return
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
