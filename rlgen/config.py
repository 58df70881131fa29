"""Settings of the recipes: the dataclasses that they share, and how flags and YAML fill them."""

import dataclasses
import enum
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from trl import ModelConfig

from rlgen.frame import recipe
from rlgen.parser import StrictParser

__all__ = ["ModelArguments", "TaskArguments", "parse_arguments", "recipe", "resolved_config"]


@dataclass
class ModelArguments(ModelConfig):
    """Which model to start from and which part of it to train."""

    _argument_group_name = "model"

    model_name_or_path: str = field(
        default="embedded",
        metadata={"help": 'Hub id, local folder, adapter folder, or "embedded": SmolLM2-135M-Instruct, fetched once.'},
    )
    dtype: str = field(
        default="auto",
        metadata={
            "help": "Number format of the weights; auto takes bfloat16 where the device is fast in it, else float32.",
            "choices": ["auto", "bfloat16", "float16", "float32"],
        },
    )
    use_peft: bool = field(default=True, metadata={"help": "Train a LoRA adapter instead of all weights."})
    lora_r: int = field(default=16, metadata={"help": "Rank of the LoRA adapter."})
    lora_alpha: int = field(default=32, metadata={"help": "Scale of the LoRA adapter."})
    lora_target_modules: list[str] | None = field(
        default_factory=lambda: ["all-linear"], metadata={"help": "Modules that get an adapter."}
    )
    top_layers: int | None = field(
        default=None, metadata={"help": "Train only the top N decoder layers (adapters or full weights)."}
    )

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        super().__post_init__()
        if self.top_layers is not None and self.top_layers < 1:
            raise ValueError(f"top_layers must be at least 1, not {self.top_layers}")


@dataclass
class TaskArguments:
    """Where the rows and the rewards come from."""

    _argument_group_name = "data"

    task: str | None = field(
        default="docstring", metadata={"help": "Registered task, or the path of a file that defines one."}
    )
    task_source: str | None = field(
        default=None, metadata={"help": "Where the task reads its rows, e.g. another folder of Python sources."}
    )
    dataset_name: str | None = field(
        default=None,
        metadata={"help": "Own rows instead of the task's: .jsonl, .json, .csv or .parquet file, folder, or hub id."},
    )
    dataset_train_split: str = field(default="train", metadata={"help": "Split of --dataset_name to train on."})
    max_train_rows: int | None = field(default=None, metadata={"help": "Use at most this many training rows."})
    eval_dataset_name: str | None = field(default=None, metadata={"help": "Own held-out rows, in the same formats."})
    max_eval_rows: int | None = field(default=None, metadata={"help": "Use at most this many held-out rows."})

    def __post_init__(self) -> None:
        """Refuse counts that leave nothing."""
        for name in ("max_train_rows", "max_eval_rows"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")


def parse_arguments(types: Sequence[type], *, description: str, argv: Sequence[str] | None = None) -> tuple[Any, ...]:
    """Fill dataclasses from `--config FILE` and flags; flags win.

    Args:
        types: dataclasses, the recipe's own first.
        description: what `--help` says the recipe does.
        argv: flags; None takes those of the process.

    Returns:
        One instance per dataclass.

    Raises:
        ConfigError: a flag, a key, a value or the file is wrong.
    """
    parser = StrictParser(types, description=description)
    return parser.parse_strictly(list(sys.argv[1:] if argv is None else argv))


def resolved_config(*instances: Any) -> dict[str, Any]:
    """All values of some dataclass instances as one flat dictionary of plain types, secrets left out."""
    values: dict[str, Any] = {}
    for instance in instances:
        for item in dataclasses.fields(instance):
            if item.init and not item.name.endswith("hub_token"):
                values[item.name] = _plain(getattr(instance, item.name))
    return values


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
