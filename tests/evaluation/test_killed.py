"""A comparison that is killed again and again ends in the results of one that was left alone."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlgen.tiny import tiny_model

ROOT = Path(__file__).parents[2]
WORDS = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu")
OF_THE_RUN = ("generation_seconds", "config")  # how long it took, and where it was written
REWARD = """
def shortness(prompts, completions, **columns):
    return [-float(len(c if isinstance(c, str) else c[-1]["content"])) / 100 for c in completions]
"""


def arguments(url: str, output_dir: str) -> list[str]:
    return (
        f"--checkpoints sft=sft ppo=ppo prompted=sft@2shot big=openai:big@{url} --dataset_name rows.jsonl "
        f"--examples examples.jsonl --reward reward.py:shortness --also other=other.jsonl@exact_match,log_perplexity "
        f"--num_samples 2 --temperature 0.7 --kl_reference sft --max_new_tokens 8 --batch_size 4 --as_chat true "
        f"--judge openai:wise@{url} --output_dir {output_dir}"
    ).split()


def answer(body: dict[str, Any]) -> str:
    """Of the endpoint: the last words in capitals; of the judge: a taste for the longer text."""
    content = body["messages"][-1]["content"]
    shown = [re.search(rf"<answer_{x}>\n(.*)\n</answer_{x}>", content, re.DOTALL) for x in "ab"]
    if not all(shown):
        return f"{content.upper()[-20:]} {body.get('seed')}"
    a, b = (len(match[1]) for match in shown if match)
    return f"Verdict: {'tie' if a == b else 'A' if a > b else 'B'}"


@pytest.mark.slow
def test_a_comparison_killed_in_each_of_its_parts_ends_in_the_same_results(chat_server: Any, tmp_path: Path) -> None:
    for seed, name in enumerate(("sft", "ppo")):
        tiny_model(tmp_path / name, "llama", seed=seed)
    (tmp_path / "reward.py").write_text(REWARD)
    for file, ask in {"rows": "Say", "other": "Spell", "examples": "Sing"}.items():
        rows = [{"prompt": f"{ask} {w}.", "completion": f"It is {w}.", "reference": f"It is {w}."} for w in WORDS]
        (tmp_path / f"{file}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    chat_server.reply = answer
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}

    def start(output_dir: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(ROOT / "recipes" / "compare.py"), *arguments(chat_server.url, output_dir)]
        return subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE)

    def finish(output_dir: str) -> dict[str, Any]:
        with start(output_dir) as process:
            _, errors = process.communicate()
        assert process.returncode == 0, errors.decode()
        results: dict[str, Any] = json.loads((tmp_path / output_dir / "results.json").read_text())
        for entry in (results, *results["capabilities"]):
            for name in OF_THE_RUN:
                entry.pop(name, None)
        return results

    def kill_when(happened: Callable[[], bool]) -> None:
        with start("killed") as process:
            while process.poll() is None and not happened():
                time.sleep(0.02)
            assert process.poll() is None, "over before it could be killed"
            os.kill(process.pid, signal.SIGKILL)
            process.communicate()
        assert not (tmp_path / "killed" / "results.json").exists()

    whole = finish("whole")
    asked = len(chat_server.seen)
    assert whole["capabilities"]
    assert whole["judge"]

    def lines(pattern: str) -> int:
        return sum(len(f.read_bytes().splitlines()) for f in (tmp_path / "killed").rglob(pattern))

    chat_server.seen.clear()
    kill_when(lambda: lines("generations/sft.jsonl") > 0)
    kill_when(lambda: len(chat_server.seen) > 6)  # the endpoint's answers
    kill_when(lambda: lines("logprobs/*.jsonl") > 0)
    kill_when(lambda: any(body["model"] == "wise" for body in chat_server.seen))
    killed = finish("killed")
    assert killed == whole
    # What was under way at a kill may have to be asked once more; what had arrived is not.
    assert asked <= len(chat_server.seen) <= asked + 3 * 4
