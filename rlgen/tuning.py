"""Which parameters train: LoRA on all or on the top layers, or full fine-tuning of all or of the top layers."""

from typing import TYPE_CHECKING

from peft import LoraConfig, PeftConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import PreTrainedModel

from rlgen.errors import ConfigError

if TYPE_CHECKING:
    from rlgen.config import ModelArguments


def decoder_layers(model: PreTrainedModel) -> nn.ModuleList:
    """The stack of decoder layers of a causal model, PEFT-wrapped or not.

    Raises:
        ConfigError: no list of `num_hidden_layers` modules is found.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    count = inner.config.get_text_config().num_hidden_layers
    for module in inner.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise ConfigError(f"{type(inner).__name__} has no list of {count} decoder layers; leave top_layers unset for it")


def peft_config(args: "ModelArguments", model: PreTrainedModel, task_type: str = "CAUSAL_LM") -> PeftConfig | None:
    """LoRA configuration for `args`, or None for full fine-tuning.

    Args:
        args: TRL's model arguments and `top_layers`.
        model: the plain model that the adapters go on.
        task_type: PEFT task type; "SEQ_CLS" also trains and saves the score head, see `head_modules`.

    Raises:
        ConfigError: `top_layers` is out of range.
    """
    if not args.use_peft:
        return None
    targets = args.lora_target_modules or "all-linear"
    if targets == ["all-linear"]:
        targets = "all-linear"
    layers = None
    if args.top_layers is not None:
        count = len(decoder_layers(model))
        layers = list(range(first_trained_layer(model, args.top_layers), count))
        if targets == "all-linear":  # peft takes layers_to_transform with named modules only
            targets = _linear_names(model)
    return LoraConfig(
        task_type=task_type,
        r=args.lora_r,
        lora_alpha=args.lora_alpha,
        lora_dropout=args.lora_dropout,
        target_modules=targets,
        layers_to_transform=layers,
        use_rslora=args.use_rslora,
        use_dora=args.use_dora,
        modules_to_save=args.lora_modules_to_save or (head_modules(model) if task_type == "SEQ_CLS" else None),
        bias="none",
        fan_in_fan_out=any(type(module).__name__ == "Conv1D" for module in model.modules()),  # GPT-2's layout
    )


def head_modules(model: PreTrainedModel) -> list[str]:
    """Names of the modules that make a score of the trunk's output.

    An encoder's pooler counts as one: many checkpoints come without a trained one, and what is made at random must be
    trained and saved with the head.
    """
    names = {name.rsplit(".", 1)[-1] for name, _ in model.named_modules()}
    return [name for name in ("score", "classifier", "pre_classifier", "pooler") if name in names]


def freeze_below(model: PreTrainedModel, top_layers: int | None) -> None:
    """Full fine-tuning of the top decoder layers: everything else stops training."""
    if top_layers is None:
        return
    start = first_trained_layer(model, top_layers)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for layer in decoder_layers(model)[start:]:
        for parameter in layer.parameters():
            parameter.requires_grad_(True)


def first_trained_layer(model: PreTrainedModel, top_layers: int) -> int:
    """Index of the lowest decoder layer that trains when `top_layers` do."""
    count = len(decoder_layers(model))
    if not 1 <= top_layers <= count:
        raise ConfigError(f"top_layers is {top_layers}, but the model has {count} decoder layers: give 1 to {count}")
    return count - top_layers


def leave_casts_to_autocast(model: nn.Module) -> None:
    """Keep adapters from casting their inputs to their own float32, which autocast would undo at once.

    The products are the same; the float32 copies of the activations, kept for the backward pass, are spared. Only for
    models that run under autocast.
    """
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            module.cast_input_dtype_enabled = False


def _linear_names(model: PreTrainedModel) -> list[str]:
    """Last parts of the names of all linear maps inside the decoder layers (also GPT-2's Conv1D)."""
    names = set()
    for layer in decoder_layers(model):
        for name, module in layer.named_modules():
            if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D":
                names.add(name.rsplit(".", 1)[-1])
    return sorted(names)
