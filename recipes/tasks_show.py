"""Show a task: its splits, sample rows, the prompt as the model reads it, and the rewards of the reference answers.

    rlgen tasks show reasoning
    rlgen tasks show my_task.yaml --rows 5 --split rl
    rlgen tasks show translation --task_source cldr --shots 2shot

Takes seconds to a minute: some tasks fetch their data at the first call (at most 20 MB) and say so. Writes nothing.
"""

import rlgen  # isort: skip  # noqa: F401  (it sets what the libraries below read when they are imported)

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from reward_models._text import completion_text
from rlgen.config import parse_arguments, recipe
from rlgen.data import check_disjoint
from rlgen.errors import ConfigError
from rlgen.generation import render_prompts
from rlgen.models import load_tokenizer
from rlgen.rewards import checked, load_rewards
from rlgen.tasks import SPLITS, get_task
from rlgen.templates import choose_examples, split_shots, with_examples


@dataclass
class ShowArguments:
    """What to show."""

    task: str = field(default="docstring", metadata={"help": "Name of a task, or the path of its .py or .yaml file."})
    task_source: str | None = field(default=None, metadata={"help": "Where the task reads its rows."})
    split: str = field(default="sft", metadata={"help": "Split to take the rows from."})
    rows: int = field(default=3, metadata={"help": "How many rows to show."})
    scored: int = field(default=64, metadata={"help": "How many reference answers to score for the means."})
    shots: str | None = field(default=None, metadata={"help": "Show the prompt with examples, such as 4shot-plain."})
    model_name_or_path: str = field(
        default="embedded", metadata={"help": "Model whose chat template renders the prompt; none for no rendering."}
    )

    def __post_init__(self) -> None:
        """Refuse what shows nothing."""
        if self.rows < 1 or self.scored < 1:
            raise ValueError("rows and scored must be at least 1")


@recipe
def main(argv: Sequence[str] | None = None) -> None:
    """Load, score, print."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and not words[0].startswith("-"):
        words = ["--task", *words]  # `rlgen tasks show NAME`
    (args,) = parse_arguments((ShowArguments,), description="Show a task's rows, prompts and rewards.", argv=words)
    task = get_task(args.task, args.task_source)
    console = Console()
    console.print(f"{task.name}: {task.description}", highlight=False, markup=False)
    if task.public_data:
        console.print(f"public data for a full run: {task.public_data}", highlight=False, markup=False)

    # 1. Rows
    rows = task.split(args.split, max(args.rows, args.scored))
    splits = {name: task.split(name) for name in SPLITS}
    check_disjoint(splits)
    console.print("rows: " + ", ".join(f"{name} {len(split)}" for name, split in splits.items()), highlight=False)
    others = [name for name in rows.column_names if name not in ("prompt", "completion", "reference")]
    for index, row in enumerate(rows.select(range(min(args.rows, len(rows))))):
        console.rule(f"{args.split}, row {index}")
        for message in (
            [{"role": "prompt", "content": row["prompt"]}] if isinstance(row["prompt"], str) else row["prompt"]
        ):
            console.print(f"{message['role']}: {message['content']}", highlight=False, markup=False)
        if row.get("completion"):
            console.print(f"reference: {completion_text(row['completion'])}", highlight=False, markup=False)
        for name in others:
            console.print(f"  {name} = {str(row[name])[:160]}", highlight=False, markup=False, style="dim")

    # 2. The prompt as the model reads it
    if args.model_name_or_path != "none":
        prompts = list(rows["prompt"][:1])
        if args.shots:
            _, shots = split_shots(f"model@{args.shots}")
            if shots is None:
                raise ConfigError(
                    f"--shots must be a number and `shot`, such as 4shot or 2shot-plain, not {args.shots}"
                )
            prompts = with_examples(prompts, choose_examples(splits["sft"], shots, rows.select([0])), shots.style)
        console.rule("the first prompt as the model reads it")
        text = render_prompts(load_tokenizer(args.model_name_or_path), prompts)[0]
        console.print(text, highlight=False, markup=False)

    # 3. Rewards and metrics of the reference answers
    rows = rows.filter(lambda row: bool(row.get("completion")))
    if not len(rows):
        print("the rows have no reference answers")
        return
    functions, weights = load_rewards(None, None, task)
    columns = {name: list(rows[name]) for name in rows.column_names if name not in ("prompt", "completion")}
    given = {"prompts": list(rows["prompt"]), "completions": list(rows["completion"])}
    given["completion_ids"] = [[0]] * len(rows)
    table = Table(box=SIMPLE, pad_edge=False)
    for heading in ("of the reference answers", "weight", "rows", "mean", "lowest"):
        table.add_column(heading, justify="left" if heading.startswith("of") else "right")
    rewards = list(zip(task.rewards, functions, weights, strict=True))
    metrics = [(name, checked(metric), None) for name, metric in task.metrics.items()]
    for name, function, weight in [*rewards, *metrics]:
        scores = [score for score in function(**given, **columns) if score is not None]
        mean, lowest = (f"{sum(scores) / len(scores):.3f}", f"{min(scores):.3f}") if scores else ("-", "-")
        table.add_row(escape(name), "-" if weight is None else f"{weight:g}", str(len(scores)), mean, lowest)
    console.print(table)
    print(f"next: rlgen sft --task {args.task} --output_dir runs/sft")


if __name__ == "__main__":
    main()
