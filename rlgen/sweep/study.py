"""The loop of a sweep: ask optuna for settings, run the recipe with them, tell optuna what came of it."""

import contextlib
import hashlib
import json
import logging
import math
import time
import warnings
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from rlgen.errors import ConfigError
from rlgen.pipeline import flags
from rlgen.progress import report_progress
from rlgen.sweep.process import Outcome, final_value, run_recipe
from rlgen.sweep.report import remove_weights, words, write_best
from rlgen.sweep.space import Space

logger = logging.getLogger(__name__)

STORAGE, STUDY = "sweep.db", "sweep"
HOPELESS_FAILURES = 3
"""So many failures before anything else has happened are no bad luck: the settings that all trials share are wrong."""


@dataclass(frozen=True)
class Plan:
    """What a sweep is asked to do.

    Attributes:
        folder: of the whole sweep.
        recipe: file name in recipes/, without ending.
        base: settings of the recipe that all trials share, as its YAML has them.
        space: what varies.
        metric: what is optimized.
        direction: "minimize" or "maximize".
        trials: how many in all, finished, pruned and failed ones.
        last: logged values that are averaged at a trial's end.
        seeds: seeds of each trial, consecutive ones.
        sampler: "tpe", "random" or "grid".
        pruner: "median", "hyperband" or "none".
        prune_after: steps of a trial in which it is not pruned.
        startup: trials before the first one is pruned.
        max_minutes: limit of one run.
        keep: "all" or "best": whose weights stay on the disk.
        seed: of the sampler, and the first of each trial where there are several.
    """

    folder: Path
    recipe: str
    base: Mapping[str, Any]
    space: Space
    metric: str
    direction: Literal["minimize", "maximize"]
    trials: int
    last: int = 1
    seeds: int = 1
    sampler: str = "tpe"
    pruner: str = "median"
    prune_after: int = 0
    startup: int = 4
    max_minutes: float | None = None
    keep: str = "all"
    seed: int = 42


def open_study(plan: Plan) -> optuna.Study:
    """The study in the sweep's folder, as an earlier process left it, or a new one."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = f"sqlite:///{(plan.folder / STORAGE).resolve()}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = optuna.create_study(
            study_name=STUDY, storage=storage, direction=plan.direction, load_if_exists=True, pruner=_pruner(plan)
        )
        study.sampler = _sampler(plan, len(study.trials))
    return study


def counted(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that have ended and are not to be run again, in order."""
    states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
    return [t for t in study.get_trials(states=states) if t.state != TrialState.FAIL or "reason" in t.user_attrs]


def run_sweep(plan: Plan, study: optuna.Study) -> None:
    """Run trials until there are as many as planned; stopped anywhere, the same call goes on from there.

    A trial that was under way when an earlier process died is run again, in the same folder.

    Raises:
        ConfigError: another sweep is at work in the folder, the metric is one that the recipe never logs, or the first
            trials all failed.
    """
    with _alone(plan.folder):
        _take_up_interrupted(study)
        done = counted(study)
        report_progress("sweep", len(done), plan.trials)
        while len(done) < plan.trials:
            if plan.sampler == "grid" and not study.get_trials(states=(TrialState.WAITING,)):
                study.enqueue_trial(plan.space.grid()[len(done)])
            _run_trial(plan, study, study.ask())
            done = counted(study)
            report_progress("sweep", len(done), plan.trials, **_best(study))
            if len(done) >= HOPELESS_FAILURES and all(t.state == TrialState.FAIL for t in done):
                raise ConfigError(
                    f"the first {len(done)} trials failed, the last one with: {done[-1].user_attrs['reason']}"
                )
        best = best_trial(study)
        if best is not None:  # once more, since a process may have died between a trial's end and this
            _keep_best(plan, best, {trial.user_attrs["folder"] for trial in done})


def best_trial(study: optuna.Study) -> FrozenTrial | None:
    """The best finished trial, None if there is none."""
    try:
        return study.best_trial
    except ValueError:
        return None


def _run_trial(plan: Plan, study: optuna.Study, trial: Trial) -> None:
    """One trial from its settings to its entry in the study."""
    params = {name: part.suggest(trial, name) for name, part in plan.space.varied.items()}
    name = trial.user_attrs.get("folder") or f"trial-{trial.number:03d}"
    trial.set_user_attr("folder", name)
    twin = _twin(study, params)
    if twin is not None:
        trial.set_user_attr("reason", f"the same settings as trial {twin.number}")
        trial.set_user_attr("folder", twin.user_attrs["folder"])
        study.tell(trial, twin.value)
        return
    before = best_trial(study)
    began = time.monotonic()
    outcome, values = _run_seeds(plan, trial, plan.folder / name, params)
    trial.set_user_attr("seconds", round(time.monotonic() - began, 1))
    trial.set_user_attr("values", values)
    value = sum(values) / len(values) if values else math.nan
    if outcome.state == "finished" and not math.isfinite(value):
        outcome = Outcome("failed", f"{plan.metric} is no number")
    if outcome.state != "finished":
        trial.set_user_attr("reason", outcome.reason)
        study.tell(trial, state=TrialState.PRUNED if outcome.state == "pruned" else TrialState.FAIL)
        logger.info("trial %d %s: %s", trial.number, outcome.state, outcome.reason)
    else:
        study.tell(trial, value)
        logger.info("trial %d: %s %.6g, %s", trial.number, plan.metric, value, words(params))
    best = best_trial(study)
    if best is not None:
        _keep_best(plan, best, {name, before.user_attrs["folder"] if before else name})
    elif plan.keep == "best":
        remove_weights(plan.folder / name)


def _keep_best(plan: Plan, best: FrozenTrial, folders: Set[str]) -> None:
    """Write down the best settings and, if only the best weights are to stay, remove those of the other folders."""
    write_best(plan.folder, {**plan.base, **plan.space.fixed, **best.params}, plan.metric, best)
    if plan.keep == "best":
        for name in folders - {best.user_attrs["folder"]}:
            remove_weights(plan.folder / name)


def _take_up_interrupted(study: optuna.Study) -> None:
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)  # without a reason, which is the mark of an interrupted trial
        if "folder" in trial.user_attrs:
            study.enqueue_trial(trial.params, user_attrs={"folder": trial.user_attrs["folder"]})


def _run_seeds(plan: Plan, trial: Trial, folder: Path, params: Mapping[str, Any]) -> tuple[Outcome, list[float]]:
    """The runs of a trial, one a seed, until one does not finish; only the first one can be pruned."""
    values: list[float] = []
    for index in range(plan.seeds):
        run = folder / f"seed-{plan.seed + index}" if plan.seeds > 1 else folder
        settings = {**plan.base, **plan.space.fixed, **params, "output_dir": str(run)}
        if plan.seeds > 1:
            settings["seed"] = plan.seed + index

        def hopeless(step: int, value: float, *, first: bool = index == 0) -> bool:
            if not first:
                return False
            trial.report(value, step)
            return bool(trial.should_prune())

        outcome = run_recipe(
            plan.recipe,
            flags(settings),
            run,
            plan.folder / "logs" / f"{run.relative_to(plan.folder).as_posix().replace('/', '-')}.log",
            metric=plan.metric,
            hopeless=hopeless,
            max_seconds=None if plan.max_minutes is None else 60 * plan.max_minutes,
        )
        if outcome.state != "finished":
            return outcome, values
        values.append(final_value(run, plan.metric, plan.last))
    return Outcome("finished"), values


def _twin(study: optuna.Study, params: Mapping[str, Any]) -> FrozenTrial | None:
    """A finished trial with the same settings, of which a second one would be a copy."""
    finished = study.get_trials(states=(TrialState.COMPLETE,))
    return next((trial for trial in finished if trial.params == params), None)


def _sampler(plan: Plan, trials: int) -> optuna.samplers.BaseSampler:
    """The sampler, with a seed that differs from one process to the next: it must not draw the first trials again."""
    digest = hashlib.sha256(json.dumps([plan.seed, trials]).encode()).digest()
    seed = int.from_bytes(digest[:4], "little")
    if plan.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    return optuna.samplers.TPESampler(seed=seed)


def _pruner(plan: Plan) -> optuna.pruners.BasePruner:
    if plan.pruner == "none":
        return optuna.pruners.NopPruner()
    if plan.pruner == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=max(plan.prune_after, 1))
    return optuna.pruners.MedianPruner(n_startup_trials=plan.startup, n_warmup_steps=plan.prune_after)


def _best(study: optuna.Study) -> dict[str, float]:
    best = best_trial(study)
    return {} if best is None or best.value is None else {"best": best.value}


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep a second sweep out of a folder; the lock goes with the process, however it ends."""
    try:
        import fcntl
    except ImportError:  # not on Windows
        yield
        return
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(
                f"another sweep is at work in {folder}: wait for it, or take another --output_dir"
            ) from error
        yield
