"""Run folders: atomic, resumable, and refusing what does not belong."""

import errno
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from safetensors.torch import save_file
from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments

from rlgen.callbacks import MetricsCallback, ProgressCallback
from rlgen.errors import RunError
from rlgen.frame import is_disk_full
from rlgen.progress import LineProgress, format_metrics, format_seconds, listening, recipe_progress, report_progress
from rlgen.runs import Run, checkpoint_problem, open_run, read_metrics, write_atomic

CONFIG = {"learning_rate": 1e-3, "seed": 7, "logging_steps": 5, "path": Path("a")}


@pytest.fixture(autouse=True)
def fast_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for a busy disk proves nothing here."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def open_again(folder: Path, stage: str = "sft", **changes: Any) -> Run:
    return open_run(folder, stage=stage, config={**CONFIG, **changes})


def checkpoint(folder: Path, step: int) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    save_file({"weight": torch.ones(4, 4), "bias": torch.ones(3)}, path / "model.safetensors")
    (path / "trainer_state.json").write_text("{}")
    return path


# Writing


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.json"
    write_atomic(file, "old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(file, "new")
    assert file.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.json"]


# Opening


def test_a_new_run_is_recorded_and_opened_again(tmp_path: Path) -> None:
    run = open_again(tmp_path / "deep" / "run")
    record = json.loads((run.path / "run.json").read_text())
    assert (record["stage"], record["seed"], record["finished"]) == ("sft", 7, None)
    assert record["config"]["path"] == "a"
    assert {"torch", "trl", "transformers"} <= record["versions"].keys()
    assert not run.finished
    run.finish({"loss": float("nan"), "accuracy": 0.5})
    again = open_again(run.path)
    assert again.finished
    assert again.summary == {"loss": None, "accuracy": 0.5}


def test_what_changes_no_result_may_change(tmp_path: Path) -> None:
    open_again(tmp_path)
    (tmp_path / "metrics.jsonl").touch()  # something was computed
    again = open_again(tmp_path, logging_steps=1, save_steps=9, output_dir="elsewhere", new_in_a_later_version=1)
    assert not again.finished


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    open_again(tmp_path)
    (tmp_path / "metrics.jsonl").touch()  # something was computed
    with pytest.raises(RunError, match=r"learning_rate \(there 0.001, now 0.002\)") as caught:
        open_again(tmp_path, learning_rate=2e-3)
    assert "output_dir" in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(RunError, match="holds a run of 'sft', not of 'ppo'"):
        open_again(tmp_path, stage="ppo")


def test_a_run_that_failed_before_computing_anything_may_be_corrected(tmp_path: Path) -> None:
    run = open_again(tmp_path)
    run.record_data("sft", Dataset.from_dict({"prompt": ["a"]}))
    corrected = open_again(tmp_path, learning_rate=2e-3)
    assert corrected.record["config"]["learning_rate"] == 2e-3
    corrected.finish({})
    with pytest.raises(RunError, match="learning_rate"):
        open_again(tmp_path, learning_rate=3e-3)


@pytest.mark.parametrize("content", ["{", "[]", '{"stage": "sft"}'])
def test_a_foreign_run_file_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(RunError, match="output_dir"):
        open_again(tmp_path)


def test_an_unwritable_place_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(RunError, match="cannot write to"):
            open_again(folder)

    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(RunError, match="Permission denied"):
        open_again(tmp_path / "other")


def test_only_the_first_process_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    run = open_again(tmp_path)
    run.record_data("train", Dataset.from_dict({"prompt": ["a"]}))
    run.finish({})
    assert os.listdir(tmp_path) == []


# Data


def test_data_is_recorded_with_one_hash_per_row(tmp_path: Path) -> None:
    run = open_again(tmp_path)
    run.record_data("sft", Dataset.from_dict({"prompt": ["a", "b", "c"]}))
    assert len((tmp_path / "data" / "sft.hashes").read_text().split()) == 3
    assert json.loads((tmp_path / "run.json").read_text())["data"]["sft"]["rows"] == 3
    open_again(tmp_path).record_data("sft", Dataset.from_dict({"prompt": ["c", "b", "a"]}))


def test_other_rows_under_the_same_name_are_refused(tmp_path: Path) -> None:
    open_again(tmp_path).record_data("sft", Dataset.from_dict({"prompt": ["a", "b"]}))
    (tmp_path / "metrics.jsonl").touch()  # something was computed
    with pytest.raises(RunError, match="'sft' rows are not those this run began with"):
        open_again(tmp_path).record_data("sft", Dataset.from_dict({"prompt": ["a", "x"]}))


# Checkpoints


def test_the_newest_complete_checkpoint_counts(tmp_path: Path) -> None:
    run = open_again(tmp_path)
    assert run.last_checkpoint() is None
    checkpoint(tmp_path, 9)
    newest = checkpoint(tmp_path, 10)
    assert run.last_checkpoint() == str(newest)


@pytest.mark.parametrize("damage", ["no state", "cut state", "no weights", "cut weights", "no header", "cut critic"])
def test_an_incomplete_checkpoint_does_not_count(tmp_path: Path, damage: str) -> None:
    run = open_again(tmp_path)
    good, bad = checkpoint(tmp_path, 5), checkpoint(tmp_path, 20)
    state, weights, critic = bad / "trainer_state.json", bad / "model.safetensors", bad / "critic" / "w.safetensors"
    if damage == "no state":
        state.unlink()
    elif damage == "cut state":
        state.write_text('{"epoch": ')
    elif damage == "no weights":
        weights.unlink()
    elif damage == "cut weights":
        weights.write_bytes(weights.read_bytes()[:-1])
    elif damage == "no header":
        weights.write_bytes(b"\xff" * 4)
    else:
        critic.parent.mkdir()
        critic.write_bytes(weights.read_bytes()[:20])
    assert checkpoint_problem(bad) is not None
    assert run.last_checkpoint() == str(good)


class Line(torch.nn.Module):
    """The smallest thing that transformers' Trainer trains."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": ((self.weight * x - labels) ** 2).mean()}


def trainer(run: Run, max_steps: int = 4) -> Trainer:
    args = TrainingArguments(
        output_dir=str(run.path),
        max_steps=max_steps,
        save_steps=2,
        logging_steps=1,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    rows = [{"x": torch.ones(1), "labels": torch.ones(1)}] * 64
    return Trainer(model=Line(), args=args, train_dataset=rows, callbacks=run.callbacks())


def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = open_again(tmp_path)
    training = trainer(run)
    save = training._save

    def half(output_dir: str, **kwargs: Any) -> None:
        save(output_dir, **kwargs)
        if output_dir.endswith("-4"):
            file = Path(output_dir) / "model.safetensors"
            file.write_bytes(file.read_bytes()[:-2])
            raise OSError(errno.ENOSPC, "No space left on device", str(file))

    monkeypatch.setattr(training, "_save", half)
    with pytest.raises(OSError, match="No space") as caught:
        training.train()
    assert is_disk_full(caught.value)
    assert run.last_checkpoint() == str(tmp_path / "checkpoint-2")

    resumed = trainer(run)
    resumed.train(resume_from_checkpoint=run.last_checkpoint())
    assert run.last_checkpoint() == str(tmp_path / "checkpoint-4")
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl") if "loss" in row] == [1, 2, 3, 4]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no device that is always full")
def test_the_errors_of_torch_and_safetensors_on_a_full_disk_are_recognized() -> None:
    for save in (
        lambda: torch.save({"a": torch.ones(10**6)}, "/dev/full"),
        lambda: Path("/dev/full").write_text("x" * 10**6),
    ):
        with pytest.raises(Exception) as caught:  # noqa: PT011 torch's type is not ours to choose
            save()
        assert is_disk_full(caught.value), repr(caught.value)


# Callbacks


def state(step: int, total: int = 10) -> TrainerState:
    return TrainerState(global_step=step, max_steps=total, is_world_process_zero=True, is_local_process_zero=True)


def test_metrics_are_json_lines_without_nan(tmp_path: Path) -> None:
    callback = MetricsCallback(tmp_path / "metrics.jsonl")
    args, control = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none"), TrainerControl()
    callback.on_log(args, state(1), control, logs={"loss": float("nan"), "kl": 0.25})
    callback.on_log(args, state(2), control, logs={"loss": torch.tensor(0.5)})
    first, second = read_metrics(tmp_path / "metrics.jsonl")
    assert (first["step"], first["loss"], first["kl"]) == (1, None, 0.25)
    assert second["loss"] == 0.5


def test_metrics_after_the_checkpoint_are_dropped_on_resume(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    args, control = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none"), TrainerControl()
    MetricsCallback(file).on_train_begin(args, state(2), control)
    assert file.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_training_reports_progress_and_prints_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    heard: list[tuple[str, int, int]] = []
    with listening(lambda name, done, total, metrics: heard.append((name, done, total))):
        trainer(open_again(tmp_path)).train()
    assert heard[0] == ("sft", 0, 4)
    assert heard[-1] == ("sft", 4, 4)
    assert capsys.readouterr().out == ""


def test_a_model_without_gradient_steps_reports_nothing(tmp_path: Path) -> None:
    heard: list[str] = []
    with listening(lambda name, *rest: heard.append(name)):
        ProgressCallback("sft").on_step_end(None, state(0, total=0), None)
    assert heard == []


# Progress


def test_nobody_listening_is_fine() -> None:
    report_progress("work", 1, 2, loss=1.0)


def test_lines_are_sparse_and_tell_the_numbers() -> None:
    stream, clock = io.StringIO(), iter(range(1000))
    lines = LineProgress(stream, clock=lambda: float(next(clock)))
    for done in range(101):
        lines("sft", done, 100, {"loss": 1.5, "grad_norm": 3.0, "objective/kl": 0.01})
    written = stream.getvalue().splitlines()
    assert len(written) == 11
    assert written[0] == "sft: 0/100  loss 1.5  kl 0.01"
    assert written[1] == "sft: 10/100  loss 1.5  kl 0.01  1 min 30 s left"
    assert written[-1].startswith("sft: 100/100")


def test_quick_work_gets_a_first_and_a_last_line() -> None:
    stream = io.StringIO()
    lines = LineProgress(stream, clock=lambda: 0.0)
    for done in range(41):
        lines("generate", done, 40, {})
    lines("generate", 40, 40, {})
    assert stream.getvalue().splitlines() == ["generate: 0/40", "generate: 40/40"]


def test_the_clock_of_work_that_was_announced_early_starts_when_it_begins() -> None:
    stream, now = io.StringIO(), [0.0]
    lines = LineProgress(stream, clock=lambda: now[0])
    for second, name, done in ((0, "ppo", 0), (1, "critic warm-up", 0), (100, "ppo", 0), (110, "ppo", 8)):
        now[0] = second
        lines(name, done, 24, {})
    assert stream.getvalue().splitlines() == ["ppo: 0/24", "critic warm-up: 0/24", "ppo: 0/24", "ppo: 8/24  20 s left"]


def test_a_round_of_steps_is_reported_as_a_whole() -> None:
    heard: list[int] = []
    with listening(lambda name, done, total, metrics: heard.append(done)):
        callback = ProgressCallback("ppo", every=4)
        for step in range(1, 10):
            callback.on_step_end(None, state(step, total=10), None)
        callback.on_train_end(None, state(10, total=10), None)
    assert heard == [4, 8, 10]


def test_slow_work_gets_a_line_each_half_minute() -> None:
    stream, now = io.StringIO(), [0.0]
    lines = LineProgress(stream, clock=lambda: now[0])
    for done in range(5):
        now[0] += 31
        lines("ppo", done, 10**6, {})
    assert len(stream.getvalue().splitlines()) == 5


def test_a_recipe_alone_writes_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with recipe_progress():
        report_progress("sft", 0, 10)
    report_progress("sft", 5, 10)
    assert capsys.readouterr().err == "sft: 0/10\n"


def test_formats() -> None:
    assert [format_seconds(s) for s in (-1, 45.4, 200, 3900)] == ["0 s", "45 s", "3 min 20 s", "1 h 05 min"]
    assert format_metrics({"loss": True, "accuracy": 1, "rewards/accuracies": 2.0, "other": 1}) == "accuracy 1"
