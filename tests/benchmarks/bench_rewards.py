"""How many completions a second each shipped reward scores, alone in one process.

    python tests/benchmarks/bench_rewards.py                  # all shipped rewards
    python tests/benchmarks/bench_rewards.py docstring pep257  # some

Rows are the EXAMPLES of the reward's module, repeated to batches of 64, each completion made unique so that no cache
of whole texts answers; one call to warm up, then at least 0.2 seconds of calls; the median of three such measurements.
Prints a Markdown table.
"""

import os
import platform
import statistics
import sys
from importlib.metadata import entry_points

from rlgen.errors import RlgenError
from rlgen.rewards import load_reward
from rlgen.rewards.harness import module_examples, rewards_per_second
from rlgen.rewards.load import ENTRY_POINTS
from rlgen.rewards.probes import Batch

BATCH = 64
REPEATS = 3


def main(names: list[str]) -> None:
    shipped = {entry.name: entry.value for entry in entry_points(group=ENTRY_POINTS)}
    shipped = {name: value for name, value in shipped.items() if value.startswith("reward_models.")}
    print(f"Python {platform.python_version()}, {os.cpu_count()} CPU cores, batches of {BATCH}\n")
    print("| reward | module | rewards/s |")
    print("|---|---|---|")
    for name, value in sorted(shipped.items(), key=lambda item: (item[1].partition(":")[0], item[0])):
        if names and name not in names:
            continue
        try:
            reward = load_reward(name)
            batch = Batch.of_rows(module_examples(reward))
        except RlgenError as error:
            print(f"| `{name}` | {value.partition(':')[0]} | {error} |")
            continue
        speeds = [rewards_per_second(reward, batch, size=BATCH) for _ in range(REPEATS)] if len(batch) else []
        known = [speed for speed in speeds if speed is not None]
        shown = f"{statistics.median(known):,.0f}" if known else "no examples" if not len(batch) else "fails"
        print(f"| `{name}` | {value.partition(':')[0]} | {shown} |")


if __name__ == "__main__":
    main(sys.argv[1:])
