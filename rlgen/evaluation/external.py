"""Any checkpoint in lm-evaluation-harness: EleutherAI's tasks, or local ones, on what rlgen trained."""

from __future__ import annotations

import difflib
import importlib.util
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from rlgen.errors import ConfigError, DataError
from rlgen.models import load_policy, load_tokenizer
from rlgen.runs import write_atomic

# What lm-eval's results hold besides numbers that JSON can write, or that is the machine's and not the model's.
_LEFT_OUT = ("samples", "pretty_env_info")


def harness_model(
    checkpoint: str, *, batch_size: int = 8, dtype: str = "auto", trust_remote_code: bool = False
) -> Any:
    """A checkpoint as lm-eval's model for transformers, with adapters unmerged and the checkpoint's own template.

    Args:
        checkpoint: Folder, adapter folder, hub id or "embedded".
        batch_size: Sequences at a time.
        dtype: As for `load_policy`.
        trust_remote_code: Run code that ships with a hub model.

    Returns:
        An `lm_eval.models.huggingface.HFLM`.

    Raises:
        ConfigError: lm-eval is not installed.
        ModelError: The checkpoint cannot be loaded.
    """
    _check_installed()
    from lm_eval.models.huggingface import HFLM

    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
    model = load_policy(checkpoint, dtype=dtype, trust_remote_code=trust_remote_code).to(device).eval()
    tokenizer = load_tokenizer(checkpoint, trust_remote_code=trust_remote_code)
    with _quiet():  # it warns that a loaded model is what it gets
        return HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)


def open_tasks(names: Sequence[str], include_path: str | None = None) -> Any:
    """An `lm_eval.tasks.TaskManager` that knows these tasks: local ones, and lm-eval's where they are needed.

    Args:
        names: Tasks, groups or tags.
        include_path: Folder with YAML files of own tasks.

    Raises:
        ConfigError: lm-eval is not installed, the folder is not there, or nothing has such a name.
    """
    _check_installed()
    from lm_eval.tasks import TaskManager

    if include_path is not None and not Path(include_path).expanduser().is_dir():
        raise ConfigError(f"--include_path {include_path}: no such folder; give the one with your tasks' YAML files")
    with _quiet():
        folder = None if include_path is None else str(Path(include_path).expanduser())
        manager = TaskManager(include_path=folder, include_defaults=folder is None)
        if not set(names) <= set(manager.all_tasks) and folder is not None:
            manager = TaskManager(include_path=folder)
    for name in names:
        if name not in manager.all_tasks:
            near = difflib.get_close_matches(name, manager.all_tasks, n=1)
            hint = f"did you mean {near[0]}?" if near else "lm-eval ls tasks lists them"
            raise ConfigError(f"lm-eval has no task {name}: {hint}")
    return manager


def run_harness(
    model: Any,
    tasks: Sequence[str],
    manager: Any,
    *,
    num_fewshot: int | None = None,
    limit: int | None = None,
    chat_template: bool | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Evaluate with lm-eval's own `simple_evaluate`.

    Args:
        model: From `harness_model`.
        tasks: Names that `manager` knows.
        manager: From `open_tasks`.
        num_fewshot: Examples in the prompt; None for each task's own number.
        limit: Documents per task; None for all.
        chat_template: Render prompts as messages; None where the tokenizer has a template.
        seed: Of few-shot examples and of sampling, where a task samples.

    Returns:
        lm-eval's results, with `samples`.

    Raises:
        ConfigError: A chat template is wanted and there is none.
        DataError: A task cannot be loaded or run.
    """
    from lm_eval import simple_evaluate

    known = bool(model.tokenizer.chat_template)
    if chat_template and not known:
        raise ConfigError("the tokenizer has no chat template: leave --apply_chat_template out, or set it to false")
    templated = known if chat_template is None else chat_template
    try:
        return dict(
            simple_evaluate(
                model,
                tasks=list(tasks),
                num_fewshot=num_fewshot,
                limit=limit,
                apply_chat_template=templated,
                task_manager=manager,
                random_seed=seed,
                numpy_random_seed=seed,
                torch_random_seed=seed,
                fewshot_random_seed=seed,
            )
        )
    except (OSError, ValueError, KeyError, AttributeError, TypeError, ImportError) as error:
        reason = " ".join(str(error).split())[:300]
        raise DataError(
            f"lm-eval cannot run {', '.join(tasks)}: {type(error).__name__}: {reason} (tasks by name fetch their data "
            "from the hub; local ones name a file in dataset_kwargs)"
        ) from error


def write_harness_results(folder: str | Path, results: dict[str, Any], more: dict[str, Any]) -> Path:
    """Write lm-eval's results.json, and what was asked and answered as samples_TASK.jsonl.

    Args:
        folder: Where to.
        results: From `run_harness`.
        more: Further keys for results.json.

    Returns:
        The path of results.json.
    """
    from lm_eval.utils import handle_non_serializable

    folder = Path(folder)
    for task, samples in results.get("samples", {}).items():
        lines = [json.dumps(sample, default=handle_non_serializable, ensure_ascii=False) for sample in samples]
        write_atomic(folder / f"samples_{task}.jsonl", "".join(f"{line}\n" for line in lines))
    kept = {key: value for key, value in results.items() if key not in _LEFT_OUT} | more
    path = folder / "results.json"
    write_atomic(path, json.dumps(kept, indent=2, default=handle_non_serializable, ensure_ascii=False) + "\n")
    return path


def harness_rows(results: dict[str, Any]) -> list[tuple[str, str, str, float, float | None]]:
    """Task, metric, filter, value and standard error of every number in lm-eval's results."""
    rows = []
    for task, metrics in results["results"].items():
        for key, value in metrics.items():
            metric, comma, chosen = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            error = metrics.get(f"{metric}_stderr,{chosen}")
            rows.append((task, metric, chosen, float(value), error if isinstance(error, float) else None))
    return rows


def _check_installed() -> None:
    if importlib.util.find_spec("lm_eval") is None:
        raise ConfigError("lm-evaluation-harness is not installed: pip install 'rlgen[lm-eval]'")


@contextmanager
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
