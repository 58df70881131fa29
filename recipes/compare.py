"""Compare checkpoints on held-out prompts: rewards, metrics, KL, intervals, samples, one report.

    rlgen compare --checkpoints base=embedded sft=runs/sft ppo=runs/ppo dpo=runs/dpo --reward_model runs/reward
    rlgen compare --checkpoints base=embedded prompted=embedded@4shot sft=runs/sft --task reasoning
    rlgen compare --checkpoints a=PATH b=PATH --dataset_name prompts.jsonl --reward my_rewards.py:politeness
    rlgen compare --checkpoints sft=... ppo=... --also qa=qa.jsonl@exact_match --fail_if "ppo < sft on reward"

Needs two or more models (folder, adapter folder, hub id or "embedded") and held-out rows, the task's or your own. Four
checkpoints of 135M parameters and 256 prompts take about six minutes on two CPU cores. Leaves results.json (described
in docs/results.md), report.html, summary.md, and what was generated, which a second run with more checkpoints or
measures reuses. Ends with code 3 if a condition of --fail_if holds.
"""

import rlgen  # isort: skip  # noqa: F401  (it sets what the libraries below read when they are imported)

import json
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from rlgen.config import TaskArguments, parse_arguments, recipe, resolved_config
from rlgen.data import load_rows
from rlgen.errors import ConfigError
from rlgen.evaluation.capabilities import MARGIN, Capability, measure_capability, open_capabilities
from rlgen.evaluation.checkpoints import (
    Checkpoint,
    check_unseen,
    open_checkpoints,
    parse_named,
    reward_runs,
    run_folders,
)
from rlgen.evaluation.compare import compare
from rlgen.evaluation.conditions import check_conditions, judge_conditions, parse_conditions
from rlgen.evaluation.generations import Sampling
from rlgen.evaluation.ifeval import as_messages
from rlgen.evaluation.judged import judge_pairs, open_judge
from rlgen.evaluation.markdown import summary_markdown
from rlgen.evaluation.measures import choose_measures
from rlgen.evaluation.report import write_report
from rlgen.evaluation.rows import requested_rows
from rlgen.evaluation.tables import results_table
from rlgen.runs import Run, open_run, write_atomic
from rlgen.tasks import Task, get_task


@dataclass
class CompareArguments:
    """What to compare, and how."""

    checkpoints: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Models as NAME=PATH: folder, adapter, hub id, embedded (@4shot adds examples), openai:MODEL@URL."
        },
    )
    output_dir: str = field(default="runs/compare", metadata={"help": "Folder for results.json and report.html."})
    runs: list[str] = field(
        default_factory=list,
        metadata={"help": "More run folders for learning curves, as NAME=FOLDER; the checkpoints' own are known."},
    )
    reward: list[str] | None = field(
        default=None, metadata={"help": "Rewards to measure; default the task's. See --reward of ppo."}
    )
    reward_weights: list[float] | None = field(
        default=None, metadata={"help": "Their weights in the sum; default the task's, or 1 each."}
    )
    reward_config: str | None = field(
        default=None,
        metadata={"help": "Composition of rewards to measure instead: its YAML file, or the run trained with it."},
    )
    reward_model: str | None = field(default=None, metadata={"help": "Trained reward model to measure as well."})
    metrics: list[str] | None = field(
        default=None, metadata={"help": "Measures that nothing trains on, see docs/results.md; default the task's."}
    )
    also: list[str] = field(
        default_factory=list,
        metadata={"help": "Other capabilities to try, as TASK, NAME=TASK or NAME=ROWS@METRIC,METRIC."},
    )
    margin: float = field(
        default=MARGIN, metadata={"help": "Loss of another capability that does not matter, in its measure's unit."}
    )
    fail_if: list[str] = field(
        default_factory=list,
        metadata={"help": "End with code 3 if 'A < B on MEASURE [by > X] [at PLAN] [significantly]'."},
    )
    examples: str | None = field(
        default=None,
        metadata={"help": "Rows with completions for the examples of NAME=PATH@4shot; default the task's sft rows."},
    )
    max_rows: int | None = field(
        default=256, metadata={"help": "Compare on at most this many held-out prompts; none for all."}
    )
    max_new_tokens: int | None = field(
        default=None, metadata={"help": "Length limit of a completion; default the task's, or 64."}
    )
    num_samples: int = field(
        default=0, metadata={"help": "Sampled completions per prompt besides the greedy one; 0 for greedy only."}
    )
    temperature: float = field(default=1.0, metadata={"help": "Temperature of the sampled completions."})
    batch_size: int = field(default=16, metadata={"help": "Prompts per batch of generation."})
    kl_reference: str | None = field(
        default=None, metadata={"help": "Checkpoint to measure the KL divergence to; default sft, if there is one."}
    )
    kl_rows: int | None = field(
        default=128, metadata={"help": "Measure KL on so many of the prompts, in steps of 32; none for all."}
    )
    encoder: str | None = field(
        default=None,
        metadata={"help": "Model whose hidden states embedding_spread compares; default the KL reference."},
    )
    allow_different_prompts: bool = field(
        default=False, metadata={"help": "Go on where chat templates make the checkpoints see different text."}
    )
    as_chat: bool = field(
        default=False, metadata={"help": "Send plain prompts as the message of a user, through the chat template."}
    )
    judge: str | None = field(
        default=None,
        metadata={"help": "Language model that compares answers in pairs, as openai:MODEL@URL; see docs/external.md."},
    )
    judge_rubric: str | None = field(
        default=None, metadata={"help": "File with the judge's question, with {prompt}, {first} and {second}."}
    )
    judge_rows: int | None = field(
        default=128, metadata={"help": "Judge the first so many prompts, two calls a pair; none for all."}
    )
    judge_budget: int | None = field(
        default=None, metadata={"help": "Calls that the judge may cost; known answers are free."}
    )
    seed: int = field(default=0, metadata={"help": "Seed of the sampling."})

    def __post_init__(self) -> None:
        """Refuse what cannot be compared."""
        if not self.checkpoints:
            raise ValueError("checkpoints are missing; give --checkpoints NAME=PATH NAME=PATH")
        for name in ("max_rows", "kl_rows", "max_new_tokens", "batch_size", "judge_rows"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.num_samples < 0 or (self.num_samples > 0 and self.temperature <= 0):
            raise ValueError("num_samples must not be negative, and sampling needs a temperature above 0")
        if self.margin < 0:
            raise ValueError(f"margin must not be negative, it is {self.margin}")


def sampling_plans(args: CompareArguments, task: Task | None) -> list[Sampling]:
    """The greedy answer to every prompt, and samples if they are asked for."""
    length = args.max_new_tokens or (task.max_completion_tokens if task else 64)
    greedy = Sampling(0.0, 1, length, args.seed)
    return [greedy, Sampling(args.temperature, args.num_samples, length, args.seed)] if args.num_samples else [greedy]


def measure_others(
    args: CompareArguments,
    capabilities: Sequence[Capability],
    checkpoints: Sequence[Checkpoint],
    samplings: Sequence[Sampling],
    overlaps: dict[str, dict[str, Any]],
    folder: Path,
) -> list[dict[str, Any]]:
    """What the checkpoints can do besides, one entry per capability."""
    return [
        measure_capability(
            capability,
            checkpoints,
            samplings,
            folder=folder,
            heldout_check=overlaps[capability.name],
            margin=args.margin,
            batch_size=args.batch_size,
            allow_different_prompts=args.allow_different_prompts,
        )
        for capability in capabilities
    ]


def save(run: Run, results: dict[str, Any], command: str, runs: dict[str, str]) -> Path:
    """Write results.json, summary.md and report.html; returns the path of the last."""
    write_atomic(run.path / "results.json", json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    write_atomic(run.path / "summary.md", summary_markdown(results, command))
    report = write_report(run.path, results, runs)
    run.finish({"verdict": results["verdict"]})
    return report


def show(results: dict[str, Any], report: Path) -> None:
    """Print table and verdicts, and fail where a condition does."""
    console = Console()
    console.print(results_table(results))
    verdicts = [verdict["sentence"] for other in results["capabilities"] for verdict in other["verdicts"]]
    for sentence in [*results["verdict"], *verdicts]:
        console.print(sentence, soft_wrap=True, highlight=False, markup=False)
    print(f"report: {report}")
    failed = [condition for condition in results["conditions"] if condition["failed"]]
    for condition in failed:
        sys.stderr.write(f"failed: {condition['condition']}: {condition['reason']}\n")
    if failed:
        raise SystemExit(3)


@recipe
def main(argv: Sequence[str] | None = None) -> None:
    """Generate, measure, test, report."""
    if os.environ.get("RANK", "0") != "0":
        return  # one process of a launched group does all of it
    args, data = parse_arguments(
        (CompareArguments, TaskArguments), description="Compare checkpoints on held-out prompts.", argv=argv
    )
    named = parse_named(args.checkpoints, "--checkpoints")
    curves = parse_named(args.runs, "--runs")
    kl_reference = args.kl_reference or ("sft" if "sft" in named else None)
    if kl_reference and kl_reference not in named:
        raise ConfigError(f"--kl_reference {kl_reference}: no checkpoint has that name ({', '.join(named)})")
    conditions = parse_conditions(args.fail_if)

    # 1. Held-out rows that no compared run has used
    task = get_task(data.task, data.task_source) if data.task else None
    source, rows, warnings = requested_rows(data, task, args.max_rows)
    rows = as_messages(rows) if args.as_chat else rows
    checkpoints = open_checkpoints(named)
    encoder = open_checkpoints({"encoder": args.encoder})[0] if args.encoder else None
    few_shot = any(checkpoint.shots and checkpoint.shots.number for checkpoint in checkpoints)
    examples = load_rows(args.examples, columns=["prompt", "completion"]) if args.examples else None
    most = min((limit for limit in (args.max_rows, data.max_eval_rows) if limit is not None), default=None)
    capabilities = open_capabilities(
        args.also,
        most,
        max_new_tokens=args.max_new_tokens,
        as_chat=args.as_chat,
        few_shot=few_shot,
        examples=examples,
    )
    if examples is None and few_shot and task and not source:
        examples = task.split("sft")
    lineage = {checkpoint.name: checkpoint.runs for checkpoint in checkpoints}
    if args.reward_model:
        lineage["reward model"] = run_folders(args.reward_model)
    used = lineage | reward_runs([*(args.reward or ()), *(args.metrics or ())], args.reward_config)
    used |= {name: (*used.get(name, ()), folder) for name, folder in curves.items()}
    overlap = check_unseen(rows, used)
    overlaps = {other.name: check_unseen(other.rows, used) for other in capabilities}

    # 2. What is measured, and how answers are drawn
    samplings = sampling_plans(args, None if source else task)
    measures = choose_measures(
        task,
        rows,
        reward=args.reward,
        reward_weights=args.reward_weights,
        reward_model=args.reward_model,
        metrics=args.metrics,
        kl_reference=kl_reference,
        own_rows=bool(source),
        reward_config=args.reward_config,
    )
    names = [measure.name for measure in measures]
    names += [f"{other.name}/{measure.name}" for other in capabilities for measure in other.measures]
    check_conditions(conditions, list(named), names, [plan.name for plan in samplings])
    # The rows make a comparison what it is; checkpoints and measures may be added to it later.
    run = open_run(args.output_dir, stage="compare", config=resolved_config(data) | {"max_rows": args.max_rows})
    run.record_data("heldout", rows)
    for capability in capabilities:
        run.record_data(f"also-{capability.name}", capability.rows)
    asked = (
        open_judge(args.judge, rubric=args.judge_rubric, budget=args.judge_budget, cache=run.path / "judge")
        if args.judge
        else None
    )

    # 3. Generate and measure
    results = compare(
        checkpoints,
        rows,
        samplings,
        measures,
        folder=run.path,
        task=source or (task.name if task else None),
        kl_reference=kl_reference,
        kl_rows=args.kl_rows,
        batch_size=args.batch_size,
        allow_different_prompts=args.allow_different_prompts,
        encoder=encoder,
        examples=examples,
        warnings=warnings,
    )
    results["capabilities"] = measure_others(args, capabilities, checkpoints, samplings, overlaps, run.path)
    results["judge"] = judge_pairs(asked, rows, results, max_rows=args.judge_rows) if asked else []
    results["verdict"] += [entry["sentence"] for entry in results["judge"]]
    results["conditions"] = judge_conditions(conditions, results)
    results |= {"heldout_check": overlap, "config": resolved_config(args, data), "versions": run.record["versions"]}

    # 4. Report
    own_runs = {name: folders[0] for name, folders in lineage.items() if folders}
    command = shlex.join(["rlgen", "compare", *(sys.argv[1:] if argv is None else argv)])
    report = save(run, results, command, own_runs | curves)
    show(results, report)


if __name__ == "__main__":
    main()
