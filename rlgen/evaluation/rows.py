"""The held-out rows of a comparison."""

from __future__ import annotations

from datasets import Dataset

from reward_models._text import completion_text
from rlgen.config import TaskArguments
from rlgen.data import load_rows, row_hashes
from rlgen.errors import ConfigError, DataError
from rlgen.evaluation.ifeval import NAME as IFEVAL
from rlgen.evaluation.ifeval import ifeval_rows
from rlgen.evaluation.results import FEW_PROMPTS
from rlgen.tasks import Task


def requested_rows(
    data: TaskArguments, task: Task | None, max_rows: int | None
) -> tuple[str | None, Dataset, list[str]]:
    """The rows that a recipe's flags ask for.

    Args:
        data: Its flags; `eval_dataset_name` goes before `dataset_name`.
        task: Whose held-out split is taken where they name no rows.
        max_rows: Take at most this many; `data.max_eval_rows` may want fewer.

    Returns:
        Where own rows come from (None for the task's), the rows, and what weakens a comparison on them.

    Raises:
        ConfigError, DataError: As `heldout_rows` and `distinct_rows`.
    """
    source = data.eval_dataset_name or data.dataset_name
    split = data.dataset_train_split if not data.eval_dataset_name else "train"
    most = min((limit for limit in (max_rows, data.max_eval_rows) if limit is not None), default=None)
    return source, *distinct_rows(heldout_rows(task, source, split=split, max_rows=most))


def heldout_rows(
    task: Task | None, source: str | None, *, split: str = "train", max_rows: int | None = None
) -> Dataset:
    """Load the rows to compare on.

    Args:
        task: Whose held-out split is taken where there is no source.
        source: Own rows: file, folder or hub id, or "ifeval" for IFEval's prompts.
        split: Split of the source.
        max_rows: Take at most this many; None takes all.

    Returns:
        Rows with `prompt` and, where a reference answer is known, its text as `reference`.

    Raises:
        ConfigError: There is neither a task nor a source.
        DataError: The source has no usable rows.
    """
    if source == IFEVAL:
        return ifeval_rows(max_rows)
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
