"""Draw gold and proxy reward against KL for PPO and best-of-n, fit the law, and say at which KL to stop.

    rlgen overoptimization --config recipes/configs/docstring/overoptimization.yaml
    rlgen overoptimization --start runs/sft --proxy runs/reward --gold my_rewards.py:gold --ppo_run runs/ppo_proxy

Needs the model that optimization starts from, a proxy (a trained reward model, or any reward that stands in for what
is wanted) and a gold reward. With --ppo_config it trains the PPO run against the proxy itself; with --ppo_run it reads
the checkpoints of one; with neither it looks at best-of-n only. Without the PPO run, 64 prompts take about ten minutes
on two CPU cores. Leaves overoptimization.json, overoptimization.svg and what was sampled; the same command goes on
with an interrupted run.
"""

import rlgen  # isort: skip  # noqa: F401  (it sets what the libraries below read when they are imported)

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Console

from recipes import ppo
from rlgen.config import TaskArguments, parse_arguments, recipe, resolved_config
from rlgen.evaluation.checkpoints import check_unseen, open_checkpoints, refuse_examples, reward_runs
from rlgen.evaluation.generations import Sampling, Steps
from rlgen.evaluation.overoptimization import gain_curves, summarize
from rlgen.evaluation.overoptimization_chart import overoptimization_chart
from rlgen.evaluation.policy_samples import draw_samples, run_checkpoints, score_samples
from rlgen.evaluation.rows import requested_rows
from rlgen.evaluation.tables import overoptimization_table
from rlgen.pipeline import flags
from rlgen.rewards import check_rewards, load_rewards
from rlgen.runs import finite, open_run, write_atomic
from rlgen.tasks import get_task

START = "start"
ALL_CHECKPOINTS = 1_000_000


@dataclass
class OveroptimizationArguments:
    """What is optimized, what is really wanted, and how closely to look."""

    start: str = field(default="runs/sft", metadata={"help": "Model that optimization starts from; KL is to it."})
    proxy: list[str] | None = field(
        default=None, metadata={"help": "What is optimized: folder of a trained reward model, or rewards as for ppo."}
    )
    proxy_weights: list[float] | None = field(default=None, metadata={"help": "One weight per proxy reward."})
    gold: list[str] | None = field(
        default=None, metadata={"help": "What is really wanted: rewards as for ppo; default the task's."}
    )
    gold_weights: list[float] | None = field(default=None, metadata={"help": "One weight per gold reward."})
    ppo_run: str | None = field(default=None, metadata={"help": "Run folder of PPO against the proxy."})
    ppo_config: str | None = field(
        default=None, metadata={"help": "YAML for rlgen ppo: train that run first, in OUTPUT_DIR/ppo."}
    )
    kl_coef: float = field(default=0.0, metadata={"help": "Weight of the KL penalty in that run; 0 goes furthest."})
    save_steps: int = field(default=16, metadata={"help": "Checkpoint of that run every so many steps."})
    total_episodes: int | None = field(
        default=None, metadata={"help": "Completions that run trains on; default what the YAML says."}
    )
    max_checkpoints: int = field(default=12, metadata={"help": "Look at this many checkpoints, evenly spaced."})
    output_dir: str = field(default="runs/overoptimization", metadata={"help": "Folder for results and picture."})
    max_rows: int | None = field(default=64, metadata={"help": "Held-out prompts; none for all."})
    num_samples: int = field(default=4, metadata={"help": "Samples per prompt and checkpoint."})
    best_of: int = field(default=16, metadata={"help": "Samples per prompt of the start: best of 2 to this many."})
    temperature: float = field(default=0.7, metadata={"help": "Of all samples; the one that PPO trains at."})
    max_new_tokens: int | None = field(
        default=None, metadata={"help": "Length limit of a completion; default the task's, or 64."}
    )
    batch_size: int = field(default=16, metadata={"help": "Prompts per batch of generation."})
    seed: int = field(default=0, metadata={"help": "Seed of the sampling and of the intervals."})

    def __post_init__(self) -> None:
        """Refuse what gives no curve."""
        if not self.proxy:
            raise ValueError("the proxy is missing; give --proxy FOLDER or --proxy NAME ...")
        if self.ppo_run and self.ppo_config:
            raise ValueError("ppo_run reads a run and ppo_config makes one: give one of them")
        if self.best_of < 4 or self.num_samples < 1 or self.temperature <= 0:
            raise ValueError("best_of must be at least 4, num_samples at least 1, temperature above 0")
        for name in ("max_rows", "max_checkpoints", "batch_size", "save_steps"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")


@recipe
def main(argv: Sequence[str] | None = None) -> None:
    """Optimize against the proxy, sample, score, fit, draw."""
    args, data = parse_arguments(
        (OveroptimizationArguments, TaskArguments),
        description="Gold and proxy reward against KL: where optimizing the proxy stops helping.",
        argv=argv,
    )
    task = get_task(data.task, data.task_source) if data.task else None
    proxy, proxy_weights = load_rewards(args.proxy, args.proxy_weights, task)
    own_rows = bool(data.eval_dataset_name or data.dataset_name)
    gold, gold_weights = load_rewards(args.gold, args.gold_weights, task, own_rows=own_rows)

    run = None
    if os.environ.get("RANK", "0") == "0":
        # The rows make these curves what they are; what is looked at on them may change later.
        identity = resolved_config(data) | {"max_rows": args.max_rows}
        run = open_run(args.output_dir, stage="overoptimization", config=identity)

    # 1. A run of PPO against the proxy, on all processes
    ppo_run = args.ppo_run
    if args.ppo_config:
        ppo_run = f"{args.output_dir}/ppo"
        options = {"config": args.ppo_config, "model_name_or_path": args.start, "reward": args.proxy}
        options |= {"reward_weights": args.proxy_weights, "kl_coef": args.kl_coef, "save_steps": args.save_steps}
        options |= {"total_episodes": args.total_episodes, "temperature": args.temperature}
        options |= {"save_total_limit": ALL_CHECKPOINTS, "output_dir": ppo_run, "task": data.task}
        ppo.main.__wrapped__(flags(options))  # type: ignore[attr-defined]
    if run is None:
        return  # one process of a launched group does the rest

    # 2. Held-out rows that neither the run nor the proxy has used
    _, rows, warnings = requested_rows(data, task, args.max_rows)
    check_rewards([*proxy, *gold], rows)
    named = {START: args.start} | (run_checkpoints(ppo_run, args.max_checkpoints) if ppo_run else {})
    start, *checkpoints = open_checkpoints(named)
    refuse_examples([start, *checkpoints])
    lineage = {checkpoint.name: checkpoint.runs for checkpoint in (start, *checkpoints)}
    lineage |= reward_runs([*args.proxy, *(args.gold or ())])
    overlap = check_unseen(rows, lineage)
    run.record_data("heldout", rows)

    # 3. Samples, their KL, their rewards
    length = args.max_new_tokens or (task.max_completion_tokens if task and not own_rows else 64)
    work = len(rows) * (args.best_of + 3 * args.num_samples * len(checkpoints))
    samples = draw_samples(
        start,
        checkpoints,
        rows,
        Sampling(args.temperature, args.num_samples, length, args.seed),
        Sampling(args.temperature, args.best_of, length, args.seed),
        run.path,
        batch_size=args.batch_size,
        advance=Steps(work, "overoptimization").advance_one,
    )
    scores, kept = score_samples(samples, rows, {"proxy": (proxy, proxy_weights), "gold": (gold, gold_weights)})

    # 4. Curves, their fits, and where to stop
    points = {each.name: scores[each.name] | {"kl": samples[each.name].kl[kept]} for each in checkpoints}
    curves, unit = gain_curves(scores[START], points)
    results = {name: summarize(curve, seed=args.seed) for name, curve in curves.items()}
    record = {
        "curves": results,
        "unit": unit,
        "start": {which: float(scores[START][which].mean()) for which in unit},
        "prompts": len(kept),
        "proxy": dict(zip(args.proxy, proxy_weights, strict=True)),
        "gold": {function.__name__: weight for function, weight in zip(gold, gold_weights, strict=True)},
        "warnings": warnings,
        "heldout_check": overlap,
        "config": resolved_config(args, data),
        "versions": run.record["versions"],
    }
    write_atomic(run.path / "overoptimization.json", json.dumps(finite(record), indent=1) + "\n")
    picture = overoptimization_chart(results, unit="gain, in SD of the start's samples")
    write_atomic(run.path / "overoptimization.svg", picture)
    run.finish({name: result["stop"]["sentence"] for name, result in results.items()})

    # 5. Report
    console = Console()
    for warning in warnings:
        console.print(f"warning: {warning}", markup=False)
    for name, result in results.items():
        console.print(overoptimization_table(name, result))
        console.print(f"{name}: {result['stop']['sentence']}", markup=False, highlight=False)
    print(f"report: {run.path / 'overoptimization.svg'}")


if __name__ == "__main__":
    main()
