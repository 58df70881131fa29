"""Does it hold for other seeds? SFT, PPO and comparison of the quickstart's default preset, for one more seed each.

    python tests/benchmarks/seeds.py run --seed 1 --reward_model runs/quickstart/reward --output_dir runs/seeds/1
    python tests/benchmarks/seeds.py table runs/quickstart runs/seeds/1 runs/seeds/2

The reward model is the one of the first seed's quickstart. The table reads each folder's `compare/results.json` and
`ppo/metrics.jsonl`.
"""

import argparse
import json
from pathlib import Path

import yaml

from recipes.quickstart import PRESETS, QuickstartArguments, stage_main, stage_options
from rlgen.pipeline import flags
from rlgen.progress import recipe_progress
from rlgen.runs import read_metrics


def run(seed: int, reward_model: str, output_dir: str) -> None:
    preset = yaml.safe_load((PRESETS / "default.yaml").read_text(encoding="utf-8"))
    args = QuickstartArguments(output_dir=output_dir, seed=seed)
    options = stage_options(args, preset, preset["model"])
    for stage in ("ppo", "compare"):
        names = options[stage]["reward"]
        options[stage]["reward"] = [*names[:-1], reward_model]
    options["compare"]["checkpoints"] = [c for c in options["compare"]["checkpoints"] if not c.startswith("dpo=")]
    for stage in ("sft", "ppo", "compare"):
        with recipe_progress():
            stage_main(stage)(flags(options[stage]))


def table(folders: list[str]) -> None:
    print("| run | comparison | measure | sampling | n | a | b | b - a | 95% interval |")
    print("|---|---|---|---|---|---|---|---|---|")
    for folder in folders:
        results = json.loads((Path(folder) / "compare" / "results.json").read_text(encoding="utf-8"))
        for row in results["comparisons"]:
            wanted = row["measure"] in ("reward", "rouge_l") and (row["a"], row["b"]) in (
                ("base", "sft"),
                ("sft", "ppo"),
            )
            if wanted:
                print(
                    f"| {Path(folder).name} | {row['b']} - {row['a']} | {row['measure']} | {row['sampling']} | "
                    f"{row['n']} | {row['mean_a']:.3f} | {row['mean_b']:.3f} | {row['difference']:+.3f} | "
                    f"{row['ci_low']:+.3f} to {row['ci_high']:+.3f} |"
                )
    print()
    for folder in folders:
        logged = read_metrics(Path(folder) / "ppo" / "metrics.jsonl")
        explained = [r["critic/explained_variance"] for r in logged if r.get("critic/explained_variance") is not None]
        second = explained[len(explained) // 2 :]
        print(
            f"{Path(folder).name}: explained variance of the critic over {len(explained)} rollouts: "
            f"first half {sum(explained[: len(explained) // 2]) / (len(explained) // 2):.3f}, "
            f"second half {sum(second) / len(second):.3f}"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run")
    running.add_argument("--seed", type=int, required=True)
    running.add_argument("--reward_model", required=True)
    running.add_argument("--output_dir", required=True)
    commands.add_parser("table").add_argument("folders", nargs="+")
    options = parser.parse_args()
    if options.command == "run":
        run(options.seed, options.reward_model, options.output_dir)
    else:
        table(options.folders)
