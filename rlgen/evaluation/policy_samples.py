"""Samples of the starting policy and of the checkpoints of a run, with their KL to the start; cached on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset

from rlgen.errors import ConfigError, DataError
from rlgen.evaluation.checkpoints import Checkpoint
from rlgen.evaluation.generations import CHUNK, Generated, Sampling, Store, generate_cached, loaded, logprobs_cached
from rlgen.evaluation.measures import Score, score_side_by_side
from rlgen.generation import Completion, render_prompts
from rlgen.models import load_tokenizer
from rlgen.rewards import weighted_sum
from rlgen.runs import checkpoint_problem, report_progress


@dataclass(frozen=True)
class Samples:
    """What one policy wrote.

    Args:
        completions: per prompt, its samples.
        kl: estimate of the KL to the starting policy by prompt and sample, in nats a completion, shape (P, N).
    """

    completions: list[list[Completion]]
    kl: np.ndarray


def run_checkpoints(folder: str | Path, most: int) -> dict[str, str]:
    """Checkpoints of a run by name, in the order of their steps; evenly spaced if there are more than `most`.

    Raises:
        ConfigError: the folder has no complete checkpoint.
    """
    found = {}
    for each in Path(folder).glob("checkpoint-*"):
        number = each.name.removeprefix("checkpoint-")
        if number.isdigit() and checkpoint_problem(each) is None:
            found[int(number)] = str(each)
    if not found:
        raise ConfigError(f"{folder} has no complete checkpoint-N; train with a small --save_steps")
    steps = sorted(found)
    if len(steps) > most:
        steps = [steps[round(i)] for i in np.linspace(0, len(steps) - 1, most)]
    return {f"step-{step}": found[step] for step in steps}


def draw_samples(
    start: Checkpoint,
    checkpoints: Sequence[Checkpoint],
    rows: Dataset,
    sampling: Sampling,
    start_sampling: Sampling,
    folder: Path,
    *,
    batch_size: int,
    advance: Callable[[int], None],
) -> dict[str, Samples]:
    """Sample the start and each checkpoint, and score each checkpoint's samples under both.

    The KL is the sum over the completion's tokens of exp(-r) - 1 + r, with r = log p(checkpoint) - log p(start): its
    expectation over the checkpoint's own tokens is the KL of each next-token distribution, and it is never negative.

    Args:
        start: the policy that optimization starts from; its tokenizer is everybody's.
        checkpoints: what became of it.
        rows: held-out rows with `prompt`.
        sampling: how checkpoints are sampled; at temperature T the policies are softmaxes of logits divided by T.
        start_sampling: how the start is sampled.
        folder: where samples and log-probabilities are kept; what is there already is not drawn again.
        batch_size: prompts per batch.
        advance: told how many more completions are drawn, or scored under one policy.

    Returns:
        By name of the checkpoint; the start's own KL is 0.
    """
    tokenizer = load_tokenizer(start.path)
    prompts = rows["prompt"]
    rendered = render_prompts(tokenizer, prompts)
    generated: dict[str, Generated] = {}
    own: dict[str, list[list[list[float]]]] = {}
    for checkpoint in checkpoints:
        samples, scores = (Store(folder / kind / f"{checkpoint.name}.jsonl") for kind in ("generations", "logprobs"))
        with loaded(checkpoint) as policy:
            written = generate_cached(
                policy, tokenizer, prompts, rendered, [sampling], samples, batch_size=batch_size, advance=advance
            )
            generated[checkpoint.name] = written[sampling.name]
            own[checkpoint.name] = logprobs_cached(
                policy, tokenizer, prompts, written, [sampling], scores, batch_size=batch_size, advance=advance
            )[sampling.name]
    drawn = {}
    with loaded(start) as policy:
        store = Store(folder / "generations" / f"{start.name}.jsonl")
        first = generate_cached(
            policy, tokenizer, prompts, rendered, [start_sampling], store, batch_size=batch_size, advance=advance
        )[start_sampling.name]
        drawn[start.name] = Samples(first.completions, np.zeros((len(rows), start_sampling.num_samples)))
        store = Store(folder / "logprobs" / f"{start.name}.jsonl")
        for name, samples_of in generated.items():
            theirs = logprobs_cached(
                policy,
                tokenizer,
                prompts,
                {sampling.name: samples_of},
                [sampling],
                store,
                batch_size=batch_size,
                advance=advance,
            )[sampling.name]
            drawn[name] = Samples(samples_of.completions, kl_per_sample(own[name], theirs))
    return drawn


def kl_per_sample(
    own: Sequence[Sequence[Sequence[float]]], reference: Sequence[Sequence[Sequence[float]]]
) -> np.ndarray:
    """Sum over tokens of exp(-r) - 1 + r, with r = own - reference, per prompt and sample, shape (P, N).

    Source: Schulman 2020, "Approximating KL Divergence" (k3), here for each token.
    """

    def one(left: Sequence[float], right: Sequence[float]) -> float:
        ratio = np.asarray(left) - np.asarray(right)
        return float((np.expm1(-ratio) + ratio).sum())

    return np.array(
        [[one(a, b) for a, b in zip(x, y, strict=True)] for x, y in zip(own, reference, strict=True)], dtype=float
    )


def score_samples(
    samples: Mapping[str, Samples], rows: Dataset, rewards: Mapping[str, tuple[Sequence[Score], Sequence[float]]]
) -> tuple[dict[str, dict[str, np.ndarray]], np.ndarray]:
    """Weighted sums of several sets of rewards on everybody's samples.

    Args:
        samples: by policy.
        rows: the held-out rows.
        rewards: functions and weights by the name of the set.

    Returns:
        Scores by policy and set, each of shape (P, N), of the prompts whose samples all have all scores; and the
        indices of these prompts.

    Raises:
        DataError: fewer than two prompts have.
        RewardError: a reward raised or broke its contract.
    """
    authors = {("", name): drawn.completions for name, drawn in samples.items()}
    parts = [range(i, min(i + CHUNK, len(rows))) for i in range(0, len(rows), CHUNK)]
    scores: dict[str, dict[str, np.ndarray]] = {name: {} for name in samples}
    for number, (which, (functions, weights)) in enumerate(rewards.items()):
        # Everybody's samples of a prompt side by side: a reward model then reads the prompt once.
        scored: dict[str, list[list[float | None]]] = {name: [] for name in samples}
        for part in parts:
            for (_, name), values in score_side_by_side(weighted_sum(functions, weights), rows, authors, part).items():
                scored[name] += values
            report_progress("scores", number * len(rows) + part.stop, len(rewards) * len(rows))
        for name, values in scored.items():
            scores[name][which] = np.array([[np.nan if v is None else v for v in row] for row in values], dtype=float)
    complete = np.all([np.isfinite(v).all(1) for each in scores.values() for v in each.values()], axis=0)
    kept = np.flatnonzero(complete)
    if len(kept) < 2:
        raise DataError(
            "gold and proxy both score all samples of fewer than two prompts: give rows that both apply to"
        )
    return {name: {which: v[kept] for which, v in each.items()} for name, each in scores.items()}, kept
