"""Score checkpoints on held-out prompts: `python judge.py job.json result.json`.

The job names `checkpoints` (name to folder: plain model or adapter), `rows`, `max_new_tokens` and `reward`. Each
prompt gets one completion at temperature 1, with the same seed for all checkpoints.
"""

import rlgen  # isort: skip  # noqa: F401  (it sets what the libraries below read when they are imported)

import json
import sys
from pathlib import Path

from recorder import REWARDS

from rlgen.generation import generate
from rlgen.models import load_policy, load_tokenizer


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    rows = [json.loads(line) for line in Path(job["rows"]).read_text(encoding="utf-8").splitlines()]
    columns = {name: [row[name] for row in rows] for name in rows[0] if name != "prompt"}
    scores = {}
    for name, folder in job["checkpoints"].items():
        model = load_policy(folder, dtype=job["dtype"], merge=True).to(job["device"])
        completions = generate(
            model,
            load_tokenizer(job["model"]),
            [row["prompt"] for row in rows],
            max_new_tokens=job["max_new_tokens"],
            temperature=1.0,
            seed=job["seed"],
        )
        scores[name] = REWARDS[job["reward"]](
            completions=[answer.text for (answer,) in completions],
            completion_ids=[answer.token_ids for (answer,) in completions],
            **columns,
        )
    Path(sys.argv[2]).write_text(json.dumps(scores), encoding="utf-8")


if __name__ == "__main__":
    main()
