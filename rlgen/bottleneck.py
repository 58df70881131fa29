"""Bottleneck adapters (Houlsby, Pfeiffer) as a tuner of PEFT, which has none: saved, loaded, switched off by PEFT.

Importing this module makes PEFT know the type, so that an adapter folder loads as any other does.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from peft import PeftConfig
from peft.mapping import (
    PEFT_TYPE_TO_CONFIG_MAPPING,
    PEFT_TYPE_TO_PREFIX_MAPPING,
    PEFT_TYPE_TO_TUNER_MAPPING,
)
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import Tensor, nn

from rlgen.errors import ConfigError

PREFIX = "bottleneck_"
OUTPUT_MAPS = {  # for adapters that PEFT adds by architecture; recipes name the modules themselves
    "llama": ["o_proj", "down_proj"],
    "qwen2": ["o_proj", "down_proj"],
    "qwen3": ["o_proj", "down_proj"],
    "gpt2": ["c_proj"],
}


class BottleneckType(StrEnum):
    """What PEFT's own enumeration would hold."""

    BOTTLENECK = "BOTTLENECK"


@dataclass
class BottleneckConfig(PeftConfig):
    """Settings of a bottleneck adapter."""

    bottleneck_size: int = field(default=64, metadata={"help": "Units between the two maps."})
    target_modules: list[str] | str | None = field(
        default=None, metadata={"help": "Modules whose output the adapter changes, in the hidden size of the model."}
    )
    modules_to_save: list[str] | None = field(
        default=None, metadata={"help": "Modules that train whole and are saved with the adapter."}
    )

    def __post_init__(self) -> None:
        """Name the type, and let a list of modules be the set that PEFT matches against."""
        super().__post_init__()
        self.peft_type = BottleneckType.BOTTLENECK
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)  # type: ignore[assignment]


class BottleneckLayer(nn.Module, BaseTunerLayer):
    """A module followed by `y + up(gelu(down(y)))`; `up` starts at zero, so that a fresh adapter changes nothing.

    Args:
        base_layer: gives y, (..., out_features).
        adapter_name: of the first adapter.
        config: its settings.

    Source: Houlsby et al. 2019, arXiv 1902.00751, section 2.1.
    """

    base_layer: Any
    adapter_layer_names = (f"{PREFIX}down", f"{PREFIX}up")

    def __init__(self, base_layer: Any, adapter_name: str, config: BottleneckConfig) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.bottleneck_down: Any = nn.ModuleDict({})  # PEFT's base class types its attributes loosely
        self.bottleneck_up: Any = nn.ModuleDict({})
        self.out_features, self.in_features = base_layer.weight.shape
        if type(base_layer).__name__ == "Conv1D":  # GPT-2 keeps its weights transposed
            self.in_features, self.out_features = base_layer.weight.shape
        self._active_adapter = adapter_name
        self.merged_adapters: list[str] = []
        self.update_layer(adapter_name, config)

    def update_layer(self, adapter_name: str, config: BottleneckConfig) -> None:
        """Add one adapter."""
        self.bottleneck_down[adapter_name] = nn.Linear(self.out_features, config.bottleneck_size)
        up = self.bottleneck_up[adapter_name] = nn.Linear(config.bottleneck_size, self.out_features)
        nn.init.zeros_(up.weight)
        nn.init.zeros_(up.bias)
        tuner: Any = self  # what PEFT's base class brings along
        tuner._move_adapter_to_device_of_base_layer(adapter_name)
        tuner.set_adapter(tuner.active_adapters, inference_mode=config.inference_mode)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The base layer's output (..., out_features), changed by the active adapters unless they are off."""
        tuner: Any = self
        result: Tensor = self.base_layer(x, *args, **kwargs)
        if tuner.disable_adapters:
            return result
        dtype = result.dtype
        for name in tuner.active_adapters:
            if name in self.bottleneck_down:
                down, up = self.bottleneck_down[name], self.bottleneck_up[name]
                inputs = tuner._cast_input_dtype(result, down.weight.dtype)
                result = result + up(nn.functional.gelu(down(inputs))).to(dtype)
        return result

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Refuse: the map is not linear.

        Raises:
            ConfigError: always.
        """
        raise ConfigError("a bottleneck adapter is not linear and cannot be merged into its base: use it unmerged")


class BottleneckModel(BaseTuner):
    """Puts `BottleneckLayer`s around the modules that a configuration names."""

    prefix: str = PREFIX
    tuner_layer_cls = BottleneckLayer
    target_module_mapping = OUTPUT_MAPS

    def _create_and_replace(
        self,
        peft_config: BottleneckConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        if isinstance(target, BottleneckLayer):
            target.update_layer(adapter_name, peft_config)
            return
        layer = BottleneckLayer(target, adapter_name, peft_config)
        if adapter_name != self.active_adapter:
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)


PEFT_TYPE_TO_CONFIG_MAPPING[BottleneckType.BOTTLENECK] = BottleneckConfig
PEFT_TYPE_TO_TUNER_MAPPING[BottleneckType.BOTTLENECK] = BottleneckModel
PEFT_TYPE_TO_PREFIX_MAPPING[BottleneckType.BOTTLENECK] = PREFIX
