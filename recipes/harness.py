"""Run a checkpoint in lm-evaluation-harness: EleutherAI's tasks by name, or local ones.

    rlgen harness --model_name_or_path runs/ppo --tasks hellaswag arc_easy --limit 200
    rlgen harness --model_name_or_path runs/ppo --include_path my_tasks --tasks my_task

Needs `pip install 'rlgen[lm-eval]'`, a model (folder, adapter folder, hub id or "embedded"), and for tasks by name the
hub. Two questions of two choices take about a second with 135M parameters on two CPU cores. Leaves lm-eval's results
in results.json, and every question with its answer in samples_TASK.jsonl. docs/external.md shows how to write a task.
"""

import rlgen  # isort: skip  # noqa: F401  (it sets what the libraries below read when they are imported)

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from rlgen.config import parse_arguments, recipe, resolved_config
from rlgen.evaluation.checkpoints import open_checkpoints
from rlgen.evaluation.external import harness_model, harness_rows, open_tasks, run_harness, write_harness_results
from rlgen.runs import open_run


@dataclass
class HarnessArguments:
    """Which checkpoint, and on what."""

    model_name_or_path: str = field(
        default="embedded", metadata={"help": 'Folder, adapter folder, hub id, or "embedded".'}
    )
    tasks: list[str] = field(default_factory=list, metadata={"help": "Tasks, groups or tags of lm-eval, or own ones."})
    include_path: str | None = field(default=None, metadata={"help": "Folder with the YAML files of own tasks."})
    output_dir: str = field(default="runs/harness", metadata={"help": "Folder for results.json and samples."})
    num_fewshot: int | None = field(
        default=None, metadata={"help": "Examples in the prompt; default each task's own number."}
    )
    limit: int | None = field(default=None, metadata={"help": "Use at most this many questions of each task."})
    apply_chat_template: bool | None = field(
        default=None, metadata={"help": "Ask through the chat template; default if the tokenizer has one."}
    )
    batch_size: int = field(default=8, metadata={"help": "Sequences at a time."})
    dtype: str = field(
        default="auto",
        metadata={"help": "Number format of the weights.", "choices": ["auto", "bfloat16", "float16", "float32"]},
    )
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Allow hub models to bring their own Python code."}
    )
    seed: int = field(default=0, metadata={"help": "Seed of few-shot examples and of sampling."})

    def __post_init__(self) -> None:
        """Refuse what evaluates nothing."""
        if not self.tasks:
            raise ValueError("tasks are missing; give --tasks NAME NAME")
        for name in ("limit", "batch_size"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.num_fewshot is not None and self.num_fewshot < 0:
            raise ValueError(f"num_fewshot must not be negative, it is {self.num_fewshot}")


@recipe
def main(argv: Sequence[str] | None = None) -> None:
    """Load, evaluate, save."""
    if os.environ.get("RANK", "0") != "0":
        return  # one process of a launched group does all of it
    (args,) = parse_arguments((HarnessArguments,), description="Run a checkpoint in lm-evaluation-harness.", argv=argv)
    manager = open_tasks(args.tasks, args.include_path)
    (checkpoint,) = open_checkpoints({"model": args.model_name_or_path})
    run = open_run(args.output_dir, stage="harness", config=resolved_config(args))
    model = harness_model(
        args.model_name_or_path,
        batch_size=args.batch_size,
        dtype=args.dtype,
        trust_remote_code=args.trust_remote_code,
    )
    results = run_harness(
        model,
        args.tasks,
        manager,
        num_fewshot=args.num_fewshot,
        limit=args.limit,
        chat_template=args.apply_chat_template,
        seed=args.seed,
    )
    path = write_harness_results(
        run.path, results, {"rlgen": {"checkpoint": args.model_name_or_path, "fingerprint": checkpoint.fingerprint}}
    )
    table = Table("task", "metric", "filter", "value", "stderr")
    rows = harness_rows(results)
    for task, metric, chosen, value, error in rows:
        table.add_row(task, metric, chosen, f"{value:.4f}", "–" if error is None else f"{error:.4f}")
    run.finish({f"{task}/{metric},{chosen}": value for task, metric, chosen, value, _ in rows})
    Console().print(table)
    print(f"report: {path}")


if __name__ == "__main__":
    main()
