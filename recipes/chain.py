"""Run a folder of YAML files, one per stage, as one command: SFT, then PPO, then their comparison, or more.

    rlgen chain reasoning                                 # the stages in recipes/configs/reasoning
    rlgen chain reasoning --seed 1 --output_dir runs/reasoning_1
    rlgen chain my_task/ --model_name_or_path Qwen/Qwen3-0.6B

Needs a folder with some of pretrain.yaml, sft.yaml, reward.yaml, ppo.yaml, dpo.yaml and compare.yaml, each with the
flags of that recipe. Leaves one folder with a sub-folder per stage, `manifest.json` and, if there is a comparison,
`report.html`. Takes what its stages take; a quarter to half an hour for the shipped ones on two CPU cores. Stop it
whenever you like: the same command goes on.
"""

import rlgen  # isort: skip  # noqa: F401  (it sets what the libraries below read when they are imported)

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rlgen.chains import check_stage, find_chain, read_chain
from rlgen.cli import recipe_main
from rlgen.config import parse_arguments, read_settings, recipe
from rlgen.display import chain_display
from rlgen.errors import ConfigError, RlgenError
from rlgen.pipeline import Stage, flags, open_manifest, run_stages
from rlgen.progress import format_seconds
from rlgen.runs import write_atomic

# How long the stages take beside each other; how long at all shows once one is under way.
MINUTES = {"pretrain": 4, "sft": 3, "reward": 4, "ppo": 8, "dpo": 2, "compare": 8}


@dataclass
class ChainArguments:
    """What to run, and where."""

    stages: str = field(
        default="docstring", metadata={"help": "Folder with one YAML per stage, or the name of a shipped one."}
    )
    output_dir: str | None = field(
        default=None, metadata={"help": "Folder for everything; default runs/ and the name of --stages."}
    )
    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Start from this model instead of the first stage's: hub id or local folder."}
    )
    seed: int | None = field(default=None, metadata={"help": "Seed of every stage; default what the files say."})


@recipe
def main(argv: Sequence[str] | None = None) -> None:
    """Check every stage, then run what is not finished."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and not words[0].startswith("-"):
        words = ["--stages", *words]  # `rlgen chain NAME`
    (args,) = parse_arguments([ChainArguments], description=__doc__.partition("\n")[0], argv=words)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("a chain runs in one process; launch the single recipes on several")
    folder = find_chain(args.stages)
    run = Path(args.output_dir or Path("runs") / folder.resolve().name)
    options = read_chain(folder, str(run), model=args.model_name_or_path, seed=args.seed)
    stages = [Stage(name, flags(values)) for name, values in options.items()]
    for stage in stages:
        try:
            check_stage(stage.name, read_settings(recipe_main(stage.name), stage.argv))
        except RlgenError as error:
            raise ConfigError(f"{folder / stage.name}.yaml: {error}") from error
    settings = {"stages": args.stages, "model": args.model_name_or_path, "seed": args.seed}
    open_manifest(run, stages, settings)

    minutes = {stage.name: MINUTES[stage.name] for stage in stages}
    with chain_display(folder.resolve().name, minutes, rough=True) as display:
        manifest = run_stages(run, stages, recipe_main, settings=settings, display=display)

    took = f"took {format_seconds(sum(entry['seconds'] for entry in manifest['stages']))}"
    if "compare" not in options:
        print(f"{took}\nnext: rlgen compare --checkpoints {' '.join(f'{s.name}={run / s.name}' for s in stages)}")
        return
    write_atomic(run / "report.html", (run / "compare" / "report.html").read_text(encoding="utf-8"))
    results = json.loads((run / "compare" / "results.json").read_text(encoding="utf-8"))
    print("\n".join(results["verdict"]))
    print(f"{took}\nreport: {run / 'report.html'}")


if __name__ == "__main__":
    main()
