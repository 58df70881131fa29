"""A recipe without torch for the tests of the sweep: its score is best at a learning rate of 1e-3."""

import json
import math
import sys
import time
from pathlib import Path

from rlgen.sweep.child import end_with_parent

if __name__ == "__main__":
    end_with_parent()
    _, *words = sys.argv[1:]
    settings = dict(zip((word.removeprefix("--") for word in words[::2]), words[1::2], strict=True))
    folder = Path(settings["output_dir"])
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "starts.txt").open("a") as file:
        file.write("start\n")
    if settings.get("kind") == "broken":
        print("Warning: a line\nerror: it is broken")
        sys.exit(2)
    if settings.get("kind") == "crash":
        raise ZeroDivisionError("a bug")
    metrics = folder / "metrics.jsonl"
    done = len(metrics.read_text().splitlines()) if metrics.exists() else 0
    reached = -((math.log10(float(settings["learning_rate"])) + 3) ** 2) + 0.001 * int(settings.get("seed", 0))
    for step in range(done + 1, 6):
        time.sleep(float(settings.get("pause", 0)))
        with metrics.open("a") as file:
            value = math.nan if settings.get("kind") == "nan" else reached - 1 / step
            file.write(json.dumps({"step": step, "score": None if math.isnan(value) else value}) + "\n")
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "run.json").write_text(json.dumps({"finished": "now", "summary": {"other": 1.0}}))
