"""The held-out rows of a comparison."""

from __future__ import annotations

from datasets import Dataset

from reward_models._text import completion_text
from rlgen.data import load_rows, row_hashes
from rlgen.errors import ConfigError, DataError
from rlgen.evaluation.results import FEW_PROMPTS
from rlgen.tasks import Task


def heldout_rows(
    task: Task | None, source: str | None, *, split: str = "train", max_rows: int | None = None
) -> Dataset:
    """Load the rows to compare on.

    Args:
        task: Whose held-out split is taken where there is no source.
        source: Own rows: file, folder or hub id.
        split: Split of the source.
        max_rows: Take at most this many; None takes all.

    Returns:
        Rows with `prompt` and, where a reference answer is known, its text as `reference`.

    Raises:
        ConfigError: There is neither a task nor a source.
        DataError: The source has no usable rows.
    """
    if source:
        rows = load_rows(source, columns=["prompt"], split=split, max_rows=max_rows)
    elif task is not None:
        rows = task.split("heldout", max_rows)
    else:
        raise ConfigError("there are no rows to compare on; give --task NAME or --dataset_name FILE")
    return with_reference(rows)


def with_reference(rows: Dataset) -> Dataset:
    """The rows with the text of their known answers as `reference`, if they have such answers and no such column."""
    if "reference" not in rows.column_names and "completion" in rows.column_names:
        rows = rows.add_column("reference", [completion_text(value or "") for value in rows["completion"]])
    return rows


def distinct_rows(rows: Dataset) -> tuple[Dataset, list[str]]:
    """Keep the first row of every prompt: a prompt that counts twice makes intervals too narrow.

    Returns:
        The rows, and warnings about what was dropped and about too few prompts.

    Raises:
        DataError: There are no rows.
    """
    if len(rows) == 0:
        raise DataError("there are no held-out rows to compare on; give some with --dataset_name FILE")
    warnings = []
    first: dict[str, int] = {}
    for index, value in enumerate(row_hashes(rows)):
        first.setdefault(value, index)
    if len(first) < len(rows):
        warnings.append(f"{len(rows) - len(first)} of {len(rows)} held-out prompts are repeats and were left out")
        rows = rows.select(list(first.values()))
    if len(rows) < FEW_PROMPTS:
        warnings.append(f"only {len(rows)} held-out prompts: intervals are not to be trusted below {FEW_PROMPTS}")
    return rows, warnings
