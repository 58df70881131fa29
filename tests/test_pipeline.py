"""The chain of stages: stopped anywhere, it goes on; nothing is done twice; nothing foreign is taken over."""

import contextlib
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from datasets import Dataset
from rich.console import Console
from rich.progress import Progress, TextColumn

from recipes import quickstart
from rlgen.display import BarDisplay, LineDisplay, TimeLeft, chain_display
from rlgen.errors import DataError, RunError
from rlgen.pipeline import Stage, flags, prove_disjoint, run_stages
from rlgen.progress import report_progress
from rlgen.runs import open_run


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for a busy disk or a collection of everything that pytest has loaded proves nothing here."""
    monkeypatch.setattr("gc.collect", lambda: 0)
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


class Silent:
    """A display that only remembers."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self.seen.append(name)
        yield

    def skip(self, name: str, seconds: float) -> None:
        self.seen.append(f"{name} skipped")


class Chain:
    """Three fake stages in a folder; `stop` raises an exception in the middle of one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names = ["sft", "ppo", "compare"]
        self.rows = {"sft": ["a", "b"], "ppo": ["c"], "compare": ["d"]}
        self.ran: list[str] = []
        self.stop: dict[str, BaseException] = {}

    def main(self, name: str) -> Callable[[list[str]], None]:
        def run_stage(argv: list[str]) -> None:
            self.ran.append(name)
            run = open_run(self.folder / name, stage=name, config={})
            print(f"what {name} prints alone")
            if name in self.stop:
                raise self.stop.pop(name)
            run.record_data(f"{name}_rows", Dataset.from_dict({"prompt": self.rows[name]}))
            run.finish({})

        return run_stage

    def run(self, **settings: Any) -> list[str]:
        display = Silent()
        stages = [Stage(name, ["--output_dir", str(self.folder / name)]) for name in self.names]
        settings = {"preset": "smoke", "seed": 0, **settings}
        run_stages(self.folder, stages, self.main, settings=settings, display=display)
        return display.seen

    def manifest(self) -> dict[str, Any]:
        return json.loads((self.folder / "manifest.json").read_text())

    def states(self) -> list[str]:
        return [entry["state"] for entry in self.manifest()["stages"]]


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    return Chain(tmp_path / "run")


def test_all_stages_run_in_order_and_are_recorded(chain: Chain, capsys: pytest.CaptureFixture[str]) -> None:
    assert chain.run() == ["sft", "ppo", "compare"]
    manifest = chain.manifest()
    assert chain.states() == ["finished"] * 3
    assert manifest["settings"] == {"preset": "smoke", "seed": 0}
    assert manifest["finished"] is not None
    assert all(entry["started"] and entry["finished"] for entry in manifest["stages"])
    assert manifest["stages"][0]["data"]["sft_rows"]["rows"] == 2
    assert manifest["data"]["sft_rows"] == {"rows": 2, "stages": ["sft"], "disjoint": True}
    assert {"torch", "trl"} <= manifest["versions"].keys()
    assert capsys.readouterr().out == ""
    assert (chain.folder / "sft.log").read_text() == "what sft prints alone\n"


@pytest.mark.parametrize("name", ["sft", "ppo", "compare"])
@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError])
def test_a_stopped_chain_goes_on_where_it_was(chain: Chain, name: str, stop: type[BaseException]) -> None:
    chain.stop[name] = stop()
    with pytest.raises(stop):
        chain.run()
    assert chain.states()[chain.names.index(name)] == "running"
    chain.run()
    assert chain.states() == ["finished"] * 3
    assert sorted(chain.ran) == sorted([*chain.names, name])


def test_a_finished_chain_does_nothing(chain: Chain) -> None:
    chain.run()
    before = chain.manifest()
    assert chain.run() == ["sft skipped", "ppo skipped", "compare skipped"]
    assert chain.ran == chain.names
    assert chain.manifest() == before


def test_a_kill_between_the_end_of_a_stage_and_the_manifest_costs_nothing(chain: Chain) -> None:
    chain.run()
    manifest = chain.manifest()
    manifest["stages"][2].update(state="running", finished=None)
    (chain.folder / "manifest.json").write_text(json.dumps(manifest))
    chain.run()
    assert chain.states() == ["finished"] * 3


@pytest.mark.parametrize(("setting", "value"), [("preset", "default"), ("seed", 1)])
def test_another_chain_in_the_folder_is_refused(chain: Chain, setting: str, value: object) -> None:
    chain.run()
    with pytest.raises(RunError, match=f"{setting} .*now {value!r}") as caught:
        chain.run(**{setting: value})
    assert "output_dir" in str(caught.value)
    assert chain.ran == chain.names


def test_other_flags_for_a_stage_are_refused(chain: Chain) -> None:
    chain.run()
    manifest = chain.manifest()
    manifest["stages"][1]["argv"] = ["--kl_coef", "9"]
    (chain.folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(RunError, match="other flags for ppo"):
        chain.run()


def test_a_lost_stage_that_others_were_built_on_is_refused(chain: Chain) -> None:
    chain.run()
    (chain.folder / "sft" / "run.json").unlink()
    with pytest.raises(RunError, match="ppo, compare was built on it"):
        chain.run()


@pytest.mark.parametrize("content", ["", "[]", "{}"])
def test_a_foreign_manifest_is_refused(chain: Chain, content: str) -> None:
    chain.folder.mkdir()
    (chain.folder / "manifest.json").write_text(content)
    with pytest.raises(RunError, match="not written by rlgen"):
        chain.run()


def test_an_unwritable_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot write to"):
        Chain(tmp_path / "file" / "run").run()


def test_rows_used_for_two_purposes_stop_the_chain(chain: Chain) -> None:
    chain.rows["compare"] = ["b"]
    with pytest.raises(DataError, match=r"sft_rows.*compare_rows.*share 1 prompts"):
        chain.run()


def test_the_same_purpose_may_be_served_twice(tmp_path: Path) -> None:
    for stage in ("reward", "dpo"):
        run = open_run(tmp_path / stage, stage=stage, config={})
        run.record_data("preference", Dataset.from_dict({"prompt": ["a", "b"]}))
    assert prove_disjoint(tmp_path, ["reward", "dpo", "missing"]) == {
        "preference": {"rows": 2, "stages": ["reward", "dpo"], "disjoint": True}
    }


def test_flags_are_command_line_words() -> None:
    options = {"a": 1, "b": [1.5, "x"], "c": True, "d": None, "e": "1e-4", "f": {"x": 2}}
    assert flags(options) == ["--a", "1", "--b", "1.5", "x", "--c", "true", "--e", "1e-4", "--f", '{"x": 2}']


# The quickstart's own part


@pytest.mark.parametrize("preset", ["smoke", "default", "full"])
def test_presets_wire_the_stages_together(preset: str) -> None:
    content = yaml.safe_load((quickstart.PRESETS / f"{preset}.yaml").read_text())
    assert list(content["minutes"]) == list(content["stages"]) == list(quickstart.STAGES)
    args = quickstart.QuickstartArguments(output_dir="out", seed=5)
    options = quickstart.stage_options(args, content, "MODEL")
    assert list(options) == list(quickstart.STAGES)
    assert {o["seed"] for o in options.values()} == {5}
    assert options["sft"]["model_name_or_path"] == "MODEL"
    assert options["ppo"]["model_name_or_path"] == options["dpo"]["model_name_or_path"] == str(Path("out/sft"))
    assert options["compare"]["checkpoints"][0] == "base=MODEL"


# Displays


def test_time_left_follows_expectations_and_then_measurements() -> None:
    now = [0.0]
    left = TimeLeft({"a": 1, "b": 2, "c": 1}, clock=lambda: now[0])
    assert left.seconds() == 240
    left.begin("a")
    now[0] = 30
    assert left.seconds() == 210
    now[0] = 120
    left.end("a")  # twice as long as expected, so the rest will be, too
    assert left.seconds() == 360
    left.begin("b")
    now[0] = 180
    left.report(0.5)  # half of b in 60 seconds
    assert left.seconds() == pytest.approx(60 + 120)
    left.end("b", 120)
    left.end("c")
    assert left.seconds() == 0


def test_where_only_proportions_are_known_the_time_left_waits_for_a_measurement() -> None:
    now = [0.0]
    left = TimeLeft({"a": 1, "b": 3}, clock=lambda: now[0], rough=True)
    assert left.seconds() is None
    left.begin("a")
    now[0] = 10
    left.report(0.05)
    assert left.seconds() is None
    now[0] = 50
    left.report(0.5)  # so it takes 100 seconds, and b 300
    assert left.seconds() == pytest.approx(50 + 300)
    now[0] = 200
    left.end("a")
    assert left.seconds() == pytest.approx(600)


def test_no_time_left_is_shown_before_it_is_known() -> None:
    stream = io.StringIO()
    display = LineDisplay("chain", {"sft": 1, "ppo": 3}, stream, rough=True)
    with display.stage("sft"):
        pass
    with display.stage("ppo"):
        pass
    written = stream.getvalue().splitlines()
    assert written[0] == "[1/2] sft:"
    assert written[2].startswith("[2/2] ppo: about")


def test_a_stage_that_outlasts_its_estimate_still_has_time_left() -> None:
    now = [0.0]
    left = TimeLeft({"a": 1}, clock=lambda: now[0])
    left.begin("a")
    now[0] = 600
    assert 0 < left.seconds() < 10


def test_lines_name_the_stage_its_place_and_its_numbers() -> None:
    stream = io.StringIO()
    display = LineDisplay("quickstart", {"sft": 1, "ppo": 3}, stream)
    display.skip("sft", 60)
    with display.stage("ppo"):
        report_progress("generate", 0, 4)
        report_progress("ppo", 4, 4, reward=0.5)
    written = stream.getvalue().splitlines()
    assert written[0] == "[1/2] sft: was finished before"
    assert written[1] == "[2/2] ppo: about 3 min 00 s left"
    assert written[2:4] == ["ppo: generate: 0/4", "ppo: 4/4  reward 0.5"]
    assert written[4].startswith("[2/2] ppo: done in")


def test_bars_show_the_whole_and_the_work_at_hand() -> None:
    stream = io.StringIO()
    columns = (TextColumn("{task.description}"), TextColumn("{task.fields[text]}"))
    with Progress(*columns, console=Console(file=stream, force_terminal=True, width=100)) as progress:
        display = BarDisplay("quickstart", {"sft": 1, "ppo": 3}, progress)
        display.skip("sft", 60)
        with display.stage("ppo"):
            report_progress("generate", 1, 4)
            report_progress("ppo", 2, 4, reward=0.5)
            progress.refresh()
    written = stream.getvalue()
    assert "sft was finished before" in written
    assert "2/2 ppo  about" in written
    assert "2/4  reward 0.5" in written


def test_without_a_terminal_the_display_is_lines() -> None:
    with chain_display("quickstart", {"sft": 1}) as display:
        assert isinstance(display, LineDisplay)
