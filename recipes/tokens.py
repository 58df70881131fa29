"""Show one checkpoint's answers token by token: which words training made likelier, and what the critic thought.

    rlgen tokens --checkpoints base=embedded sft=runs/sft ppo=runs/ppo --task docstring --rows 3
    rlgen tokens --checkpoints old=PATH new=PATH --author new --dataset_name prompts.jsonl

Needs two or more models of one vocabulary and rows with `prompt`. The last checkpoint answers unless --author says
otherwise; where its run has a `critic/` (PPO) and there are rewards, values and advantages are shown too. Three
answers of a model of 135M parameters take about 20 seconds of one CPU core. Leaves tokens.json (described in
docs/results.md) and tokens.html.
"""

import rlgen  # isort: skip  # noqa: F401  (it sets what the libraries below read when they are imported)

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlgen.config import TaskArguments, parse_arguments, recipe, resolved_config
from rlgen.errors import ConfigError
from rlgen.evaluation.checkpoints import open_checkpoints, parse_named, refuse_examples
from rlgen.evaluation.rows import requested_rows
from rlgen.evaluation.tokens import shaping_of, token_view, write_tokens
from rlgen.models import resolve_model
from rlgen.rewards import explainable_rewards
from rlgen.runs import open_run
from rlgen.tasks import get_task


@dataclass
class TokensArguments:
    """Whose answers to look at, and under which checkpoints."""

    checkpoints: list[str] = field(
        default_factory=list, metadata={"help": "Models as NAME=PATH: folder, adapter folder, hub id or embedded."}
    )
    output_dir: str = field(default="runs/tokens", metadata={"help": "Folder for tokens.json and tokens.html."})
    author: str | None = field(default=None, metadata={"help": "Checkpoint that answers; default the last."})
    reference: str | None = field(
        default=None, metadata={"help": "Checkpoint that KL refers to; default sft, if there is one, else the first."}
    )
    rows: int = field(default=3, metadata={"help": "How many prompts."})
    max_new_tokens: int | None = field(
        default=None, metadata={"help": "Length limit of an answer; default the task's, or 64."}
    )
    critic: str | None = field(
        default="auto",
        metadata={"help": "Folder of the author's critic; auto looks beside the author, none is without."},
    )
    reward: list[str] | None = field(
        default=None, metadata={"help": "Rewards for the advantages; default the task's. See --reward of ppo."}
    )
    reward_weights: list[float] | None = field(default=None, metadata={"help": "One weight per reward."})
    reward_config: str | None = field(
        default=None, metadata={"help": "Composition of rewards instead: its YAML file, or the run trained with it."}
    )

    def __post_init__(self) -> None:
        """Refuse what shows nothing."""
        if len(self.checkpoints) < 2:
            raise ValueError("two checkpoints or more are needed; give --checkpoints NAME=PATH NAME=PATH")
        if self.rows < 1:
            raise ValueError(f"rows must be at least 1, not {self.rows}")
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, not {self.max_new_tokens}")


@recipe
def main(argv: Sequence[str] | None = None) -> None:
    """Answer, score under every checkpoint, write the page."""
    args, data = parse_arguments(
        (TokensArguments, TaskArguments), description="Show answers token by token.", argv=argv
    )
    named = parse_named(args.checkpoints, "--checkpoints")
    author = args.author or list(named)[-1]
    reference = args.reference or ("sft" if "sft" in named and author != "sft" else next(iter(named)))
    for flag, name in (("author", author), ("reference", reference)):
        if name not in named:
            raise ConfigError(f"--{flag} {name}: no checkpoint has that name ({', '.join(named)})")

    # 1. Rows, checkpoints, critic, rewards
    task = get_task(data.task, data.task_source) if data.task else None
    source, rows, _ = requested_rows(data, task, args.rows)
    checkpoints = open_checkpoints(named)
    refuse_examples(checkpoints)
    critic = args.critic
    if critic == "auto":
        beside = Path(resolve_model(named[author])) / "critic"
        critic = str(beside) if (beside / "config.json").is_file() else None
    reward_of = None
    if (task is not None and not source) or args.reward or args.reward_config:
        composite = explainable_rewards(
            args.reward, args.reward_weights, task, own_rows=bool(source), config=args.reward_config
        )

        def reward_of(
            prompts: Sequence[Any], texts: Sequence[str], columns: Mapping[str, list[Any]]
        ) -> list[float | None]:
            answers = [
                text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]
                for prompt, text in zip(prompts, texts, strict=True)
            ]
            return [explanation.reward for explanation in composite.explain(prompts, answers, **columns)]

    # 2. Answer and score
    run = open_run(args.output_dir, stage="tokens", config=resolved_config(args, data))
    run.record_data("heldout", rows)
    view = token_view(
        checkpoints,
        rows,
        author=author,
        reference=reference,
        max_new_tokens=args.max_new_tokens or (task.max_completion_tokens if task and not source else 64),
        shaping=next((shaping_of(checkpoint) for checkpoint in checkpoints if checkpoint.name == author), None),
        critic=critic,
        reward_of=reward_of,
    )

    # 3. Write
    page = write_tokens(run.path, view)
    run.finish({"answers": len(view["rows"])})
    print(f"report: {page}")


if __name__ == "__main__":
    main()
