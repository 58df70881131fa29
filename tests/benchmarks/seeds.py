"""Does it hold with other seeds too? SFT, PPO and comparison of the quickstart's default preset.

    python tests/benchmarks/seeds.py run --seed 1 --output_dir runs/seeds/1
    python tests/benchmarks/seeds.py table runs/quickstart runs/seeds/1 runs/seeds/2

The seed decides adapters, the order of the rows, rollouts, minibatches and the sampled half of the comparison; the
held-out prompts are those of the quickstart. A run that was stopped goes on. The table reads each folder's
`compare/results.json` and `ppo/metrics.jsonl`.
"""

import argparse
import json
from pathlib import Path

import yaml

from recipes.quickstart import PRESETS, QuickstartArguments, stage_options
from rlgen.cli import recipe_main
from rlgen.pipeline import flags
from rlgen.progress import recipe_progress
from rlgen.runs import read_metrics

PAIRS = (("base", "sft"), ("sft", "ppo"), ("sft", "dpo"))
MEASURES = ("reward", "no_echo", "rouge_l", "length")


def run(seed: int, output_dir: str) -> None:
    preset = yaml.safe_load((PRESETS / "default.yaml").read_text(encoding="utf-8"))
    options = stage_options(QuickstartArguments(output_dir=output_dir, seed=seed), preset, preset["model"])
    options["compare"]["checkpoints"] = [f"base={preset['model']}", f"sft={output_dir}/sft", f"ppo={output_dir}/ppo"]
    options["compare"]["reward_model"] = None
    for stage in ("sft", "ppo", "compare"):
        with recipe_progress():
            recipe_main(stage)(flags(options[stage]))


def table(folders: list[str]) -> None:
    print("| run | comparison | measure | sampling | n | a | b | b - a | 95% interval |")
    print("|---|---|---|---|---|---|---|---|---|")
    for folder in map(Path, folders):
        for row in json.loads((folder / "compare" / "results.json").read_text(encoding="utf-8"))["comparisons"]:
            if row["measure"] in MEASURES and (row["a"], row["b"]) in PAIRS:
                print(
                    f"| {folder.name} | {row['b']} - {row['a']} | {row['measure']} | {row['sampling']} | {row['n']} "
                    f"| {row['mean_a']:.3f} | {row['mean_b']:.3f} | {row['difference']:+.3f} "
                    f"| {row['ci_low']:+.3f} to {row['ci_high']:+.3f} |"
                )
    print()
    for folder in map(Path, folders):
        logged = read_metrics(folder / "ppo" / "metrics.jsonl")
        explained = [r["critic/explained_variance"] for r in logged if r.get("critic/explained_variance") is not None]
        half = len(explained) // 2
        first, second = explained[:half], explained[half:]
        print(
            f"{folder.name}: explained variance of the critic, mean of the first {len(first)} rollouts "
            f"{sum(first) / max(len(first), 1):.3f}, of the last {len(second)} {sum(second) / max(len(second), 1):.3f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run")
    running.add_argument("--seed", type=int, required=True)
    running.add_argument("--output_dir", required=True)
    commands.add_parser("table").add_argument("folders", nargs="+")
    args = parser.parse_args()
    if args.command == "run":
        run(args.seed, args.output_dir)
    else:
        table(args.folders)


if __name__ == "__main__":
    main()
