"""Evaluate a reward: how often it finds the better text of a pair, how sure it is, and what it mistakes for quality.

    rlgen reward evaluate --reward runs/reward --pairs runs/reward/pairs/heldout.jsonl
    rlgen reward evaluate --reward my_rewards.py:politeness --pairs pairs.jsonl --gold docstring
    rlgen reward evaluate --reward runs/reward --pairs human:sentiment --compare_with my_rewards.py:vader

Needs any reward (function, trained model, ensemble) and pairs with `prompt`, `chosen` and `rejected`; the columns
`domain`, `source` and `group` are used where they exist. Functions take seconds, a model of 135 million parameters
about a second for eight pairs on two CPU cores. Leaves evaluation.json and reward_report.html in the output folder;
a finished evaluation is not repeated.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import rlgen  # isort: skip  # noqa: F401  (it sets what the libraries below read when they are imported)

from rlgen.config import parse_arguments, recipe, resolved_config
from rlgen.errors import ConfigError
from rlgen.evaluation.reward_models import evaluate_reward
from rlgen.evaluation.reward_report import write_reward_report
from rlgen.pairing import load_pairs
from rlgen.rewards import load_reward
from rlgen.runs import finite, open_run, write_atomic
from rlgen.tasks import get_task


@dataclass
class EvaluateArguments:
    """What is evaluated on what."""

    reward: str = field(default="", metadata={"help": "Reward: file.py:function, module:function, name, or folder."})
    pairs: str = field(default="", metadata={"help": "Pairs: file, folder, hub id, or human:NAME."})
    pairs_split: str = field(default="heldout", metadata={"help": "Split of a folder, a hub id or human pairs."})
    max_pairs: int | None = field(default=None, metadata={"help": "Use at most this many, evenly spaced."})
    gold: list[str] | None = field(default=None, metadata={"help": "Rewards to agree with."})
    compare_with: list[str] | None = field(default=None, metadata={"help": "Rewards to be better than."})
    task: str | None = field(default=None, metadata={"help": "Task whose short names of rewards count."})
    aggregate: str = field(default="mean", metadata={"help": "Of an ensemble: mean, worst or uncertainty."})
    uncertainty_coef: float = field(default=0.5, metadata={"help": "Of an ensemble: weight of the variance."})
    bins: int = field(default=10, metadata={"help": "Bins of the reliability diagram."})
    worst: int = field(default=10, metadata={"help": "How many of the worst mistakes to show."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run code that ships with a hub model."})
    output_dir: str = field(default="runs/reward_evaluate", metadata={"help": "Folder of the evaluation."})

    def __post_init__(self) -> None:
        """Refuse what leaves nothing to evaluate."""
        if not self.reward or not self.pairs:
            raise ValueError("give --reward and --pairs")
        if self.bins < 1 or self.worst < 0 or (self.max_pairs is not None and self.max_pairs < 1):
            raise ValueError("bins and max_pairs must be at least 1, worst at least 0")


@recipe
def main(argv: Sequence[str] | None = None) -> None:
    """Score the pairs, write the evaluation and its report, and say the main numbers."""
    (args,) = parse_arguments((EvaluateArguments,), description="Evaluate a reward on preference pairs.", argv=argv)
    run = open_run(args.output_dir, stage="reward_evaluate", config=resolved_config(args))
    if run.finished:
        print(f"{run.path} is finished\nreport: {run.path / 'reward_report.html'}")
        return
    pairs = load_pairs(args.pairs, split=args.pairs_split, max_rows=args.max_pairs)
    task = get_task(args.task) if args.task else None
    options = {
        "trust_remote_code": args.trust_remote_code,
        "aggregate": args.aggregate,
        "uncertainty_coef": args.uncertainty_coef,
    }
    names = [args.reward, *(args.gold or ()), *(args.compare_with or ())]
    if len(set(names)) < len(names):
        raise ConfigError("--reward, --gold and --compare_with name a reward twice; name each once")
    rewards = {name: load_reward(name, task=task, model_options=options) for name in names}
    evaluation = evaluate_reward(
        rewards[args.reward],
        pairs,
        gold={name: rewards[name] for name in args.gold or ()},
        others={name: rewards[name] for name in args.compare_with or ()},
        bins=args.bins,
        worst=args.worst,
    )
    write_atomic(run.path / "evaluation.json", json.dumps(finite(evaluation), indent=2) + "\n")
    report = write_reward_report(run.path, evaluation, name=args.reward, pairs=args.pairs)
    run.finish({key: evaluation[key] for key in ("accuracy", "ci_low", "ci_high", "n_pairs")})
    print(f"accuracy {_interval(evaluation)} on {evaluation['n_pairs']} pairs, ", end="")
    print(f"calibration error {evaluation['calibration']['ece']:.3f}, Brier {evaluation['calibration']['brier']:.3f}")
    for name, other in evaluation["against"].items():
        print(
            f"  {name.replace('_', ' '):<24} {_interval(other)}, better by {other['difference']:+.3f} "
            f"[{other['difference_low']:+.3f}, {other['difference_high']:+.3f}]"
        )
    print(f"report: {report}")


def _interval(entry: dict[str, float]) -> str:
    return f"{entry['accuracy']:.3f} [{entry['ci_low']:.3f}, {entry['ci_high']:.3f}]"


if __name__ == "__main__":
    main()
