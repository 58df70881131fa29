"""The configurations for `accelerate launch`: read by accelerate itself, as far as goes without GPUs."""

from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from accelerate.utils.launch import prepare_multi_gpu_env

FOLDER = Path(__file__).parents[2] / "recipes" / "configs" / "accelerate"
FILES = sorted(FOLDER.glob("*.yaml"))


def environment(file: Path) -> dict[str, str]:
    """What the launcher hands to its processes."""
    command = ["--config_file", str(file), "-m", "recipes.ppo", "--config", "ppo.yaml"]
    args, *_ = _validate_launch_command(launch_command_parser().parse_args(command))
    return prepare_multi_gpu_env(args)


def test_there_is_one_for_each_way():
    assert [file.stem for file in FILES] == ["ddp", "fsdp2"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_accelerate_reads_it(file):
    config = load_config_from_file(str(file))  # refuses unknown keys
    assert isinstance(config, ClusterConfig)
    expected = {"ddp": DistributedType.MULTI_GPU, "fsdp2": DistributedType.FSDP}
    assert config.distributed_type == expected[file.stem]
    assert config.num_processes == 2
    assert not config.use_cpu


def test_every_field_of_fsdp_is_one_of_the_launchers_own():
    flags = {action.dest for action in launch_command_parser()._actions}
    options = yaml.safe_load((FOLDER / "fsdp2.yaml").read_text())["fsdp_config"]
    assert options.keys() <= flags


def test_the_launcher_makes_fsdp2_of_it(monkeypatch):
    for name, value in environment(FOLDER / "fsdp2.yaml").items():
        monkeypatch.setenv(name, value)
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2
    assert plugin.reshard_after_forward is True
    assert plugin.state_dict_type.name == "FULL_STATE_DICT"
    assert plugin.auto_wrap_policy.__name__ == "transformer_auto_wrap_policy"
    assert not plugin.activation_checkpointing
    assert plugin.cpu_ram_efficient_loading


def test_the_launcher_makes_plain_processes_of_ddp():
    handed = environment(FOLDER / "ddp.yaml")
    assert "ACCELERATE_USE_FSDP" not in handed
    assert handed["ACCELERATE_MIXED_PRECISION"] == "bf16"
