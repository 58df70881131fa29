"""Which parameters train, by the strategies of `rlgen.strategies`: through PEFT where it has them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from peft import (
    BeftConfig,
    IA3Config,
    LNTuningConfig,
    LoftQConfig,
    LoHaConfig,
    LoKrConfig,
    LoraConfig,
    PeftConfig,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    VeraConfig,
)
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import (
    TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING,
    TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING,
)
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel

from rlgen.bottleneck import BottleneckConfig
from rlgen.errors import ConfigError
from rlgen.models import training_dtype
from rlgen.strategies import LORA_FAMILY, find_strategy

if TYPE_CHECKING:
    from rlgen.config import ModelArguments


def decoder_layers(model: PreTrainedModel) -> nn.ModuleList:
    """The stack of decoder layers of a model, PEFT-wrapped or not; an encoder's own layers if that is all it is.

    Raises:
        ConfigError: no list of `num_hidden_layers` modules is found.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    if not inner.config.is_encoder_decoder:
        return _stack(inner, inner.config.get_text_config().num_hidden_layers)
    part = inner.get_decoder()
    return _stack(part, part.config.get_text_config(decoder=True).num_hidden_layers)


def _stack(module: nn.Module, count: int) -> nn.ModuleList:
    for part in module.modules():
        if isinstance(part, nn.ModuleList) and len(part) == count:
            return part
    raise ConfigError(f"{type(module).__name__} has no list of {count} decoder layers; leave top_layers unset for it")


def loading_options(args: "ModelArguments") -> dict[str, Any]:
    """Further arguments of `load_policy` for a way of tuning: 4-bit weights for qlora, else none."""
    if args.tuning != "qlora":
        return {}
    compute = training_dtype()
    return {
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=compute,
        )
    }


def start_tuning(args: "ModelArguments", model: PreTrainedModel, task_type: str = "CAUSAL_LM") -> PeftConfig | None:
    """Make a plain model ready for the way of tuning that `args` asks for.

    Args:
        args: says the strategy, see `rlgen.strategies`.
        model: freshly loaded; changed in place where its own weights train.
        task_type: PEFT's; "SEQ_CLS" trains the score head in any case.

    Returns:
        The adapter for the trainer to put on the model, or None if weights of the model itself train.

    Raises:
        ConfigError: this model cannot be tuned in that way.
    """
    config = peft_config(args, model, task_type)
    if args.tuning == "qlora":
        keep_gradients(model)
    if config is not None:
        return config
    classifies = task_type == "SEQ_CLS"
    if args.tuning == "head":
        model.requires_grad_(False)
        if not classifies:
            _own_head(model).requires_grad_(True)
    elif args.tuning == "bitfit":
        freeze_below(model, args.top_layers)
        for name, parameter in model.named_parameters():
            is_bias = name.rsplit(".", 1)[-1] == "bias"
            parameter.requires_grad_(is_bias and parameter.requires_grad)
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise ConfigError(
                f"--tuning bitfit trains biases, and {type(model).__name__} has none there: take beft, which adds "
                "some, or layer_norm"
            )
    else:
        freeze_below(model, args.top_layers)
    if classifies:
        heads = head_modules(model)
        for name, module in model.named_modules():
            if name.rsplit(".", 1)[-1] in heads:
                module.requires_grad_(True)
    return None


def keep_gradients(model: PreTrainedModel) -> None:
    """Let gradients pass through 4-bit maps on a CPU after an evaluation, too.

    On processors with AVX512-BF16, bitsandbytes 0.50 lays the weights out anew at the first forward pass in evaluation
    mode, for an operation that has no gradient: from then on none passes through these maps, and nothing says so.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def peft_config(args: "ModelArguments", model: PreTrainedModel, task_type: str = "CAUSAL_LM") -> PeftConfig | None:
    """PEFT's configuration for the strategy of `args`, or None where weights of the model itself train.

    Args:
        args: says the strategy and its settings.
        model: the plain model that the adapters go on.
        task_type: PEFT task type; "SEQ_CLS" also trains and saves the score head, see `head_modules`.

    Raises:
        ConfigError: `top_layers` is out of range, or the model has no modules for this adapter.
    """
    strategy = find_strategy(str(args.tuning))
    if strategy.kind == "weights":
        return None
    if strategy.kind == "prompt":
        return _prompt_config(args, model, task_type)
    if model.config.is_encoder_decoder:
        task_type = "SEQ_2_SEQ_LM"
    heads = args.lora_modules_to_save or (head_modules(model) if task_type == "SEQ_CLS" else None)
    common: dict[str, Any] = {"task_type": task_type, "modules_to_save": heads}
    if strategy.name in LORA_FAMILY:
        return _lora_config(args, model, common)
    top = args.top_layers
    if strategy.name == "layer_norm":
        return LNTuningConfig(target_modules=_norms(model, top), **common)
    if strategy.name in ("houlsby", "pfeiffer"):
        targets = _block_outputs(model, top, attention=strategy.name == "houlsby")
        return BottleneckConfig(target_modules=targets, bottleneck_size=args.bottleneck_size, **common)
    if strategy.name == "ia3":
        return IA3Config(fan_in_fan_out=_is_transposed(model), **_ia3_modules(model, top), **common)
    if strategy.name in ("loha", "lokr", "beft") and _is_transposed(model):
        raise ConfigError(
            f"--tuning {strategy.name} does not know the transposed maps of {type(model).__name__}: lora"
        )
    targets = _linear_maps(model, top, args.lora_target_modules)
    if strategy.name == "beft":
        return BeftConfig(target_modules=targets, **common)
    if strategy.name == "vera":
        return VeraConfig(
            r=args.lora_r,
            vera_dropout=args.lora_dropout,
            target_modules=targets,
            fan_in_fan_out=_is_transposed(model),
            **common,
        )
    products = {"r": args.lora_r, "alpha": args.lora_alpha, "rank_dropout": args.lora_dropout}
    kind = LoHaConfig if strategy.name == "loha" else LoKrConfig
    return kind(target_modules=targets, **products, **common)


def _lora_config(args: "ModelArguments", model: PreTrainedModel, common: dict[str, Any]) -> LoraConfig:
    targets = args.lora_target_modules or "all-linear"
    if targets == ["all-linear"]:
        targets = "all-linear"
    layers = None
    if args.top_layers is not None:
        if model.config.is_encoder_decoder:  # the encoder has layers of the same numbers
            targets = _linear_maps(model, args.top_layers, args.lora_target_modules)
        else:
            layers = list(range(first_trained_layer(model, args.top_layers), len(decoder_layers(model))))
            if targets == "all-linear":  # peft takes layers_to_transform with named modules only
                targets = _linear_names(model)
    init: dict[str, Any] = {} if args.lora_init == "default" else {"init_lora_weights": args.lora_init}
    if args.lora_init == "loftq":
        init["loftq_config"] = LoftQConfig(loftq_bits=4)
    return LoraConfig(
        r=args.lora_r,
        lora_alpha=args.lora_alpha,
        lora_dropout=args.lora_dropout,
        target_modules=targets,
        layers_to_transform=layers,
        use_rslora=args.use_rslora,
        use_dora=args.use_dora,
        bias="none",
        fan_in_fan_out=_is_transposed(model),
        **init,
        **common,
    )


def _prompt_config(args: "ModelArguments", model: PreTrainedModel, task_type: str) -> PeftConfig:
    common: dict[str, Any] = {"task_type": task_type, "num_virtual_tokens": args.prompt_tokens}
    if args.tuning == "prefix_tuning":
        return PrefixTuningConfig(**common)
    if args.tuning == "p_tuning":
        return PromptEncoderConfig(encoder_hidden_size=model.config.get_text_config().hidden_size, **common)
    if args.prompt_init_text is None:
        return PromptTuningConfig(prompt_tuning_init="SAMPLE_VOCAB", **common)
    return PromptTuningConfig(
        prompt_tuning_init="TEXT",
        prompt_tuning_init_text=args.prompt_init_text,
        tokenizer_name_or_path=model.config.name_or_path,
        **common,
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


def _own_head(model: PreTrainedModel) -> nn.Module:
    """The output embeddings, with weights of their own if they have shared those of the input."""
    head = model.get_output_embeddings()
    if head.weight is model.get_input_embeddings().weight:
        head.weight = nn.Parameter(head.weight.detach().clone())
        for config in (model.config, model.config.get_text_config()):
            config.tie_word_embeddings = False  # else loading would tie them again
        if getattr(head, "bias", None) is not None:  # one that is shared inside the head would be saved once
            head.bias = nn.Parameter(head.bias.detach().clone())
    return head


def _is_transposed(model: PreTrainedModel) -> bool:
    """Whether linear maps keep their weights as GPT-2 does."""
    return any(type(module).__name__ == "Conv1D" for module in model.modules())


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def _trained_layers(model: PreTrainedModel, top_layers: int | None) -> list[tuple[str, nn.Module]]:
    """Full names and modules of the layers that train; the top ones are always the decoder's."""
    stacks = [decoder_layers(model)]
    if model.config.is_encoder_decoder and top_layers is None:
        part = model.get_encoder()
        stacks.append(_stack(part, part.config.get_text_config(encoder=True).num_hidden_layers))
    start = 0 if top_layers is None else first_trained_layer(model, top_layers)
    return [
        (f"{name}.{number}", layer)
        for name, module in model.named_modules()
        if any(module is stack for stack in stacks)
        for number, layer in enumerate(module)
        if number >= start
    ]


def _linear_maps(model: PreTrainedModel, top_layers: int | None, wanted: Sequence[str] | str | None) -> list[str]:
    """Full names of linear maps inside the layers; of all, or of those whose name ends as wanted."""
    ends = [wanted] if isinstance(wanted, str) else list(wanted or ["all-linear"])  # TRL unpacks a list of one
    found = [
        f"{prefix}.{name}"
        for prefix, layer in _trained_layers(model, top_layers)
        for name, module in layer.named_modules()
        if _is_linear(module) and (ends == ["all-linear"] or any(f".{name}".endswith(f".{end}") for end in ends))
    ]
    if not found:
        raise ConfigError(
            f"{type(model).__name__} has no linear maps {wanted} in its layers: check lora_target_modules"
        )
    return found


def _norms(model: PreTrainedModel, top_layers: int | None) -> list[str]:
    """Full names of the normalization layers; with `top_layers` only of those inside these."""
    roots = [("", model)] if top_layers is None else _trained_layers(model, top_layers)
    found = [
        f"{prefix}.{name}".strip(".")
        for prefix, root in roots
        for name, module in root.named_modules()
        if "norm" in type(module).__name__.lower() and isinstance(getattr(module, "weight", None), nn.Parameter)
    ]
    if not found:
        raise ConfigError(f"{type(model).__name__} has no normalization layers with weights: take --tuning lora")
    return found


def _block_outputs(model: PreTrainedModel, top_layers: int | None, *, attention: bool) -> list[str]:
    """Full names of the last linear map of each layer's feed-forward part, and of its attentions if asked for."""
    size = model.config.get_text_config().hidden_size
    found = []
    for prefix, layer in _trained_layers(model, top_layers):
        ends: dict[str, str] = {}
        for name, module in layer.named_modules():
            if _is_linear(module) and _width(module) == size:
                ends[_attention_in(name)] = f"{prefix}.{name}"  # the last one wins
        feed_forward = ends.pop("", None)
        if feed_forward is None or (attention and not ends):
            raise ConfigError(
                f"{type(model).__name__} has layers without the maps that bottlenecks follow: take --tuning lora"
            )
        found += [*ends.values(), feed_forward] if attention else [feed_forward]
    return found


def _attention_in(name: str) -> str:
    """The attention that a module is part of (`self_attn` of `self_attn.o_proj`); empty for all others."""
    parts = name.split(".")
    depth = next((index for index, part in enumerate(parts) if "att" in part.lower()), None)
    return "" if depth is None else ".".join(parts[: depth + 1])


def _width(module: Any) -> int:
    return int(module.weight.shape[1] if type(module).__name__ == "Conv1D" else module.weight.shape[0])


def _ia3_modules(model: PreTrainedModel, top_layers: int | None) -> dict[str, list[str]]:
    """What IA3 scales in this architecture as PEFT knows it."""
    family = model.config.get_text_config().model_type
    if family not in TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING:
        raise ConfigError(f"--tuning ia3: PEFT does not know where it goes in a {family} model; take lora or vera")
    targets = TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING[family]
    feedforward = TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING[family]
    return {
        "target_modules": _linear_maps(model, top_layers, targets),
        "feedforward_modules": _linear_maps(model, top_layers, feedforward),
    }


def _linear_names(model: PreTrainedModel) -> list[str]:
    """Last parts of the names of all linear maps inside the decoder layers (also GPT-2's Conv1D)."""
    names = set()
    for layer in decoder_layers(model):
        for name, module in layer.named_modules():
            if _is_linear(module):
                names.add(name.rsplit(".", 1)[-1])
    return sorted(names)
