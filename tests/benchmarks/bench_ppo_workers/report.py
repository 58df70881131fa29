"""From the workers' records to medians, ratios, floating-point rates and Markdown tables. Standard library only."""

from collections.abc import Mapping, Sequence
from statistics import mean, median, stdev
from typing import Any

PHASES = ("rollout", "scoring", "update")
PEER, DEFAULT = "trl112_ppo_lora", "rlgen_lora_all"


def summary(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Medians over the runs of one contender; the first rollout of each run warms up and does not count.

    Args:
        runs: results of its worker, one a round.
    """
    rollouts = [rollout for run in runs for rollout in run["rollouts"][1:]]
    return {
        "samples_per_s": median(r["samples"] / r["seconds"]["total"] for r in rollouts),
        "peak_memory_gb": median(run["peak_memory_gb"] for run in runs),
        "seconds": {name: median(r["seconds"][name] for r in rollouts) for name in ("total", *PHASES)},
        "cpu_seconds": {name: median(r["cpu_seconds"][name] for r in rollouts) for name in ("total", *PHASES)},
        "tokens_per_completion": mean(r["completion_tokens"] / r["samples"] for r in rollouts),
        "measured_rollouts": len(rollouts),
    }


def ratios(summaries: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Each contender against TRL 1.12's PPO: samples/s (above 1 is faster) and peak memory (below 1 is smaller)."""
    peer = summaries.get(PEER)
    if peer is None:
        return {}
    return {
        name: {key: one[key] / peer[key] for key in ("samples_per_s", "peak_memory_gb")}
        for name, one in summaries.items()
        if name != PEER
    }


def phase_flops(
    parameters: Mapping[str, int],
    *,
    prompts: int,
    samples: int,
    prompt_tokens: float,
    completion_tokens: float,
    epochs: int,
) -> dict[str, float]:
    """Floating-point operations that a rollout of rlgen's PPO needs, phase by phase.

    Two for each parameter of a linear map and token in a forward pass. A backward pass takes as many again to carry
    gradients through a map, frozen or not, and as many again for the gradient of a map that trains. Left out:
    attention scores (some percent at these lengths), norms, the softmax, padding, the critic.

    With L layers of N parameters each, of which D form the cached trunk, A parameters of adapters, a head of V, and
    P prompt and C completion tokens (each prompt counted once):

    - rollout: 2 (L N + A) (P + C - samples) + 2 V (C - samples + prompts)
    - scoring: reference 2 (L - D) N (P + C) + 2 V C, and policy 2 ((L - D) N + A) (P + C) + 2 V C, as the trunk's
      activations are known from sampling
    - update: epochs times (4 (L - D) N + 6 A) (P + C) + 4 V C

    Args:
        parameters: `layers`, `trunk_layers`, `layer_parameters` (N), `lora_parameters` (A), `head_parameters` (V).
        prompts: distinct prompts of a rollout.
        samples: completions of a rollout.
        prompt_tokens: P.
        completion_tokens: C.
        epochs: passes over the rollout.
    """
    everything = parameters["layers"] * parameters["layer_parameters"]
    above = everything - parameters["trunk_layers"] * parameters["layer_parameters"]
    adapters, head = parameters["lora_parameters"], parameters["head_parameters"]
    tokens, completion = prompt_tokens + completion_tokens, completion_tokens
    return {
        "rollout": 2 * (everything + adapters) * (tokens - samples) + 2 * head * (completion - samples + prompts),
        "scoring": 2 * (2 * above + adapters) * tokens + 4 * head * completion,
        "update": epochs * ((4 * above + 6 * adapters) * tokens + 4 * head * completion),
    }


def flop_rates(
    runs: Sequence[Mapping[str, Any]], limits: Mapping[str, Mapping[str, float]], *, prompts: int, epochs: int
) -> dict[str, dict[str, float]]:
    """Achieved GFLOP/s of each phase, and its share of the matrix-multiply limit of the run's number format.

    Args:
        runs: results of one rlgen contender.
        limits: measured GFLOP/s, by shape and number format.
        prompts: prompts of a rollout.
        epochs: passes over a rollout.
    """
    rates: dict[str, list[float]] = {name: [] for name in PHASES}
    for run in runs:
        for rollout, prompt_tokens in list(zip(run["rollouts"], run["prompt_tokens"], strict=True))[1:]:
            needed = phase_flops(
                run["parameters"],
                prompts=prompts,
                samples=rollout["samples"],
                prompt_tokens=prompt_tokens,
                completion_tokens=rollout["completion_tokens"],
                epochs=epochs,
            )
            for name in PHASES:
                rates[name].append(needed[name] / rollout["seconds"][name] / 1e9)
    number_format = runs[0]["dtype"]
    return {
        name: {
            "gflops": median(values),
            "share_of_limit": median(values) / limits["wide"][number_format],
        }
        for name, values in rates.items()
    }


def last_quarter(curves: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Mean reward over the last quarter of each seed's curve, its mean over seeds and the deviation between them."""
    by_seed = [mean(curve[-max(len(curve) // 4, 1) :]) for curve in curves]
    return {"by_seed": by_seed, "mean": mean(by_seed), "deviation": stdev(by_seed) if len(by_seed) > 1 else None}


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def speed_table(result: Mapping[str, Any]) -> str:
    rows = []
    for name, one in result["contenders"].items():
        ratio = result["ratios"].get(name)
        seconds = [f"{one['seconds'][phase]:.1f}" for phase in PHASES]
        rows.append(
            [
                f"`{name}`",
                f"{one['samples_per_s']:.2f}",
                f"{ratio['samples_per_s']:.1f}x" if ratio else "",
                f"{one['peak_memory_gb']:.1f}",
                f"{ratio['peak_memory_gb']:.2f}x" if ratio else "",
                *seconds,
                f"{one['tokens_per_completion']:.1f}",
            ]
        )
    header = ["contender", "samples/s", "vs TRL 1.12", "peak GB", "vs TRL 1.12", *(f"{phase} s" for phase in PHASES)]
    return table([*header, "tokens a completion"], rows)


def flops_table(result: Mapping[str, Any]) -> str:
    rows = [
        [f"`{name}`", phase, f"{rate['gflops']:.0f}", f"{100 * rate['share_of_limit']:.0f}%"]
        for name, rates in result["gflops"].items()
        for phase, rate in rates.items()
    ]
    return table(["contender", "phase", "GFLOP/s", "of the matrix-multiply limit"], rows)


def reward_table(result: Mapping[str, Any]) -> str:
    rows = [
        [
            f"`{name}`",
            one["samples"],
            f"{one['train_seconds'] / 60:.1f}",
            f"{one['reward']:.3f}",
            "" if one["gain"] is None else f"{one['gain']:+.3f} [{one['ci_low']:+.3f}, {one['ci_high']:+.3f}]",
        ]
        for name, one in result["reward"].items()
    ]
    return table(["contender", "samples", "minutes", "held-out reward", "gain over the start [95%]"], rows)


def curves_table(result: Mapping[str, Any]) -> str:
    rows = [
        [
            f"`{name}`",
            ", ".join(f"{value:.3f}" for value in one["last_quarter"]["by_seed"]),
            f"{one['last_quarter']['mean']:.3f}",
            "" if one["last_quarter"]["deviation"] is None else f"{one['last_quarter']['deviation']:.3f}",
            f"{one['first_rollout']:.3f}",
            f"{one['seconds']:.0f}",
        ]
        for name, one in result["contenders"].items()
    ]
    header = [
        "contender",
        "last quarter, by seed",
        "mean",
        "deviation between seeds",
        "first rollout",
        "seconds a run",
    ]
    return table(header, rows)
