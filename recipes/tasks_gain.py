"""Show what the examples that checkpoints wrote are worth to a classifier.

    rlgen compare --config augmentation/compare.yaml
    rlgen tasks gain --comparison runs/augmentation/compare

The question behind the task `augmentation`: does a classifier that is trained on the held-out seeds and on what a
checkpoint made of them (greedy) get better on sentences that people have labeled? Writes gain.json into the folder.
"""

import rlgen  # isort: skip  # noqa: F401  (it sets what the libraries below read when they are imported)

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from rlgen.config import parse_arguments, recipe
from rlgen.data import prompt_text
from rlgen.errors import ConfigError, DataError
from rlgen.evaluation.significance import mcnemar
from rlgen.evaluation.statistics import compare_paired
from rlgen.runs import write_atomic
from rlgen.tasks import get_task
from rlgen.tasks.augmentation import classified, sentences_to_test


@dataclass
class GainArguments:
    """Which comparison to read."""

    comparison: str = field(
        default="runs/augmentation/compare", metadata={"help": "Folder that `rlgen compare` wrote on this task."}
    )


@recipe
def main(argv: Sequence[str] | None = None) -> None:
    """Read, train, test, print."""
    words = list(sys.argv[1:] if argv is None else argv)
    (args,) = parse_arguments(
        (GainArguments,), description="Show what the examples that checkpoints wrote are worth.", argv=words
    )

    # 1. What the checkpoints wrote, and what people did
    file = Path(args.comparison) / "results.json"
    try:
        results = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read: {error}; make it with `rlgen compare --task augmentation`") from error
    rows = {prompt_text(row["prompt"]): row for row in get_task("augmentation").split("heldout")}
    samples = [sample for sample in results["samples"] if sample["sampling"] == "greedy"]
    if not samples or not all(sample["prompt"] in rows for sample in samples):
        raise ConfigError(
            f"{file} is no comparison on the held-out rows of this task; make one with "
            "`rlgen compare --task augmentation`"
        )
    seeds = [rows[sample["prompt"]] for sample in samples]
    texts = {
        checkpoint["name"]: [sample["completions"][checkpoint["name"]][0]["text"] for sample in samples]
        for checkpoint in results["checkpoints"]
    }
    texts["people"] = [row["reference"] for row in seeds]

    # 2. A classifier on the seeds alone, and one on the seeds with the new examples
    test = sentences_to_test({*(row["seed"] for row in seeds), *(text for each in texts.values() for text in each)})
    gains = {}
    for name, generated in texts.items():
        alone, helped = (np.array(right, dtype=float) for right in classified(seeds, generated, test))
        gains[name] = asdict(compare_paired(alone, helped)) | {"p_value": mcnemar(alone, helped)}
    report = Path(args.comparison) / "gain.json"
    write_atomic(report, json.dumps(gains, indent=1) + "\n")

    # 3. Print
    console = Console()
    console.print(
        f"Accuracy of a classifier on {len(test)} sentences that people have labeled, trained on {len(samples)} "
        "seeds alone and with one more example for each:",
        highlight=False,
        soft_wrap=True,
    )
    table = Table(box=SIMPLE)
    for column in ("examples by", "seeds alone", "with them", "difference", "95% interval", "p"):
        table.add_column(column, justify="left" if column == "examples by" else "right")
    for name, row in gains.items():
        table.add_row(
            name,
            f"{row['mean_a']:.3f}",
            f"{row['mean_b']:.3f}",
            f"{row['difference']:+.3f}",
            f"{row['low']:+.3f} to {row['high']:+.3f}",
            f"{row['p_value']:.3f}",
        )
    console.print(table)
    print(f"report: {report}")


if __name__ == "__main__":
    main()
