"""A tiny T5 learns to write words in reverse order: by SFT from nothing, then better by PPO; several seeds.

    python tests/benchmarks/encoder_decoder.py run --output_dir runs/reverse
    python tests/benchmarks/encoder_decoder.py table runs/reverse

`run` makes rows and a random model, trains both stages and compares them on held-out prompts through the recipes, for
each seed in a folder of its own; it goes on where it was interrupted. A seed decides the model's first weights, the
rows and the training. No prompt of a split is in another. `table` adds the seeds up.
"""

import argparse
import hashlib
import importlib
import json
import random
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reward_models._text import completion_text
from rlgen.tiny import tiny_model

WORDS = ("ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen", "ibis", "jay", "koi", "lark")
SPLITS = {"sft": 1600, "rl": 4000, "heldout": 300}
SFT = "--tuning full --learning_rate 5e-3 --num_train_epochs 25 --per_device_train_batch_size 32 --logging_steps 100"
PPO = (
    "--tuning full --learning_rate 5e-4 --total_episodes 12800 --per_device_train_batch_size 64 --num_generations 4 "
    "--steps_per_generation 4 --max_completion_length 20 --kl_coef 0.02 --critic head --critic_warmup_rollouts 1"
)
COMPARE = "--max_new_tokens 20"


def positions(prompts: Sequence[Any], completions: Sequence[Any], reference: Sequence[str], **_: Any) -> list[float]:
    """Share of the words that stand where they should; words that are missing or too many count as wrong."""
    scores = []
    for completion, wanted in zip(completions, reference, strict=True):
        given, right = completion_text(completion).split(), wanted.split()
        scores.append(sum(a == b for a, b in zip(given, right, strict=False)) / max(len(given), len(right)))
    return scores


def exact(prompts: Sequence[Any], completions: Sequence[Any], reference: Sequence[str], **_: Any) -> list[float]:
    """1 for the right answer, 0 for any other."""
    return [
        float(completion_text(c).split() == wanted.split()) for c, wanted in zip(completions, reference, strict=True)
    ]


def rows(seed: int) -> dict[str, list[dict[str, str]]]:
    """Rows of each split; which split a prompt belongs to is decided by its text."""
    draw, found = random.Random(seed), {name: {} for name in SPLITS}
    while any(len(found[name]) < count for name, count in SPLITS.items()):
        words = [draw.choice(WORDS) for _ in range(draw.randint(3, 6))]
        prompt, answer = f"Reverse: {' '.join(words)}", " ".join(reversed(words))
        place = int(hashlib.sha256(prompt.encode()).hexdigest(), 16) % 8
        name = "heldout" if place == 0 else "sft" if place < 3 else "rl"
        if len(found[name]) < SPLITS[name]:
            found[name][prompt] = {"prompt": prompt, "completion": answer, "reference": answer}
    return {name: list(by_prompt.values()) for name, by_prompt in found.items()}


def run(args: argparse.Namespace) -> None:
    """All seeds, one after the other."""
    for seed in args.seeds:
        folder = Path(args.output_dir) / f"seed{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        for name, part in rows(seed).items():
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
        start = tiny_model(folder / "start", args.family, layers=2, seed=seed)
        sft, ppo, rewards = folder / "sft", folder / "ppo", [f"{__file__}:positions", f"{__file__}:exact"]
        common = ["--seed", str(seed), "--output_dir"]
        words = f"{SFT} --model_name_or_path {start} --dataset_name {folder}/sft.jsonl --save_strategy no"
        importlib.import_module("recipes.sft").main([*words.split(), *common, str(sft)])
        reward = ["--reward", *rewards, "--reward_weights", "0.5", "0.5"]
        words = f"{PPO} --model_name_or_path {sft} --dataset_name {folder}/rl.jsonl --save_strategy no"
        importlib.import_module("recipes.ppo").main([*words.split(), *reward, *common, str(ppo)])
        words = f"{COMPARE} --checkpoints start={start} sft={sft} ppo={ppo} --dataset_name {folder}/heldout.jsonl"
        importlib.import_module("recipes.compare").main([*words.split(), *reward, *common, f"{folder}/compare"])


def table(folder: Path) -> list[str]:
    """One row a seed and sampling, and the mean over seeds, as Markdown."""
    lines = [
        "| seed | sampling | exact, start | exact, SFT | exact, PPO | PPO - SFT (95% interval) |",
        f"|{'---|' * 6}",
    ]
    gains: dict[str, list[float]] = {}
    for each in sorted(folder.glob("seed*")):
        results = json.loads((each / "compare" / "results.json").read_text(encoding="utf-8"))
        found = {(r["a"], r["b"], r["sampling"]): r for r in results["comparisons"] if r["measure"] == "exact"}
        for sampling in sorted({key[2] for key in found}):
            first, gain = found["start", "sft", sampling], found["sft", "ppo", sampling]
            gains.setdefault(sampling, []).append(gain["difference"])
            cells = [each.name[4:], sampling, *(f"{m:.3f}" for m in (first["mean_a"], gain["mean_a"], gain["mean_b"]))]
            cells.append(f"{gain['difference']:+.3f} ({gain['ci_low']:+.3f} to {gain['ci_high']:+.3f})")
            lines.append(f"| {' | '.join(cells)} |")
    for sampling, each_gain in gains.items():
        spread = f"{min(each_gain):+.3f} to {max(each_gain):+.3f}"
        mean = f"{statistics.fmean(each_gain):+.3f}, seeds from {spread}"
        lines.append(f"| mean of {len(each_gain)} | {sampling} | | | | {mean} |")
    return lines


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run")
    running.add_argument("--output_dir", required=True)
    running.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    running.add_argument("--family", default="t5", choices=["t5", "bart", "bert2bert"])
    showing = commands.add_parser("table")
    showing.add_argument("folder", type=Path)
    args = parser.parse_args(argv)
    if args.command == "run":
        run(args)
    else:
        print("\n".join(table(args.folder)))


if __name__ == "__main__":
    main()
