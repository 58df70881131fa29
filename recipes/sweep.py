"""Search good settings of any other recipe: resumable, each trial a run of its own, hopeless ones cut short.

    rlgen sweep --recipe ppo --config docstring/ppo.yaml --search search.yaml --trials 20 --metric reward
    rlgen sweep --recipe sft --config docstring/sft.yaml --search search.yaml --metric eval_loss --seeds 3

Needs optuna (pip install 'rlgen[sweep]') and a search file such as

    learning_rate: {low: 1e-5, high: 1e-3, log: true}
    lora_r: {low: 4, high: 32}
    kl_coef: [0.02, 0.05]
    max_steps: 80

The last line is the same in every trial. Takes as long as its trials do. Leaves trial-000/, trial-001/, ..., best.yaml
for --config, trials.json, summary.md and sweep.db, from which the same command goes on, even after kill -9; with a
larger --trials it goes on beyond its end. See docs/training.md.
"""

import importlib
import importlib.util
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import rlgen  # isort: skip  # noqa: F401  (it sets what the libraries below read when they are imported)

from rlgen.cli import recipe_summaries, spoken
from rlgen.config import parse_arguments, read_settings, recipe
from rlgen.controls import LESS_IS_BETTER
from rlgen.errors import ConfigError
from rlgen.parser import find_config, spelled_settings
from rlgen.pipeline import flags
from rlgen.runs import open_run, write_atomic
from rlgen.sweep.space import Space, read_space

CHAINS = ("chain", "quickstart", "sweep")


@dataclass
class SweepArguments:
    """What to search, how, and for how long."""

    config_field = "base"

    recipe: str = field(metadata={"help": "The recipe whose settings are searched: sft, reward, dpo, ppo, ..."})
    search: str = field(metadata={"help": "YAML file: which of its flags vary, between which bounds or choices."})
    metric: str = field(
        metadata={"help": "What to optimize: a name in the recipe's metrics.jsonl, or in the summary of its run.json."}
    )
    base: str | None = field(
        default=None,
        metadata={"help": "YAML file with the recipe's settings for all trials; --config is the same."},
    )
    output_dir: str = field(default="runs/sweep", metadata={"help": "Folder of the sweep and its trials."})
    trials: int = field(default=20, metadata={"help": "Trials in all; a resumed sweep goes on to this number."})
    direction: str | None = field(
        default=None,
        metadata={
            "help": "Whether more is better; default minimize for a loss, nll or perplexity, else maximize.",
            "choices": ["minimize", "maximize"],
        },
    )
    last: int = field(
        default=1,
        metadata={"help": "Average so many of the last logged values, where a metric is noisy."},
    )
    seeds: int = field(default=1, metadata={"help": "Run each trial with so many seeds and take the mean."})
    sampler: str = field(
        default="tpe",
        metadata={"help": "How settings are chosen; grid takes lists only.", "choices": ["tpe", "random", "grid"]},
    )
    pruner: str = field(
        default="median",
        metadata={"help": "What cuts trials short.", "choices": ["median", "hyperband", "none"]},
    )
    prune_after: int = field(default=0, metadata={"help": "Steps of a trial before it may be cut short."})
    prune_startup: int = field(default=4, metadata={"help": "Whole trials before the first one may be cut short."})
    max_minutes: float | None = field(default=None, metadata={"help": "A run that takes longer counts as failed."})
    keep: str = field(default="all", metadata={"help": "Whose weights stay on the disk.", "choices": ["all", "best"]})
    seed: int = field(default=42, metadata={"help": "Seed of the search, and the first one of --seeds."})

    def __post_init__(self) -> None:
        """Refuse counts that make no sense."""
        for name in ("trials", "last", "seeds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("prune_after", "prune_startup"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, not {getattr(self, name)}")
        if self.max_minutes is not None and self.max_minutes <= 0:
            raise ValueError(f"max_minutes must be above 0, not {self.max_minutes}")
        if self.pruner != "median" and self.prune_startup != 4:
            raise ValueError(f"prune_startup has no effect on the pruner {self.pruner}: leave it out")
        if self.direction is None:
            self.direction = "minimize" if self.metric.endswith(LESS_IS_BETTER) else "maximize"


@recipe
def main(argv: Sequence[str] | None = None) -> None:
    """Search, and say what was found."""
    (args,) = parse_arguments([SweepArguments], description=__doc__.partition("\n")[0], argv=argv)
    if importlib.util.find_spec("optuna") is None:
        raise ConfigError("rlgen sweep needs optuna, which is not installed: pip install 'rlgen[sweep]'")

    # 1. What may vary, tried on the recipe's own parser before anything is run
    name = args.recipe.replace(" ", "_")
    known = [each for each in recipe_summaries() if each not in CHAINS]
    if name not in known:
        raise ConfigError(f"there is no recipe {args.recipe} to search: there are {', '.join(map(spoken, known))}")
    space = read_space(args.search)
    base = spelled_settings(find_config(args.base)) if args.base else {}
    if args.seeds > 1 and "seed" in {**space.varied, **space.fixed}:
        raise ConfigError(f"{args.search}: seed has no place beside --seeds {args.seeds}, which sets it: leave it out")
    try:
        check_settings(name, base, space, with_seed=args.seeds > 1)
    except ConfigError as error:
        raise ConfigError(f"{args.search}{f' with {args.base}' if args.base else ''}: {error}") from error
    if args.sampler == "grid":
        args.trials = min(args.trials, len(space.grid()))

    # 2. Trials
    from rlgen.sweep.report import BEST, importances, trial_rows, trial_table
    from rlgen.sweep.study import Plan, best_trial, counted, open_study, run_sweep

    free = ("trials", "max_minutes", "keep", "output_dir", "base", "search")
    config = {key: value for key, value in asdict(args).items() if key not in free}
    run = open_run(args.output_dir, stage="sweep", config={**config, "base": base, "space": asdict(space)})
    plan = Plan(
        folder=Path(args.output_dir),
        recipe=name,
        base=base,
        space=space,
        metric=args.metric,
        direction="minimize" if args.direction == "minimize" else "maximize",
        trials=args.trials,
        last=args.last,
        seeds=args.seeds,
        sampler=args.sampler,
        pruner=args.pruner,
        prune_after=args.prune_after,
        startup=args.prune_startup,
        max_minutes=args.max_minutes,
        keep=args.keep,
        seed=args.seed,
    )
    study = open_study(plan)
    run_sweep(plan, study)

    # 3. What was found
    rows, best = trial_rows(counted(study)), best_trial(study)
    shares = importances(study)
    write_atomic(plan.folder / "trials.json", json.dumps({"trials": rows, "importances": shares}, indent=2) + "\n")
    table = trial_table(rows, args.metric, plan.direction)
    shown = ", ".join(f"{key} {share:.0%}" for key, share in shares.items())
    table += f"\n\nWhat set the better trials apart (PED-ANOVA): {shown}" if shown else ""
    write_atomic(plan.folder / "summary.md", table + "\n")
    print(table)
    if best is None:
        raise ConfigError(f"no trial finished; {rows[-1]['reason']}")
    run.finish({"best_trial": best.number, args.metric: best.value, "trials": len(rows)})
    print(f"best: trial {best.number}, {args.metric} {best.value:.6g}")
    print(f"next: rlgen {spoken(name)} --config {plan.folder / BEST} --output_dir runs/{name}_best")


def check_settings(name: str, base: dict[str, Any], space: Space, *, with_seed: bool) -> None:
    """Whether the recipe's own parser, with what it checks, takes every end of the space."""
    main = importlib.import_module(f"recipes.{name}").main
    seed = {"seed": 0} if with_seed else {}
    for settings in space.samples():
        instances = read_settings(main, flags({**base, **settings, **seed, "output_dir": "trial"}))
        if not any(hasattr(instance, "output_dir") for instance in instances):
            raise ConfigError(f"{spoken(name)} leaves no run folder that a sweep could compare")


if __name__ == "__main__":
    main()
