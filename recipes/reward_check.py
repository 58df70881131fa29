"""Put rewards on trial: do they keep the contract, and which text that nobody wants do they like best.

    rlgen reward check my_rewards.py:politeness --task docstring
    rlgen reward check pep257 docstring --strict
    rlgen reward check my_rewards.py:politeness --dataset_name rows.jsonl --model_name_or_path runs/sft --num_samples 4

Needs rows with `prompt` and a good `completion` (or `reference`), and the columns that the rewards read: the task's,
your own, or the examples that come with a shipped reward. Takes seconds, with a model's samples or a reward model
minutes. Exits with 1 if a reward breaks the contract, with --strict also for a weakness that is not documented. With
--output_dir it leaves check.json; docs/rewards/check.md describes it.
"""

import rlgen  # isort: skip  # noqa: F401  (it sets what the libraries below read when they are imported)

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console

from rlgen.config import parse_arguments, recipe, resolved_config
from rlgen.data import load_rows
from rlgen.errors import ConfigError
from rlgen.generation import generate
from rlgen.models import load_policy, load_tokenizer
from rlgen.rewards import CheckedReward, load_rewards
from rlgen.rewards.harness import inspect_reward, module_examples
from rlgen.rewards.probes import reference_text
from rlgen.rewards.report import report_view
from rlgen.runs import open_run, write_atomic
from rlgen.tasks import get_task


@dataclass
class CheckArguments:
    """Which rewards to try, and on what."""

    reward: list[str] = field(
        default_factory=list,
        metadata={"help": "Rewards to check, as for ppo; the flag may be left out: rlgen reward check NAME ..."},
    )
    task: str | None = field(default=None, metadata={"help": "Try them on rows of this task (its validation split)."})
    task_source: str | None = field(default=None, metadata={"help": "Where the task reads its rows."})
    dataset_name: str | None = field(
        default=None,
        metadata={
            "help": "Try them on own rows: file, folder or hub id. Without this and --task, on the examples that come "
            "with a shipped reward."
        },
    )
    max_rows: int = field(default=64, metadata={"help": "Use at most this many rows."})
    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Also try them on samples of this model, by preference the one to be trained."}
    )
    num_samples: int = field(default=1, metadata={"help": "Samples per row, with --model_name_or_path."})
    max_new_tokens: int | None = field(
        default=None, metadata={"help": "Length limit of a sample; default the task's, or 64."}
    )
    temperature: float = field(
        default=1.0, metadata={"help": "Temperature of the samples; 0 for the likeliest tokens."}
    )
    timeout: float = field(default=60.0, metadata={"help": "Seconds that one call of a reward may take."})
    strict: bool = field(default=False, metadata={"help": "Exit with 1 for weaknesses that are not documented, too."})
    output_dir: str | None = field(
        default=None, metadata={"help": "Folder for check.json; without it nothing is written."}
    )
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Allow hub models to bring their own Python code."}
    )
    seed: int = field(default=0, metadata={"help": "Seed of the samples."})

    def __post_init__(self) -> None:
        """Refuse what checks nothing."""
        if not self.reward:
            raise ValueError("no reward is named; write rlgen reward check my_rewards.py:function")
        if self.task and self.dataset_name:
            raise ValueError("give --task or --dataset_name, not both")
        for name in ("max_rows", "num_samples", "max_new_tokens", "timeout"):
            if getattr(self, name) is not None and getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")


def choose_rows(function: CheckedReward, args: CheckArguments) -> list[dict[str, Any]]:
    """The rows that a reward is tried on.

    Raises:
        ConfigError: there are none, or they have no references.
    """
    if args.task:
        rows = list(get_task(args.task, args.task_source).split("validation", args.max_rows))
    elif args.dataset_name:
        rows = list(load_rows(args.dataset_name, columns=["prompt"], max_rows=args.max_rows))
    else:
        rows = module_examples(function)[: args.max_rows]
        if not rows:
            raise ConfigError(
                f"reward {function.__name__} brings no examples; give rows to try it on: --task NAME or "
                "--dataset_name FILE"
            )
    if any(reference_text(row) is None for row in rows):
        raise ConfigError("the rows need a good answer each, in a column completion or reference, to compare with")
    return rows


@recipe
def main(argv: Sequence[str] | None = None) -> None:
    """Check each reward, show what was found, and say by the exit code whether it can be trained on."""
    words = list(sys.argv[1:] if argv is None else argv)
    named = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
    if named:  # rlgen reward check NAME ...
        words = ["--reward", *words]
    (args,) = parse_arguments([CheckArguments], description=__doc__.partition("\n")[0], argv=words)
    run = open_run(args.output_dir, stage="reward_check", config=resolved_config(args)) if args.output_dir else None

    # 1. Rewards, and a model to draw samples from
    task = get_task(args.task, args.task_source) if args.task else None
    options = {"trust_remote_code": args.trust_remote_code}
    functions, _ = load_rewards(args.reward, None, task, model_options=options)
    model = tokenizer = None
    if args.model_name_or_path:
        tokenizer = load_tokenizer(args.model_name_or_path, **options)
        model = load_policy(args.model_name_or_path, **options)

    # 2. Try each on its rows
    console = Console()
    reports = []
    drawn: tuple[Any, list[list[str]] | None] = (None, None)
    for name, function in zip(args.reward, functions, strict=True):
        function.timeout = args.timeout
        rows = choose_rows(function, args)
        prompts = [row["prompt"] for row in rows]
        if model is not None and drawn[0] != prompts:
            completions = generate(
                model,
                tokenizer,
                prompts,
                max_new_tokens=args.max_new_tokens or (task.max_completion_tokens if task else 64),
                temperature=args.temperature,
                num_generations=args.num_samples,
                seed=args.seed,
                progress_name="samples",
            )
            drawn = prompts, [[sample.text for sample in samples] for samples in completions]
        ids = (
            (lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]) if tokenizer else (lambda text: [0])
        )
        reports.append(inspect_reward(function, rows, samples=drawn[1], tokenize=ids))
        reports[-1].reward = name  # as it was asked for; several modules have a `composite`
        console.print(report_view(reports[-1]), soft_wrap=True)
        console.print()

    # 3. Verdict
    broken = [report.reward for report in reports if report.violations]
    weak = [report.reward for report in reports if report.weaknesses and not report.violations]
    if run is not None:
        found = {"rewards": [report.to_dict() for report in reports], "versions": run.record["versions"]}
        write_atomic(run.path / "check.json", json.dumps(found, indent=1, ensure_ascii=False) + "\n")
        run.finish({"broken": broken, "weak": weak})
    clean = len(reports) - len(broken) - len(weak)
    print(f"{clean} of {len(reports)} clean, {len(weak)} with weaknesses, {len(broken)} against the contract")
    if run is not None:
        print(f"report: {run.path / 'check.json'}")
    if args.strict and weak:
        print(f"error: --strict: weaknesses that are not documented in {', '.join(weak)}", file=sys.stderr)
    elif run is None and not broken and not weak:
        print(f"next: rlgen ppo --model_name_or_path runs/sft --reward {' '.join(args.reward)}")
    if broken or (args.strict and weak):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
