"""The PPO benchmark: its arithmetic, and rlgen's worker on a tiny model."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
WORKERS = HERE / "bench_ppo_workers"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"bench_ppo_{name}", WORKERS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


report, job = load("report"), load("job")


def run(seconds: float, memory: float, samples: int = 8) -> dict:
    def rollout(factor: float) -> dict:
        phases = {"total": 1.0, "rollout": 0.5, "scoring": 0.2, "update": 0.3}
        spent = {name: factor * seconds * share for name, share in phases.items()}
        return {"samples": samples, "completion_tokens": 5 * samples, "seconds": spent, "cpu_seconds": spent}

    return {"rollouts": [rollout(100.0), rollout(1.0), rollout(1.0)], "peak_memory_gb": memory}


def test_the_first_rollout_warms_up_and_the_medians_are_over_all_runs():
    one = report.summary([run(2.0, 3.0), run(4.0, 5.0), run(2.0, 9.0)])
    assert one["samples_per_s"] == pytest.approx(4.0)
    assert one["peak_memory_gb"] == 5.0
    assert one["seconds"]["update"] == pytest.approx(0.6)
    assert one["tokens_per_completion"] == 5
    assert one["measured_rollouts"] == 6


def test_ratios_are_against_trl_and_absent_without_it():
    summaries = {"trl112_ppo_lora": report.summary([run(8.0, 8.0)]), "rlgen_fast": report.summary([run(2.0, 2.0)])}
    ratio = report.ratios(summaries)["rlgen_fast"]
    assert ratio["samples_per_s"] == pytest.approx(4)
    assert ratio["peak_memory_gb"] == pytest.approx(0.25)
    del summaries["trl112_ppo_lora"]
    assert report.ratios(summaries) == {}


def multiplications(layers: list[torch.nn.Linear], tokens: int, backward: bool) -> int:
    """What torch counts for a stack of square maps, the part above included."""
    with FlopCounterMode(display=False) as counter:
        hidden = torch.randn(tokens, layers[0].in_features, requires_grad=backward)
        for layer in layers:
            hidden = layer(hidden)
        if backward:
            hidden.sum().backward()
    return counter.get_total_flops()


def test_operations_are_those_that_torch_counts():
    layers = [torch.nn.Linear(16, 16, bias=False).requires_grad_(False) for _ in range(3)]
    counts = {"layers": 3, "trunk_layers": 0, "layer_parameters": 256, "lora_parameters": 0, "head_parameters": 0}
    sizes = {"prompts": 2, "samples": 4, "prompt_tokens": 20, "completion_tokens": 12}
    needed = report.phase_flops(counts, **sizes, epochs=1)
    assert needed["scoring"] == 2 * multiplications(layers, 32, backward=False)
    assert needed["update"] == multiplications(layers, 32, backward=True)
    for layer in layers:
        layer.requires_grad_(True)
    trained = {**counts, "layer_parameters": 0, "lora_parameters": 3 * 256}
    assert report.phase_flops(trained, **sizes, epochs=1)["update"] == multiplications(layers, 32, backward=True)


def test_a_rollout_reads_each_prompt_once_and_projects_what_it_samples():
    lengths = {10: [3, 1], 7: [5, 2]}  # of two prompts and their completions
    counts = {"layers": 2, "trunk_layers": 1, "layer_parameters": 11, "lora_parameters": 3, "head_parameters": 100}
    body = head = 0
    for prompt, completions in lengths.items():
        body += prompt
        head += 1
        for completion in completions:
            body += completion - 1  # the last token is sampled, not read
            head += completion - 1  # the first one comes from the prompt's projection
    needed = report.phase_flops(counts, prompts=2, samples=4, prompt_tokens=17, completion_tokens=11, epochs=1)
    assert needed["rollout"] == 2 * (2 * 11 + 3) * body + 2 * 100 * head


def test_a_cached_trunk_saves_its_share_of_scoring_and_updates_only():
    counts = {"layers": 10, "trunk_layers": 0, "layer_parameters": 7, "lora_parameters": 0, "head_parameters": 0}
    sizes = {"prompts": 2, "samples": 4, "prompt_tokens": 20, "completion_tokens": 12, "epochs": 2}
    whole = report.phase_flops(counts, **sizes)
    cached = report.phase_flops({**counts, "trunk_layers": 5}, **sizes)
    assert cached["rollout"] == whole["rollout"]
    assert cached["scoring"] == whole["scoring"] / 2
    assert cached["update"] == whole["update"] / 2


def test_the_last_quarter_of_curves():
    found = report.last_quarter([[0, 0, 0, 0, 0, 0, 1, 3], [0, 0, 0, 0, 0, 0, 4, 4]])
    assert found["by_seed"] == [2, 4]
    assert found["mean"] == 3
    assert found["deviation"] == pytest.approx(2**0.5)
    assert report.last_quarter([[1.0]])["deviation"] is None


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    lines = [{"prompt": f"def f{i}(x): return x", "code": f"def f{i}(x):\n    return x + {i}"} for i in range(2)]
    file.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return file


def work(script: str, settings: Path, result: Path) -> dict:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(WORKERS / script), str(settings), str(result)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(result.read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "options", "trunk"),
    [("rlgen_ppo.py", {"top_layers": 2}, 2), ("rlgen_ppo.py", {}, 0), ("trl116.py", {"trainer": "rloo"}, None)],
)
def test_a_worker_measures_every_rollout(tiny_llama, rows, tmp_path, script, options, trunk):
    wanted = job.Job(
        contender="worker",
        model=tiny_llama,
        rows=str(rows),
        reward="docstring",
        output_dir=str(tmp_path / "out"),
        prompts=2,
        num_generations=2,
        minibatch=2,
        max_new_tokens=6,
        dtype="float32",
        rollouts=2,
        options=options,
    )
    wanted.write(tmp_path / "job.json")
    result = work(script, tmp_path / "job.json", tmp_path / "result.json")
    assert [rollout["samples"] for rollout in result["rollouts"]] == [4, 4]
    for rollout in result["rollouts"]:
        spent = rollout["seconds"]
        assert spent["total"] == pytest.approx(spent["rollout"] + spent["scoring"] + spent["update"])
        assert min(spent.values()) > 0
        assert 4 <= rollout["completion_tokens"] <= 24
        assert 0 <= rollout["reward"] <= 1
    if trunk is not None:
        assert result["parameters"]["trunk_layers"] == trunk
        assert len(result["prompt_tokens"]) == 2
        rates = report.flop_rates([{**result, "dtype": "float32"}], {"wide": {"float32": 1.0}}, prompts=2, epochs=2)
        assert all(rate["gflops"] > 0 for rate in rates.values())
        assert report.flops_table({"gflops": {"rlgen": rates}}).count("\n") == 4


@pytest.mark.slow
def test_after_minutes_the_adapter_is_left_and_judged(tiny_llama, rows, tmp_path):
    wanted = job.Job(
        contender="worker",
        model=tiny_llama,
        rows=str(rows),
        reward="even_tokens",
        output_dir=str(tmp_path / "out"),
        prompts=2,
        num_generations=2,
        minibatch=4,
        max_new_tokens=6,
        dtype="float32",
        minutes=1e-6,
    )
    wanted.write(tmp_path / "job.json")
    result = work("rlgen_ppo.py", tmp_path / "job.json", tmp_path / "result.json")
    assert len(result["rollouts"]) == 1
    settings = {"model": tiny_llama, "reward": "even_tokens", "dtype": "float32", "device": "cpu", "seed": 0}
    checkpoints = {"start": tiny_llama, "again": tiny_llama, "trained": str(tmp_path / "out")}
    (tmp_path / "judge.json").write_text(
        json.dumps({**settings, "rows": str(rows), "max_new_tokens": 6, "checkpoints": checkpoints})
    )
    scores = work("judge.py", tmp_path / "judge.json", tmp_path / "scores.json")
    assert scores["start"] == scores["again"]
    assert len(scores["trained"]) == 2
