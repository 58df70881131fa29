"""The loop: what it finds, prunes and survives. Its trials are real processes of a recipe without torch."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from optuna.trial import TrialState

from recipes.sweep import SweepArguments
from rlgen.errors import ConfigError
from rlgen.sweep.process import Outcome, final_value, run_recipe
from rlgen.sweep.report import importances, trial_rows, trial_table
from rlgen.sweep.space import Bounds, Choice
from rlgen.sweep.study import best_trial, counted, open_study, run_sweep

ROOT = Path(__file__).parents[2]


def sweep(plan):
    study = open_study(plan)
    run_sweep(plan, study)
    return study


def starts(folder: Path) -> int:
    return len((folder / "starts.txt").read_text().splitlines())


def test_the_best_of_a_grid_is_found_and_written(make_plan):
    plan = make_plan({"learning_rate": Choice((1e-5, 1e-3, 1e-1))}, {"pause": 0}, sampler="grid", trials=3)
    study = sweep(plan)
    best = best_trial(study)
    assert best.params == {"learning_rate": 1e-3}
    assert best.value == pytest.approx(-0.2)  # -(3 - 3)^2 - 1 / 5
    assert yaml.safe_load((plan.folder / "best.yaml").read_text()) == {"learning_rate": 1e-3, "pause": 0}
    rows = trial_rows(counted(study))
    assert [row["state"] for row in rows] == ["finished"] * 3
    table = trial_table(rows, "score", "maximize").splitlines()
    assert table[2].startswith("| 1 | -0.2 | 0.001 | finished | ")
    assert [row["folder"] for row in rows] == ["trial-000", "trial-001", "trial-002"]


def test_more_trials_go_on_where_the_sweep_ended(make_plan):
    sweep(make_plan(trials=3))
    study = sweep(make_plan(trials=5))
    trials = counted(study)
    assert len(trials) == 5
    assert len({trial.params["learning_rate"] for trial in trials}) == 5  # a new process draws new settings
    assert all(starts(make_plan().folder / trial.user_attrs["folder"]) == 1 for trial in trials)
    assert sum(importances(study).values()) == pytest.approx(1)
    sweep(make_plan(trials=2))  # fewer than there are: nothing to do
    assert len(counted(open_study(make_plan()))) == 5


def test_the_same_settings_are_not_run_twice(make_plan):
    plan = make_plan({"learning_rate": Choice((1e-3, 1e-2))}, trials=6)
    trials = counted(sweep(plan))
    assert len(trials) == 6
    assert len({trial.user_attrs["folder"] for trial in trials}) == 2
    assert sum(starts(folder) for folder in plan.folder.glob("trial-*")) == 2
    assert sum("the same settings as trial" in trial.user_attrs.get("reason", "") for trial in trials) == 4


def test_a_hopeless_trial_is_cut_short(make_plan):
    plan = make_plan(
        {"learning_rate": Choice((1e-3, 2e-3, 1e-1))},
        {"pause": 0.25},
        sampler="grid",
        trials=3,
        pruner="median",
        startup=2,
        prune_after=1,
    )
    trials = counted(sweep(plan))
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 2 + [TrialState.PRUNED]
    assert trials[2].user_attrs["reason"].startswith("score was -")
    assert not (plan.folder / "trial-002" / "run.json").exists()


def test_failures_are_kept_with_their_reason_and_end_nothing(make_plan):
    plan = make_plan({"kind": Choice(("fine", "broken", "crash", "nan"))}, {"learning_rate": 1e-3}, sampler="grid")
    trials = counted(sweep(plan))
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] + [TrialState.FAIL] * 3
    reasons = [trial.user_attrs["reason"] for trial in trials[1:]]
    assert reasons == ["it is broken", "exit code 1: ZeroDivisionError: a bug", "score is no number"]


def test_a_sweep_whose_trials_all_fail_says_why(make_plan):
    with pytest.raises(ConfigError, match="the first 3 trials failed, the last one with: it is broken"):
        sweep(make_plan(fixed={"kind": "broken"}, trials=9))


def test_a_metric_that_is_never_logged_ends_the_sweep_at_once(make_plan):
    plan = make_plan(metric="sore", trials=9)
    with pytest.raises(ConfigError, match=r"--metric sore: .* has no such metric, only other, score"):
        sweep(plan)
    assert len(list(plan.folder.glob("trial-*"))) == 1


def test_seeds_are_averaged(make_plan):
    plan = make_plan({"learning_rate": Choice((1e-3, 1e-2))}, sampler="grid", trials=2, seeds=2, seed=10)
    best = best_trial(sweep(plan))
    assert best.user_attrs["values"] == pytest.approx([-0.19, -0.189])
    assert best.value == pytest.approx(-0.1895)
    assert (plan.folder / "trial-000" / "seed-11" / "run.json").exists()


def test_only_the_best_keeps_its_weights(make_plan):
    plan = make_plan({"learning_rate": Choice((1e-5, 1e-3, 1e-1))}, sampler="grid", trials=3, keep="best")
    sweep(plan)
    assert [file.parent.name for file in plan.folder.rglob("*.safetensors")] == ["trial-001"]
    assert len(list(plan.folder.rglob("metrics.jsonl"))) == 3


def test_two_sweeps_do_not_share_a_folder(make_plan):
    from rlgen.sweep.study import _alone

    plan = make_plan()
    first = open_study(plan)
    trial = first.ask()
    with _alone(plan.folder), pytest.raises(ConfigError, match="another sweep is at work"):
        sweep(plan)
    assert first.trials[trial.number].state == TrialState.RUNNING  # the second one has left it alone


def test_what_a_process_could_not_write_before_it_died_is_written_later(make_plan):
    plan = make_plan({"learning_rate": Choice((1e-5, 1e-3))}, {"pause": 0}, sampler="grid", trials=2, keep="best")
    study = sweep(plan)
    best = (plan.folder / "best.yaml").read_text()
    (plan.folder / "best.yaml").write_text("# of another trial")
    worse = next(trial for trial in counted(study) if trial.number != best_trial(study).number)
    left = plan.folder / worse.user_attrs["folder"] / "model.safetensors"
    left.write_text("weights")
    sweep(plan)
    assert (plan.folder / "best.yaml").read_text() == best
    assert not left.exists()


KILLED = """
import sys
from pathlib import Path
import rlgen.sweep.process as process
from rlgen.sweep.space import Bounds, Space
from rlgen.sweep.study import Plan, open_study, run_sweep
process.CHILD = "fake_recipe"
process.POLL_SECONDS = 0.02
space = Space({"learning_rate": Bounds(1e-5, 1e-1, log=True)}, {"pause": 0.3})
plan = Plan(Path(sys.argv[1]), "fake", {}, space, "score", "maximize", 3, pruner="none")
run_sweep(plan, open_study(plan))
"""


def test_kill_9_ends_the_trial_too_and_it_is_run_again_in_its_folder(make_plan):
    plan = make_plan(fixed={"pause": 0.3}, trials=3)
    environment = {**os.environ, "PYTHONPATH": f"{os.environ['PYTHONPATH']}{os.pathsep}{ROOT}"}
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(plan.folder)], env=environment)
    metrics = plan.folder / "trial-001" / "metrics.jsonl"
    until = time.monotonic() + 60
    while not metrics.exists() and time.monotonic() < until and process.poll() is None:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(1)  # a trial that lived on would have written three more lines by now
    assert len(metrics.read_text().splitlines()) <= 2
    assert not (plan.folder / "trial-001" / "run.json").exists()

    study = sweep(plan)
    trials = counted(study)
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 3
    again = next(trial for trial in trials if trial.user_attrs["folder"] == "trial-001")
    killed = next(trial for trial in study.trials if trial.state == TrialState.FAIL)
    assert again.params == killed.params
    assert starts(plan.folder / "trial-001") == 2
    rows = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert rows == [1, 2, 3, 4, 5]  # it went on from its own state


def run(plan, **options):
    folder = plan.folder / "one"
    words = ["--output_dir", str(folder), "--learning_rate", "1e-3", "--pause", str(options.pop("pause", 0))]
    settings = {"metric": "score", "hopeless": lambda step, value: False, **options}
    return run_recipe("fake", words, folder, plan.folder / "one.log", **settings), folder


def test_a_run_that_takes_too_long_is_ended(make_plan):
    outcome, _ = run(make_plan(), pause=5, max_seconds=0.5)
    assert outcome == Outcome("failed", "took longer than 0.00833333 minutes")


def test_every_logged_value_is_seen_once_and_in_order(make_plan):
    seen = []
    outcome, _ = run(make_plan(), hopeless=lambda step, value: seen.append((step, value)))
    assert outcome == Outcome("finished")
    assert seen == [(step, pytest.approx(-1 / step)) for step in range(1, 6)]


def test_which_number_counts(make_plan):
    _, folder = run(make_plan())
    assert final_value(folder, "score") == pytest.approx(-1 / 5)
    assert final_value(folder, "score", last=2) == pytest.approx(-(1 / 4 + 1 / 5) / 2)
    assert final_value(folder, "other") == 1.0  # of the summary
    chosen = {"metric": "score", "value": 0.5, "step": 2}
    (folder / "run.json").write_text(json.dumps({"best_checkpoint": chosen, "summary": {}}))
    assert final_value(folder, "score") == 0.5


def test_bounds_of_whole_numbers_reach_the_recipe_as_such(make_plan):
    plan = make_plan({"learning_rate": Choice((1e-3, 1e-2)), "seed": Bounds(3, 4)}, trials=2)
    best = best_trial(sweep(plan))
    assert isinstance(best.params["seed"], int)


@pytest.mark.parametrize(
    ("metric", "direction"),
    [
        ("eval_perplexity", "minimize"),
        ("eval_nll", "minimize"),
        ("eval_loss", "minimize"),
        ("eval_reward", "maximize"),
    ],
)
def test_the_direction_follows_the_metric(metric, direction):
    assert SweepArguments(recipe="pretrain", search="s.yaml", metric=metric).direction == direction
