"""Answers of the policy as it is, and their scores, without a trace in the training that goes on around."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from transformers import PreTrainedTokenizerBase, TrainerState, TrainingArguments

from rlgen.errors import TrainingError
from rlgen.evaluation.measures import Score, score_completions
from rlgen.generation import Completion, generate
from rlgen.rewards import checked
from rlgen.rewards.compose import add_up
from rlgen.scoring import unwrapped

T = TypeVar("T")


@contextmanager
def undisturbed() -> Iterator[None]:
    """Give all global random states back as they were: Python's, NumPy's and torch's, on all devices."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def in_first_process(state: TrainerState, work: Callable[[], T], what: str) -> T:
    """Do work in the first process, undisturbed, and let all processes know what came of it.

    Args:
        state: of the trainer; says which process this is.
        work: gives anything but None.
        what: the work's name, for the message.

    Raises:
        TrainingError: it failed in the first process, as the others see it; there its own error goes on.
    """
    outcome: list[Any] = [None]
    with undisturbed():
        try:
            if state.is_world_process_zero:
                outcome = [work()]
        finally:
            broadcast_object_list(outcome)  # also of an error, so that no process waits for ever
    if outcome[0] is None:
        raise TrainingError(f"{what} failed in the first process; its message says why")
    found: T = outcome[0]
    return found


def answer(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    rows: Dataset,
    args: TrainingArguments,
    *,
    max_new_tokens: int,
    temperature: float,
    seed: int,
) -> list[Completion]:
    """One completion for each row's prompt, in the number format that training samples in."""
    policy = unwrapped(model)
    dtype = torch.bfloat16 if args.bf16 else torch.float16
    with torch.autocast(policy.device.type, dtype=dtype, enabled=bool(args.bf16 or args.fp16)):
        answers = generate(
            policy,
            tokenizer,
            rows["prompt"],
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            batch_size=32,
            seed=seed,
        )
    return [samples[0] for samples in answers]


def score(
    functions: Mapping[str, Score],
    rewards: Sequence[Score],
    weights: Sequence[float],
    rows: Dataset,
    completions: Sequence[Completion],
    state: TrainerState,
) -> tuple[list[float | None], dict[str, list[float | None]]]:
    """Scores of one completion a row.

    Args:
        functions: the watched measures.
        rewards: what training optimizes.
        weights: one per reward.
        rows: the prompts with their columns.
        completions: one per row.
        state: given to rewards that ask for `trainer_state`, as TRL does.

    Returns:
        The weighted sum of the rewards, and each watched measure.

    Raises:
        RewardError: a function raised or broke the reward contract.
    """
    single = [[completion] for completion in completions]
    extras = {"trainer_state": state, "log_extra": _ignore, "log_metric": _ignore}

    def scores(function: Score) -> list[list[float | None]]:
        # A wrapper around the wrapper: it names the reward as before, and waits for it if it is async.
        contract = checked(function)
        return score_completions(checked(partial(contract, **extras), contract.__name__), rows, single)

    optimized = add_up([[row[0] for row in scores(function)] for function in rewards], weights)
    watched = {name: [row[0] for row in scores(function)] for name, function in functions.items()}
    return optimized, watched


def _ignore(*_: Any, **__: Any) -> None:
    return None
