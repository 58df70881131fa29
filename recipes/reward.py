"""Reward model: learn from preference pairs which of two answers is better.

    rlgen reward --config recipes/configs/docstring/reward.yaml
    rlgen reward --model_name_or_path runs/sft --dataset_name pairs.jsonl --output_dir runs/reward
    rlgen reward --model_name_or_path runs/sft --dataset_name rows.jsonl --reward my_rewards.py:politeness
    rlgen reward --model_name_or_path embedded-encoder --dataset_name human:sentiment --num_members 5 --lora_r 8

Needs pairs (`prompt`, `chosen`, `rejected`), or rows with a reference (`prompt`, `completion`; a task has them): then
the model, a decoder, samples answers, and pairs are the reference over a sample, and the better over the worse sample
by the named rewards. The 144 prompts of the quickstart take about five minutes on two CPU cores. Leaves a plain
sequence-classification folder, or ensemble.json and an adapter folder per member; besides, pairs/{train,heldout}.jsonl
for `rlgen dpo`, evaluation.json and reward_report.html: accuracy on held-out pairs with its interval, beside rankers
that see only a surface. The same command goes on with an interrupted run.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import rlgen  # isort: skip  # noqa: F401  (it sets what the libraries below read when they are imported)

from trl import RewardConfig

from rlgen.config import ModelArguments, TaskArguments, fit_to_machine, parse_arguments, recipe, resolved_config
from rlgen.controls import ControlArguments, check_best_metric, controlled
from rlgen.data import check_disjoint
from rlgen.evaluation.reward_models import evaluate_reward
from rlgen.evaluation.reward_report import write_reward_report
from rlgen.families import check_family
from rlgen.memory import release_memory
from rlgen.models import load_tokenizer, starting_model
from rlgen.pairing import PairArguments, obtain_pairs
from rlgen.preferences import unit_rows
from rlgen.rewards.model import load_model_reward
from rlgen.rewards.training import record_statistics, train_ensemble, train_reward_model, with_margins
from rlgen.runs import finite, open_run, write_atomic
from rlgen.strategies import check_tuning


@dataclass
class RewardArguments(ControlArguments, RewardConfig):
    """TRL's reward modelling settings, with defaults for LoRA on a small machine."""

    output_dir: str | None = field(default="runs/reward", metadata={"help": "Folder of this run."})
    num_members: int = field(default=1, metadata={"help": "Members of an ensemble: adapters on one base."})
    bootstrap_members: bool = field(default=False, metadata={"help": "Each member draws prompts with replacement."})
    margin_scale: float = field(
        default=0.0, metadata={"help": "Log odds per unit of the pairs' margin in the loss; 0 leaves margins out."}
    )
    save_adapter: bool = field(
        default=False,
        metadata={"help": "Save the adapter with its head, not a plain model; PPO then needs no second base for it."},
    )
    learning_rate: float = field(default=5e-4, metadata={"help": "Highest learning rate."})
    num_train_epochs: float = field(default=1.0, metadata={"help": "Passes over the training pairs."})
    warmup_steps: float = field(default=0.1, metadata={"help": "Steps, or share of all steps, of rising rate."})
    center_rewards_coefficient: float | None = field(default=0.01, metadata={"help": "Pulls scores towards zero."})
    train_sampling_strategy: str = field(
        default="group_by_length", metadata={"help": "Order of the rows; like lengths together need little padding."}
    )
    logging_steps: float = field(default=5, metadata={"help": "Log every so many steps."})
    save_steps: float = field(default=0.25, metadata={"help": "Checkpoint every so many steps or share of all."})
    save_total_limit: int | None = field(default=2, metadata={"help": "How many checkpoints to keep."})
    bf16: bool | None = field(default=None, metadata={"help": "Mixed precision; default where the device is fast."})
    gradient_checkpointing: bool = field(default=False, metadata={"help": "Trade time for memory."})
    report_to: str | None = field(default="none", metadata={"help": "Where to log besides metrics.jsonl."})
    disable_tqdm: bool | None = field(default=True, metadata={"help": "Leave the progress display to rlgen."})

    def __post_init__(self) -> None:
        """Choose the number format that this machine is fast in."""
        if self.num_members < 1 or self.margin_scale < 0:
            raise ValueError("num_members must be at least 1 and margin_scale at least 0")
        fit_to_machine(self)
        with controlled(self, "reward"):
            super().__post_init__()


@recipe
def main(argv: Sequence[str] | None = None) -> None:
    """Make pairs, train, save, evaluate, and say what comes next."""
    args, pair_args, data, model_args = parse_arguments(
        (RewardArguments, PairArguments, TaskArguments, ModelArguments),
        description="Reward model from preference pairs.",
        argv=argv,
    )
    check_tuning(
        model_args,
        "reward",
        gradient_checkpointing=args.gradient_checkpointing,
        disable_dropout=args.disable_dropout,
    )
    check_best_metric(args, "reward")
    check_family(model_args, "reward", trust_remote_code=args.trust_remote_code, settings=args)
    run = open_run(args.output_dir, stage="reward", config=resolved_config(args, pair_args, data, model_args))
    folder, policy = Path(args.output_dir), model_args.model_name_or_path
    next_command = (
        f"next: rlgen ppo --model_name_or_path {policy} --reward {folder} --output_dir runs/ppo\n"
        f"  or: rlgen dpo --model_name_or_path {policy} --pairs {folder}/pairs --output_dir runs/dpo"
    )
    if run.finished:
        print(f"{folder} is finished\n{next_command}")
        return

    # 1. Pairs: given, or built once from samples of the starting model; held-out ones share no prompt with the others
    with args.main_process_first(desc="base model"):
        start = starting_model(policy, folder, trust_remote_code=args.trust_remote_code)
    tokenizer = load_tokenizer(start, trust_remote_code=args.trust_remote_code, needs_eos=False)
    train, heldout = obtain_pairs(folder / "pairs", start, tokenizer, args, pair_args, data, model_args)
    check_disjoint({"training pairs": unit_rows(train), "held-out pairs": unit_rows(heldout)})
    run.record_data("preference", unit_rows(train))
    run.record_data("preference_heldout", unit_rows(heldout))

    # 2. Train a score in place of the LM head, once or once per member of an ensemble
    rows, held = (with_margins(pairs, args.margin_scale) for pairs in (train, heldout))
    settings = (args, model_args, start, tokenizer, rows, held if args.eval_strategy != "no" else None)
    if args.num_members > 1:
        metrics = train_ensemble(run, args.num_members, *settings, bootstrap=args.bootstrap_members)
    else:
        metrics = train_reward_model(run, *settings, merge=not args.save_adapter)
    release_memory()
    if args.process_index != 0:
        return

    # 3. Evaluate what was saved
    if args.num_members == 1:
        record_statistics(folder, train, trust_remote_code=args.trust_remote_code)
    scorer = load_model_reward(str(folder), trust_remote_code=args.trust_remote_code)
    evaluation = evaluate_reward(scorer, heldout)
    write_atomic(folder / "evaluation.json", json.dumps(finite(evaluation), indent=2) + "\n")
    write_reward_report(folder, evaluation, name=str(folder), pairs="held-out pairs")
    run.finish({**metrics, **{key: evaluation[key] for key in ("accuracy", "ci_low", "ci_high", "n_pairs")}})
    print(
        f"held-out accuracy {evaluation['accuracy']:.3f} [{evaluation['ci_low']:.3f}, {evaluation['ci_high']:.3f}], "
        f"longer wins {evaluation['trivial_rankers']['longer_wins']['accuracy']:.3f}"
    )
    print(next_command)


if __name__ == "__main__":
    main()
