"""What a sweep has found: a table of trials, the best settings as a config file, and what mattered."""

import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.trial import FrozenTrial, TrialState

from rlgen.progress import format_seconds
from rlgen.runs import write_atomic

BEST = "best.yaml"
STATES = {TrialState.COMPLETE: "finished", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
ENOUGH_FOR_IMPORTANCES = 4


def words(params: Mapping[str, Any]) -> str:
    """Settings as people read them: "learning_rate 0.00031, kl_coef 0.05"."""
    return ", ".join(f"{name} {_short(value)}" for name, value in params.items())


def write_best(folder: Path, settings: Mapping[str, Any], metric: str, trial: FrozenTrial) -> None:
    """Write settings as a file for `--config`, with a comment that says where they come from."""
    kept = {name: value for name, value in settings.items() if name not in ("output_dir",)}
    head = f"# Trial {trial.number} of the sweep in {folder}: {metric} {trial.value:.6g} with {words(trial.params)}\n"
    write_atomic(folder / BEST, head + yaml.safe_dump(kept, sort_keys=False, allow_unicode=True))


def remove_weights(folder: Path) -> None:
    """Delete the weights of a trial, checkpoints and merged base included; settings and metrics stay."""
    for each in sorted(folder.rglob("checkpoint-*")):
        shutil.rmtree(each, ignore_errors=True)
    for pattern in ("*.safetensors", "*.bin", "*.pt"):
        for each in folder.rglob(pattern):
            each.unlink()


def trial_rows(trials: list[FrozenTrial]) -> list[dict[str, Any]]:
    """Each trial as a flat record: number, state, value, its seeds' values, seconds, folder, reason, settings."""
    return [
        {
            "trial": trial.number,
            "state": STATES[trial.state],
            "value": trial.value if trial.state == TrialState.COMPLETE else None,
            "values": trial.user_attrs.get("values", []),
            "seconds": trial.user_attrs.get("seconds"),
            "folder": trial.user_attrs.get("folder"),
            "reason": trial.user_attrs.get("reason"),
            "params": trial.params,
        }
        for trial in trials
    ]


def trial_table(rows: list[dict[str, Any]], metric: str, direction: str) -> str:
    """The trials as a Markdown table: the finished ones first, from the best to the worst."""
    names = list(dict.fromkeys(name for row in rows for name in row["params"]))
    sign = -1 if direction == "maximize" else 1
    order = sorted(rows, key=lambda row: (row["value"] is None, sign * (row["value"] or 0), row["trial"]))
    lines = [f"| trial | {metric} | {' | '.join(names)} | state | time |", f"|{'---|' * (len(names) + 4)}"]
    for row in order:
        state = f"{row['state']}: {row['reason']}" if row["reason"] else row["state"]
        value = "" if row["value"] is None else f"{row['value']:.5g}"
        settings = [_short(row["params"].get(name, "")) for name in names]
        time = "" if row["seconds"] is None else format_seconds(row["seconds"])
        lines.append(f"| {row['trial']} | {value} | {' | '.join(settings)} | {state.replace('|', '/')} | {time} |")
    return "\n".join(lines)


def importances(study: optuna.Study) -> dict[str, float]:
    """Share of each setting in what sets the better trials apart, by PED-ANOVA; empty with too few trials for it.

    Source: Watanabe et al. 2023, arXiv 2304.10255.
    """
    finished = study.get_trials(states=(TrialState.COMPLETE,))
    if len(finished) < ENOUGH_FOR_IMPORTANCES or len({trial.value for trial in finished}) == 1:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # experimental in optuna
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
