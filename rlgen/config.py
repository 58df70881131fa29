"""Settings of the recipes: the dataclasses that they share, and how flags and YAML fill them."""

import dataclasses
import enum
import re
import sys
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from trl import ModelConfig

from rlgen.errors import ConfigError
from rlgen.frame import recipe
from rlgen.parser import StrictParser
from rlgen.strategies import check_model_arguments

__all__ = [
    "ModelArguments",
    "TaskArguments",
    "fit_to_machine",
    "parse_arguments",
    "read_settings",
    "recipe",
    "resolved_config",
]

_only_reading: ContextVar[bool] = ContextVar("only_reading", default=False)

NOT_SUPPORTED = frozenset(
    "model_revision load_in_8bit load_in_4bit bnb_4bit_quant_type use_bnb_nested_quant bnb_4bit_quant_storage "
    "lora_target_parameters lora_task_type".split()
)


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
    tuning: str | None = field(
        default=None,
        metadata={
            "help": "What trains: full, gradual, head, bitfit, lora, rslora, dora, qlora, vera, loha, lokr, ia3, "
            "layer_norm, beft, houlsby, pfeiffer, prompt_tuning, p_tuning or prefix_tuning; default lora, with "
            "--use_peft false full. See docs/tuning.md."
        },
    )
    use_peft: bool = field(default=True, metadata={"help": "Train a LoRA adapter instead of all weights."})
    lora_r: int = field(default=16, metadata={"help": "Rank of the LoRA adapter."})
    lora_alpha: int = field(default=32, metadata={"help": "Scale of the LoRA adapter."})
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout before the LoRA adapter."})
    lora_target_modules: list[str] | None = field(
        default_factory=lambda: ["all-linear"], metadata={"help": "Modules that get an adapter."}
    )
    top_layers: int | None = field(
        default=None, metadata={"help": "Train only the top N decoder layers (adapters or full weights)."}
    )
    lora_init: str = field(
        default="default",
        metadata={
            "help": "First weights of LoRA: default, gaussian, orthogonal, mica, or from the base's weights pissa, "
            "pissa_niter_16, olora, loftq."
        },
    )
    bottleneck_size: int = field(default=64, metadata={"help": "Units of each bottleneck of houlsby and pfeiffer."})
    prompt_tokens: int = field(
        default=16, metadata={"help": "Virtual tokens of prompt_tuning, p_tuning and prefix_tuning."}
    )
    prompt_init_text: str | None = field(
        default=None,
        metadata={"help": "Text whose embeddings prompt_tuning begins with; default those of random tokens."},
    )
    unfreeze_until: float = field(
        default=0.5, metadata={"help": "Share of the training after which gradual unfreezing has reached all layers."}
    )

    def __post_init__(self) -> None:
        """Refuse what cannot be trained, and what TRL's scripts read but rlgen's recipes do not."""
        super().__post_init__()
        # TRL takes a single name out of its list, and PEFT takes what is no list for a pattern over whole names.
        if isinstance(self.lora_target_modules, str) and re.fullmatch(r"[\w-]+", self.lora_target_modules):
            self.lora_target_modules = [self.lora_target_modules]
        for item in dataclasses.fields(ModelConfig):
            if item.name in NOT_SUPPORTED and getattr(self, item.name) != item.default:
                raise ValueError(f"{item.name} is not supported by rlgen: leave it out")
        if self.top_layers is not None and self.top_layers < 1:
            raise ValueError(f"top_layers must be at least 1, not {self.top_layers}")
        for name in ("bottleneck_size", "prompt_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 < self.unfreeze_until <= 1:
            raise ValueError(f"unfreeze_until must lie above 0 and be at most 1, not {self.unfreeze_until}")
        check_model_arguments(self)

    @property
    def weights_dtype(self) -> str:
        """What the weights are loaded in; full fine-tuning needs weights that small steps can move.

        Autocast makes the arithmetic of float32 weights fast all the same.
        """
        trains_copies = self.tuning == "layer_norm"  # whole weights, which PEFT copies in their own number format
        return "float32" if self.dtype == "auto" and (not self.use_peft or trains_copies) else self.dtype


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


def fit_to_machine(args: Any) -> None:
    """Fill in what training arguments leave open: bfloat16 where the device is fast in it, and the CPU if it is all.

    Args:
        args: transformers' training arguments, at the beginning of their `__post_init__`.
    """
    import torch  # only now, so that --help answers at once

    from rlgen.models import training_dtype

    if args.bf16 is None:
        args.bf16 = not args.fp16 and training_dtype() == torch.bfloat16
    if not torch.accelerator.is_available():
        args.use_cpu, args.dataloader_pin_memory = True, False


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
    instances = parser.parse_strictly(list(sys.argv[1:] if argv is None else argv))
    if _only_reading.get():
        raise _Read(instances)
    return instances


def read_settings(main: Callable[..., Any], argv: Sequence[str]) -> tuple[Any, ...]:
    """What a recipe would read from its command line, without running it.

    Args:
        main: of the recipe.
        argv: flags.

    Returns:
        The instances that `parse_arguments` gives this recipe.

    Raises:
        ConfigError: a flag or a value is wrong.
    """
    token = _only_reading.set(True)
    try:
        getattr(main, "__wrapped__", main)(list(argv))
    except _Read as read:
        return read.instances
    finally:
        _only_reading.reset(token)
    raise ConfigError("this recipe reads no settings")


class _Read(Exception):
    """Leaves a recipe once its settings are read."""

    def __init__(self, instances: tuple[Any, ...]) -> None:
        self.instances = instances


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
