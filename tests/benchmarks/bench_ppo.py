"""rlgen's PPO against TRL 1.12's PPOTrainer and TRL 1.16's GRPOTrainer and RLOOTrainer: speed, memory, learning.

    python tests/benchmarks/bench_ppo.py --out bench.json
    python tests/benchmarks/bench_ppo.py --out bench.json --model runs/sft --reward_minutes 8
    python tests/benchmarks/bench_ppo.py curves --out curves.json
    python tests/benchmarks/bench_ppo.py --smoke --out smoke.json

The first command takes about an hour on two CPU cores, most of it in TRL's trainers, and up to 22 GB of memory. Run it
with nothing else on the machine: each rollout's `cpu_seconds` stand beside its `seconds` in the JSON and tell whether
it had its cores to itself.

Speed. Every contender gets the same work: the same 16 prompts of the docstring task in every rollout, 4 completions of
up to 48 tokens each (TRL 1.12's PPO has one completion a prompt and gets each prompt 4 times), the docstring reward, 2
epochs in minibatches of 16, LoRA of rank 16 on all linear maps, and a learning rate so small that the completions stay
alike. `rlgen_fast` differs in one thing: its adapters are on the top 6 layers, so that the trunk below is cached. Each
contender is a process of its own that warms up with one rollout; the contenders take turns, and medians over all
measured rollouts are reported. How each peer is set up is said in its worker's docstring, which the JSON repeats.

Floating-point operations are counted as two for each parameter and token of a forward pass (the formula for each phase
is in `bench_ppo_workers/report.py`), against the matrix-multiply limit that `gemm.py` measures in every round.

Reward. With `--reward_minutes M` each contender trains for M minutes (to the end of the rollout then under way) on the
rl split from the same model, which should be an SFT model (`--model`). Then one sample at temperature 1 for each of
128 held-out prompts is scored by rlgen's code.

Curves. Is rlgen's PPO as good as TRL 1.12's, sample for sample? The same tiny model, trained in full, the same task
with a known optimum (share of even tokens), settings and number of samples, a few seeds. What still differs: TRL
weighs the tokens of a minibatch by its own count, rlgen by that of an average minibatch; TRL trains its critic in the
policy's optimizer, rlgen in one of its own after the rollout. `--critic model` gives rlgen a critic that is a model of
its own, as TRL has it; the rest of the critic's settings is in `CURVES_CRITIC`.
"""

import argparse
import ast
import dataclasses
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
import tomllib
import venv
from pathlib import Path
from typing import Any

from bench_ppo_workers import report
from bench_ppo_workers.job import Job

from rlgen.embedded import cache_dir, embedded_model
from rlgen.tiny import tiny_model

ROOT = Path(__file__).resolve().parents[2]
WORKERS = Path(__file__).resolve().parent / "bench_ppo_workers"
CONTENDERS: dict[str, tuple[str, dict[str, Any]]] = {
    "trl112_ppo_lora": ("trl112.py", {}),
    "trl116_grpo_lora": ("trl116.py", {"trainer": "grpo"}),
    "trl116_rloo_lora": ("trl116.py", {"trainer": "rloo"}),
    "rlgen_lora_all": ("rlgen_ppo.py", {}),
    "rlgen_fast": ("rlgen_ppo.py", {"top_layers": 6}),
}
SMOKE = {"prompts": 2, "num_generations": 2, "minibatch": 2, "max_new_tokens": 8, "rollouts": 2}
HELD_OUT = 128

CURVES = {
    "reward": "even_tokens",
    "prompts": 32,
    "num_generations": 1,
    "max_new_tokens": 12,
    "minibatch": 8,
    "epochs": 2,
    "learning_rate": 3e-4,
    "max_grad_norm": 0.0,  # none, as in TRL 1.12's PPO
    "lora_r": None,
    "dtype": "float32",
    "rollouts": 100,
}
# rlgen's critic in the curves: as TRL's it learns from the new rollout only, in as many passes and minibatches, at the
# policy's learning rate, without dropout, weight decay or a warm-up.
CURVES_CRITIC = {
    "critic_learning_rate": CURVES["learning_rate"],
    "critic_epochs": CURVES["epochs"],
    "critic_minibatches": CURVES["prompts"] // CURVES["minibatch"],
    "critic_replay_rollouts": 1,
    "critic_warmup_rollouts": 0,
    "critic_dropout": 0.0,
    "critic_weight_decay": 0.0,
}


def peer_python(workdir: Path) -> str:
    """The interpreter of an environment with TRL 1.12, made at the first call; the other packages are rlgen's."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    shared = ("torch", "transformers", "peft", "accelerate", "datasets")
    ranges = [one for one in project["dependencies"] if re.split(r"[<>=]", one)[0] in shared]
    wanted = "\n".join(["trl==1.12.*", *ranges])
    folder = workdir / "trl112"
    installed = folder / "installed.txt"
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not installed.is_file() or installed.read_text(encoding="utf-8") != wanted:
        print(f"installing TRL 1.12 into {folder}", flush=True)
        venv.create(folder, clear=True, with_pip=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *wanted.splitlines()], check=True)
        installed.write_text(wanted, encoding="utf-8")
    return str(python)


class Bench:
    """Runs jobs in the environments that they need.

    Args:
        workdir: for the peer's environment, jobs, results, logs and adapters.
        threads: torch's threads in every worker; None for its default.
    """

    def __init__(self, workdir: Path, threads: int | None) -> None:
        self.workdir = workdir.resolve()
        self.runs = self.workdir / "runs"
        self.runs.mkdir(parents=True, exist_ok=True)
        self.environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            "HF_HUB_OFFLINE": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "TRL_EXPERIMENTAL_SILENCE": "1",
        }
        if threads:
            self.environment["OMP_NUM_THREADS"] = str(threads)

    def train(self, job: Job, name: str) -> dict[str, Any]:
        """Run a contender in a process of its own and return its result."""
        script, options = CONTENDERS[job.contender]
        job = dataclasses.replace(job, options={**options, **job.options}, output_dir=str(self.runs / name))
        file = self.runs / f"{name}.job.json"
        job.write(file)
        python = peer_python(self.workdir) if script == "trl112.py" else sys.executable
        result = self.call(python, script, file, self.runs / f"{name}.json")
        return {**result, "dtype": job.dtype, "options": job.options}

    def call(self, python: str, script: str, job: Path, result: Path) -> Any:
        result.unlink(missing_ok=True)
        log = result.with_suffix(".log")
        command = [python, str(WORKERS / script), str(job), str(result)]
        with log.open("w", encoding="utf-8") as output:
            done = subprocess.run(command, stdout=output, stderr=output, env=self.environment, check=False)
        if done.returncode or not result.is_file():
            last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
            raise SystemExit(f"{script} failed for {job.name} ({' '.join(last)}); see {log}")
        return json.loads(result.read_text(encoding="utf-8"))

    def limits(self, model: str, device: str) -> dict[str, dict[str, float]]:
        """Matrix-multiply limits in GFLOP/s at the model's shapes."""
        config = json.loads((Path(model) / "config.json").read_text(encoding="utf-8"))
        shape = [str(config["hidden_size"]), str(config["intermediate_size"])]
        command = [sys.executable, str(WORKERS / "gemm.py"), *shape, device]
        return json.loads(subprocess.run(command, capture_output=True, check=True, env=self.environment).stdout)


def write_rows(file: Path, split: str, count: int | None) -> str:
    from rlgen.tasks import get_task

    rows = get_task("docstring").split(split, count)
    lines = [json.dumps({"prompt": row["prompt"], "code": row["code"]}) for row in rows]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(file)


def machine() -> dict[str, Any]:
    cpuinfo = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else []
    describe = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=10"]
    commit = subprocess.run(describe, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "rlgen": importlib.metadata.version("rlgen"),
        "commit": commit or None,
    }


def speed(bench: Bench, job: Job, contenders: list[str], rounds: int) -> dict[str, Any]:
    """Contenders in turn, several rounds."""
    job = dataclasses.replace(job, rows=write_rows(bench.workdir / "speed.jsonl", "rl", job.prompts))
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in contenders}
    limits = []
    for turn in range(rounds):
        limits.append(bench.limits(job.model, job.device))
        for name in contenders:
            run = bench.train(dataclasses.replace(job, contender=name), f"speed-{name}-{turn}")
            runs[name].append(run)
            rates = [r["samples"] / r["seconds"]["total"] for r in run["rollouts"][1:]]
            rates = ", ".join(f"{rate:.2f}" for rate in rates)
            print(f"round {turn + 1}: {name}: {rates} samples/s, {run['peak_memory_gb']:.1f} GB", flush=True)
    limit = {
        shape: {kind: max(measured[shape][kind] for measured in limits) for kind in limits[0][shape]}
        for shape in limits[0]
    }
    summaries = {name: report.summary(kept) for name, kept in runs.items()}
    ratios = report.ratios(summaries)
    default = ratios.get(report.DEFAULT, {})
    return {
        "ratio_samples_per_s": default.get("samples_per_s"),
        "ratio_peak_memory": default.get("peak_memory_gb"),
        "ratios": ratios,
        "contenders": summaries,
        "limit_gflops": limit,
        "gflops": {
            name: report.flop_rates(kept, limit, prompts=job.prompts, epochs=job.epochs)
            for name, kept in runs.items()
            if name.startswith("rlgen")
        },
        "runs": runs,
    }


def reward(bench: Bench, job: Job, contenders: list[str], seeds: list[int], held_out: int) -> dict[str, Any]:
    """Equal wall-clock time from the same model, then held-out prompts."""
    from rlgen.evaluation.statistics import compare_paired, prompt_means

    job = dataclasses.replace(job, rows=write_rows(bench.workdir / "rl.jsonl", "rl", None))
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in contenders}
    checkpoints = {"start": job.model}
    for seed in seeds:
        for name in contenders:
            run = f"reward-{name}-{seed}"
            runs[name].append(bench.train(dataclasses.replace(job, contender=name, seed=seed), run))
            checkpoints[f"{name}/{seed}"] = str(bench.runs / run)
    judged = {
        **{key: getattr(job, key) for key in ("model", "reward", "dtype", "device", "max_new_tokens", "seed")},
        "rows": write_rows(bench.workdir / "heldout.jsonl", "heldout", held_out),
        "checkpoints": checkpoints,
    }
    file = bench.runs / "judge.job.json"
    file.write_text(json.dumps(judged, indent=1), encoding="utf-8")
    scores = bench.call(sys.executable, "judge.py", file, bench.runs / "judge.json")
    start = prompt_means([[score] for score in scores["start"]])
    table: dict[str, Any] = {
        "start": {"samples": 0, "train_seconds": 0.0, "reward": float(start.mean()), "gain": None}
    }
    for name, kept in runs.items():
        own = [scores[f"{name}/{seed}"] for seed in seeds]
        paired = compare_paired(start, prompt_means(list(zip(*own, strict=True))))
        table[name] = {
            "samples": [sum(r["samples"] for r in run["rollouts"]) for run in kept],
            "train_seconds": max(run["train_seconds"] for run in kept),
            "reward": paired.mean_b,
            "by_seed": [sum(one) / len(one) for one in own],
            "gain": paired.difference,
            "ci_low": paired.low,
            "ci_high": paired.high,
        }
    return table


def critic_of(kind: str | None, model: str) -> dict[str, Any]:
    """Options for rlgen's kind of critic; "model", one of its own from the same checkpoint, is what TRL 1.12 has."""
    if kind is None:
        return {}
    return {"critic": kind, **({"critic_model_name_or_path": model} if kind == "model" else {})}


def curves(bench: Bench, job: Job, seeds: list[int], critic: str | None) -> dict[str, Any]:
    """Training rewards of rlgen and TRL 1.12 on the same tiny task, sample for sample."""
    rows = bench.workdir / "curves.jsonl"
    prompts = [{"prompt": f"Say number {i}" + " please" * (i % 3)} for i in range(job.prompts)]
    rows.write_text("\n".join(map(json.dumps, prompts)) + "\n", encoding="utf-8")
    options = {"trl112_ppo_lora": {}, "rlgen_lora_all": {**CURVES_CRITIC, **critic_of(critic, job.model)}}
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in options}
    for seed in seeds:
        for name, own in options.items():
            task = dataclasses.replace(job, contender=name, seed=seed, rows=str(rows), options=own)
            run = bench.train(task, f"curves-{name}-{seed}")
            runs[name].append(run)
            print(f"seed {seed}: {name}: reward {run['rollouts'][-1]['reward']:.3f} at the end", flush=True)
    labels = {"trl112_ppo_lora": "trl112_ppo", "rlgen_lora_all": "rlgen_ppo"}
    measured = {}
    for name, kept in runs.items():
        rewards = [[r["reward"] for r in run["rollouts"]] for run in kept]
        measured[labels[name]] = {
            "last_quarter": report.last_quarter(rewards),
            "first_rollout": sum(curve[0] for curve in rewards) / len(rewards),
            "seconds": max(run["train_seconds"] for run in kept),
            "curves": rewards,
            "versions": kept[0]["versions"],
        }
    return {"critic": critic, "contenders": measured}


def worker_docstring(script: str) -> str | None:
    return ast.get_docstring(ast.parse((WORKERS / script).read_text(encoding="utf-8")))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", nargs="?", choices=("speed", "curves"), default="speed")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--workdir", type=Path, default=cache_dir() / "bench_ppo", help="environment, logs, adapters")
    parser.add_argument("--model", help="folder of the model to start from; default the embedded one")
    parser.add_argument("--contenders", nargs="+", choices=tuple(CONTENDERS), default=list(CONTENDERS))
    parser.add_argument("--rounds", type=int, default=2, help="turns of every contender")
    parser.add_argument("--rollouts", type=int, help="measured rollouts a turn, after one to warm up; default 2")
    parser.add_argument("--reward_minutes", type=float, default=0.0, help="also compare rewards after so long; 0: no")
    parser.add_argument("--reward_learning_rate", type=float, default=3e-4, help="of every contender, in that part")
    parser.add_argument("--seeds", nargs="+", type=int, help="of rewards (default 0) or curves (default 0 1 2)")
    parser.add_argument("--critic", help="rlgen's kind of critic in the curves; default its own default")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), help="default bfloat16 where the device is fast")
    parser.add_argument("--threads", type=int, help="of torch; default its own choice")
    parser.add_argument("--smoke", action="store_true", help="a tiny model and two prompts, to see that all works")
    return parser.parse_args()


def job_of(args: argparse.Namespace) -> Job:
    from rlgen.models import training_dtype

    dtype = args.dtype or str(training_dtype()).removeprefix("torch.")
    settings: dict[str, Any] = {"reward": "docstring", "rollouts": 3, "dtype": dtype}
    if args.command == "curves":
        settings |= CURVES
    if args.smoke or args.command == "curves":
        settings["model"] = tiny_model(args.workdir.resolve() / "tiny")
    else:
        settings["model"] = args.model or embedded_model()
    if args.smoke:
        settings |= SMOKE
    if args.rollouts:
        settings["rollouts"] = args.rollouts + (args.command == "speed")
    return Job(contender="", rows="", output_dir="", device=args.device, **settings)


def main() -> None:
    args = arguments()
    bench, job = Bench(args.workdir, args.threads), job_of(args)
    result: dict[str, Any] = {"command": args.command, "machine": machine(), "settings": dataclasses.asdict(job)}
    if args.command == "curves":
        result |= curves(bench, job, args.seeds or [0, 1, 2], args.critic)
        tables = [report.curves_table(result)]
    else:
        if args.smoke:
            CONTENDERS["rlgen_fast"][1]["top_layers"] = 2
        result |= speed(bench, job, args.contenders, 1 if args.smoke else args.rounds)
        tables = [report.speed_table(result), report.flops_table(result)]
        result["setup"] = {name: worker_docstring(CONTENDERS[name][0]) for name in args.contenders}
        minutes = args.reward_minutes or (0.01 if args.smoke else 0.0)
        if minutes:
            job = dataclasses.replace(job, minutes=minutes, learning_rate=args.reward_learning_rate)
            held_out = 4 if args.smoke else HELD_OUT
            result["reward"] = reward(bench, job, args.contenders, args.seeds or [0], held_out)
            tables.append(report.reward_table(result))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1), encoding="utf-8")
    print("\n" + "\n\n".join(tables))


if __name__ == "__main__":
    main()
