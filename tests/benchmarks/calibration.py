"""Do the statistics of a comparison keep their promises? Simulated checkpoints, whose true difference is known.

    python tests/benchmarks/calibration.py --trials 1000

For each kind of reward, number of prompts and number of samples a prompt: how often the interval of two identical
checkpoints excludes zero, how often the test's p-value is below 0.05, how often both, which is when a comparison calls
them different; how often the interval covers a true difference, and how often that difference is found when it is the
one that is said to be found in 80% of cases.

A simulated prompt has a difficulty of its own, shared by both checkpoints; every sample adds noise. The kinds of
rewards: normal; skewed (most near 1, a long tail down); tied (one of five values, mostly the best); pass or fail.
"""

import argparse
from collections.abc import Callable

import numpy as np

from rlgen.evaluation.significance import ALPHA, detectable_effect, significance
from rlgen.evaluation.statistics import compare_paired

RESAMPLES = 1_999

Reward = Callable[[np.ndarray], np.ndarray]
REWARDS: dict[str, Reward] = {
    "normal": lambda z: z,
    "skewed": lambda z: 1 - np.exp(-z / 1.5) / 4,
    "tied": lambda z: np.clip(np.floor(2 * z + 3), 0, 4) / 4,
    "pass or fail": lambda z: (z > 0).astype(float),
}


def checkpoint(
    reward: Reward, difficulty: np.ndarray, samples: int, shift: float, rng: np.random.Generator
) -> np.ndarray:
    """Prompt means of a checkpoint that is better than another by `shift` before the reward is taken."""
    noise = rng.normal(size=(len(difficulty), samples))
    return reward(difficulty[:, None] + noise + shift).mean(axis=1)


def true_difference(reward: Reward, shift: float) -> float:
    """Expected reward with the shift, less that without, by brute force."""
    rng = np.random.default_rng(1)
    z = rng.normal(size=2_000_000) * np.sqrt(2)
    return float((reward(z + shift) - reward(z)).mean())


def shift_to_find(reward: Reward, prompts: int, samples: int) -> float:
    """The shift that makes the expected difference the smallest one that is found in 80% of cases."""
    rng = np.random.default_rng(2)
    difficulty = rng.normal(size=100_000)
    low, high = 0.0, 4.0
    for _ in range(20):
        middle = (low + high) / 2
        a = checkpoint(reward, difficulty, samples, 0.0, rng)
        b = checkpoint(reward, difficulty, samples, middle, rng)
        effect = (b - a).mean() / (b - a).std()
        low, high = (middle, high) if effect < detectable_effect(prompts) else (low, middle)
    return (low + high) / 2


def trial(
    reward: Reward, prompts: int, samples: int, shift: float, rng: np.random.Generator
) -> tuple[float, float, float]:
    """Interval and p-value of one comparison."""
    difficulty = rng.normal(size=prompts)
    a = checkpoint(reward, difficulty, samples, 0.0, rng)
    b = checkpoint(reward, difficulty, samples, shift, rng)
    paired = compare_paired(a, b, resamples=RESAMPLES)
    return paired.low, paired.high, significance(a, b).p_value


def row(kind: str, prompts: int, samples: int, trials: int, seed: int) -> list[str]:
    reward = REWARDS[kind]
    rng = np.random.default_rng([seed, prompts, samples, list(REWARDS).index(kind)])
    same = np.array([trial(reward, prompts, samples, 0.0, rng) for _ in range(trials)])
    shift = shift_to_find(reward, prompts, samples)
    truth = true_difference(reward, shift)
    better = np.array([trial(reward, prompts, samples, shift, rng) for _ in range(trials)])
    excluded = (same[:, 0] > 0) | (same[:, 1] < 0)
    shares = [
        excluded.mean(),
        (same[:, 2] < ALPHA).mean(),
        (excluded & (same[:, 2] < ALPHA)).mean(),
        ((better[:, 0] <= truth) & (truth <= better[:, 1])).mean(),
        ((better[:, 0] > 0) & (better[:, 2] < ALPHA)).mean(),
    ]
    return [kind, str(prompts), str(samples), *(f"{share:.1%}" for share in shares)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--prompts", type=int, nargs="+", default=[30, 100, 200])
    parser.add_argument("--samples", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    titles = ["rewards", "prompts", "samples", "interval excludes 0", "p < 0.05", "called different"]
    titles += ["interval covers", "found"]
    print(f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}", flush=True)
    for kind in REWARDS:
        for prompts in args.prompts:
            for samples in args.samples:
                print(f"| {' | '.join(row(kind, prompts, samples, args.trials, args.seed))} |", flush=True)


if __name__ == "__main__":
    main()
