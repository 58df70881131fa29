"""A folder of YAML files becomes a chain: moved as a whole, or refused with the file that does not fit."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from rlgen.chains import STAGES, find_chain, read_chain
from rlgen.errors import ConfigError
from rlgen.parser import SHIPPED_CONFIGS

SFT = {"model_name_or_path": "org/base", "output_dir": "runs/mine/sft", "seed": 0}
PPO = {"model_name_or_path": "runs/mine/sft", "output_dir": "runs/mine/ppo", "reward": ["brief", "runs/mine/reward"]}
COMPARE = {
    "checkpoints": ["base=org/base", "shown=org/base@4shot", "sft=runs/mine/sft", "ppo=runs/mine/ppo@2shot"],
    "output_dir": "runs/mine/compare",
}


def write(folder: Path, **stages: dict[str, Any]) -> Path:
    for name, options in stages.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(options))
    return folder


def test_stages_are_read_in_order_and_as_they_stand(tmp_path: Path) -> None:
    read = read_chain(write(tmp_path, compare=COMPARE, ppo=PPO, sft=SFT), "runs/mine")
    assert list(read) == ["sft", "ppo", "compare"]
    assert read == {"sft": SFT, "ppo": PPO, "compare": COMPARE}


def test_folders_move_together_wherever_they_are_named(tmp_path: Path) -> None:
    read = read_chain(write(tmp_path, sft=SFT, ppo=PPO, compare=COMPARE), "/elsewhere", seed=7)
    assert read["sft"]["output_dir"] == "/elsewhere/sft"
    assert read["ppo"]["model_name_or_path"] == "/elsewhere/sft"
    assert read["ppo"]["reward"] == ["brief", "/elsewhere/reward"]
    assert read["compare"]["checkpoints"][2:] == ["sft=/elsewhere/sft", "ppo=/elsewhere/ppo@2shot"]
    assert [stage["seed"] for stage in read.values()] == [7, 7, 7]


def test_another_model_takes_the_place_of_the_first_one(tmp_path: Path) -> None:
    read = read_chain(write(tmp_path, sft=SFT, ppo=PPO, compare=COMPARE), "runs/mine", model="org/other")
    assert read["sft"]["model_name_or_path"] == "org/other"
    assert read["compare"]["checkpoints"][:2] == ["base=org/other", "shown=org/other@4shot"]
    assert read["ppo"]["model_name_or_path"] == "runs/mine/sft"


def test_only_whole_names_are_exchanged(tmp_path: Path) -> None:
    options = {**SFT, "dataset_name": "runs/mine_too/rows.jsonl", "model_name_or_path": "runs/minerals"}
    read = read_chain(write(tmp_path, sft=options), "/elsewhere")
    assert read["sft"]["dataset_name"] == "runs/mine_too/rows.jsonl"
    assert read["sft"]["model_name_or_path"] == "runs/minerals"


@pytest.mark.parametrize("written", ["./runs/mine", "runs//mine", "runs/other/../mine"])
def test_folders_move_however_they_are_written(tmp_path: Path, written: str) -> None:
    options = {**SFT, "output_dir": f"{written}/sft"}
    read = read_chain(write(tmp_path, sft=options, ppo=PPO), "/elsewhere")
    assert read["sft"]["output_dir"] == "/elsewhere/sft"
    assert read["ppo"]["model_name_or_path"] == "/elsewhere/sft"


def test_null_stays_null(tmp_path: Path) -> None:
    read = read_chain(write(tmp_path, sft={**SFT, "save_total_limit": None}), "runs/mine")
    assert read["sft"]["save_total_limit"] == "none"  # as flags spell it; left out, it would be the default


def test_a_mapping_stays_one(tmp_path: Path) -> None:
    read = read_chain(write(tmp_path, sft={**SFT, "lr_scheduler_kwargs": {"min_lr": 1e-5}}), "runs/mine")
    assert read["sft"]["lr_scheduler_kwargs"] == {"min_lr": 1e-5}


@pytest.mark.parametrize(
    ("stages", "model", "named"),
    [
        ({}, None, "has none of pretrain.yaml, sft.yaml"),
        ({"sft": ["a", "list"]}, None, "sft.yaml must hold"),
        ({"sft": {**SFT, "output_dir": "sft"}}, None, "to a folder of the run and sft below it"),
        ({"sft": {**SFT, "env": {"A": "b"}}}, None, "export them instead"),
        ({"sft": {"seed": 1}}, None, "must set output_dir to a folder called sft"),
        ({"sft": {**SFT, "output_dir": "runs/mine/fine_tuned"}}, None, "called sft, not 'runs/mine/fine_tuned'"),
        ({"sft": SFT, "ppo": {**PPO, "output_dir": "elsewhere/ppo"}}, None, "write to elsewhere and runs/mine"),
        ({"pretrain": {"from_scratch": True, "output_dir": "a/pretrain"}}, "other", "names no model_name_or_path"),
    ],
)
def test_what_is_no_chain_is_refused(tmp_path: Path, stages: dict[str, Any], model: str | None, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        read_chain(write(tmp_path, **stages), "runs/mine", model=model)


def test_a_file_that_is_not_yaml_is_named(tmp_path: Path) -> None:
    (tmp_path / "sft.yaml").write_text("a: [1, 2")
    with pytest.raises(ConfigError, match=r"sft.yaml cannot be read"):
        read_chain(tmp_path, "runs/mine")


def test_a_shipped_chain_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_chain("reasoning") == SHIPPED_CONFIGS / "reasoning"
    (tmp_path / "reasoning").mkdir()
    assert find_chain("reasoning") == Path("reasoning")
    with pytest.raises(ConfigError, match=r"there is no chain reasonin: .*controlled, "):
        find_chain("reasonin")


@pytest.mark.parametrize(
    "folder", [f for f in sorted(SHIPPED_CONFIGS.iterdir()) if (f / "sft.yaml").is_file()], ids=lambda f: f.name
)
def test_the_shipped_stages_stand_upon_one_another(folder: Path) -> None:
    read = read_chain(folder, "HERE", seed=3)
    made = {f"HERE/{name}" for name in read}
    for name, options in read.items():
        words = [word for value in options.values() for word in (value if isinstance(value, list) else [value])]
        paths = {str(word).split("=")[-1].split("@")[0] for word in words if "HERE" in str(word)}
        earlier = {f"HERE/{other}" for other in STAGES[: STAGES.index(name) + 1]} & made
        assert all(any(path == other or path.startswith(f"{other}/") for other in earlier) for path in paths), name
    assert "runs/" not in str(read)
