"""Explain rewards: what each part of a composition gives to a completion, step by step, and what they add up to.

    rlgen reward explain --reward_config recipes/configs/docstring/reward_mix.yaml --task docstring --rows 3
    rlgen reward explain --checkpoint runs/ppo --completion "Return the sum." --rows 1
    rlgen reward explain --dataset_name rows.jsonl --reward my_rewards.py:politeness my_rewards.py:brevity

Needs rows with `prompt` and, unless --completion is given, `completion`: the task's held-out rows or your own. Takes
seconds, unless a reward is a large model. Prints a table per row; with --checkpoint it uses what the rewards had
learned by then (running means, lines over the length, progress of the schedules). Writes nothing.
"""

import rlgen  # isort: skip  # noqa: F401  (it sets what the libraries below read when they are imported)

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from reward_models._text import completion_text
from rlgen.config import TaskArguments, parse_arguments, recipe
from rlgen.data import load_rows
from rlgen.errors import ConfigError
from rlgen.models import load_tokenizer
from rlgen.rewards import Explanation, explainable_rewards
from rlgen.rewards.spec import Part
from rlgen.tasks import get_task


@dataclass
class ExplainArguments:
    """Which rewards to explain, and on what."""

    reward: list[str] | None = field(
        default=None, metadata={"help": "Rewards by name, see --reward of ppo; default the task's."}
    )
    reward_weights: list[float] | None = field(default=None, metadata={"help": "One weight per reward."})
    reward_config: str | None = field(
        default=None, metadata={"help": "YAML file that composes rewards, in place of --reward."}
    )
    checkpoint: str | None = field(
        default=None,
        metadata={"help": "Run folder or checkpoint-N folder of ppo: its composition with what it has learned."},
    )
    rows: int = field(default=3, metadata={"help": "How many rows to explain."})
    completion: str | None = field(
        default=None, metadata={"help": "Text to explain in place of the rows' own completions."}
    )
    tokenizer: str | None = field(
        default=None, metadata={"help": "Model whose tokens to give to rewards that read completion_ids."}
    )

    def __post_init__(self) -> None:
        """Refuse what leaves nothing to explain or more than one thing to explain it with."""
        if self.rows < 1:
            raise ValueError(f"rows must be at least 1, not {self.rows}")
        if self.checkpoint and (self.reward or self.reward_config):
            raise ValueError("a checkpoint has its own rewards: leave out --reward and --reward_config")


@recipe
def main(argv: Sequence[str] | None = None) -> None:
    """Load, score, print."""
    args, data = parse_arguments(
        (ExplainArguments, TaskArguments), description="Explain what rewards give to completions.", argv=argv
    )

    # 1. Rewards and rows
    task = get_task(data.task, data.task_source) if data.task else None
    source = data.eval_dataset_name or data.dataset_name
    composite = explainable_rewards(
        args.reward,
        args.reward_weights,
        task,
        own_rows=bool(source),
        config=args.checkpoint or args.reward_config,
    )
    columns = ["prompt"] if args.completion is not None else ["prompt", "completion"]
    if source:
        rows = load_rows(source, columns=columns, split=data.dataset_train_split, max_rows=args.rows)
    elif task is not None:
        rows = task.split("heldout", args.rows)
    else:
        raise ConfigError("there are no rows to explain; give --task NAME or --dataset_name FILE")

    # 2. Scores
    prompts = list(rows["prompt"])
    completions: list[Any]
    if args.completion is None:
        completions = list(rows["completion"])
    else:
        completions = [_like(prompt, args.completion) for prompt in prompts]
    given = {name: list(rows[name]) for name in rows.column_names if name not in ("prompt", "completion")}
    if args.tokenizer is not None:
        tokenizer = load_tokenizer(args.tokenizer)
        texts = [completion_text(completion) for completion in completions]
        given["completion_ids"] = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    explanations = composite.explain(prompts, completions, **given)

    # 3. One table per row
    console = Console()
    for i, (completion, explanation) in enumerate(zip(completions, explanations, strict=True)):
        console.print(f"[bold]row {i}[/bold] {escape(completion_text(completion))}", soft_wrap=True)
        console.print(_table(explanation, composite.parts))
    if composite.unlearned:
        console.print(
            f"nothing has been learned yet for {', '.join(composite.unlearned)}, so their scores are not normalised; "
            "give --checkpoint RUN to use what a run has learned"
        )
    config = f"--reward_config {args.reward_config}" if args.reward_config else "--reward_config FILE"
    print(f"next: rlgen ppo --model_name_or_path runs/sft {config} --output_dir runs/ppo")


def _like(prompt: Any, text: str) -> Any:
    """A completion of the prompt's kind, plain or conversational."""
    return text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]


def _table(explanation: Explanation, parts: Sequence[Part]) -> Table:
    """Parts as rows, the order of operations as columns; a step that no part takes is left out."""
    taken = {
        "raw": True,
        "debiased": any(part.debias_length for part in parts),
        "normalized": any(part.normalize for part in parts),
        "clipped": any(part.clip for part in parts),
        "gate": any(part.gate for part in parts),
        "weight": True,
        "value": any(part.gate for part in parts),
        "contribution": True,
    }
    steps = [step for step, is_taken in taken.items() if is_taken]
    table = Table(show_footer=True, box=SIMPLE, pad_edge=False, collapse_padding=True)
    table.add_column("part", no_wrap=True)
    for step in steps:
        name = "adds" if step == "contribution" else step
        table.add_column(name, justify="left" if step == "gate" else "right", no_wrap=step != "gate")
    for part in explanation.parts:
        gate = "" if part.raw is None else part.gate or "open"
        cells = [escape(gate) if step == "gate" else _cell(getattr(part, step)) for step in steps]
        table.add_row(escape(part.name), *cells)
        for i, member in enumerate(part.members):
            table.add_row(f"  member {i}", _cell(member))
    table.columns[0].footer = "reward"
    table.columns[-1].footer = _cell(explanation.reward)
    return table


def _cell(value: object) -> str:
    return "none" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
