"""The ways of tuning by name: what each trains, which settings it reads, and where it is sound."""

import difflib
import importlib.util
import os
from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Literal

from rlgen.errors import ConfigError

if TYPE_CHECKING:
    from rlgen.config import ModelArguments

Kind = Literal["weights", "adapter", "prompt"]
STAGES = ("pretrain", "sft", "reward", "dpo", "ppo")
LORA_SETTINGS = ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "lora_init", "top_layers")
RANK_SETTINGS = ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "top_layers")


@dataclass(frozen=True)
class Strategy:
    """One way of tuning."""

    name: str
    kind: Kind
    """Weights of the model itself; an adapter inside its layers; or a learned prompt before its input."""
    trains: str
    settings: tuple[str, ...] = ()
    """Fields of `ModelArguments` that it reads."""
    stages: tuple[str, ...] = STAGES
    merges: bool = True
    """Whether a later stage can start from the result: as a plain model, or merged into its full-precision base."""


STRATEGIES = {
    strategy.name: strategy
    for strategy in (
        Strategy("full", "weights", "all weights, or those of the top layers", ("top_layers",)),
        Strategy("gradual", "weights", "all weights, layer by layer from the top", ("unfreeze_until",)),
        Strategy("head", "weights", "the output embeddings alone, untied from the input; a reward model's score"),
        Strategy("bitfit", "weights", "the biases that the model has", ("top_layers",)),
        Strategy("lora", "adapter", "low-rank updates of linear maps", LORA_SETTINGS),
        Strategy("rslora", "adapter", "LoRA, scaled by the root of the rank", LORA_SETTINGS),
        Strategy("dora", "adapter", "LoRA for the direction of weights, and their lengths", LORA_SETTINGS),
        Strategy("qlora", "adapter", "LoRA on a base in 4 bits", LORA_SETTINGS, ("sft", "dpo", "ppo")),
        Strategy(
            "vera",
            "adapter",
            "vectors that scale random low-rank maps shared by all layers",
            ("lora_r", "lora_dropout", "lora_target_modules", "top_layers"),
        ),
        Strategy("loha", "adapter", "products of two low-rank updates", RANK_SETTINGS),
        Strategy("lokr", "adapter", "Kronecker products as updates", RANK_SETTINGS),
        Strategy("ia3", "adapter", "vectors that scale keys, values and feed-forward inputs", ("top_layers",)),
        Strategy("layer_norm", "adapter", "the normalization layers", ("top_layers",)),
        Strategy(
            "beft", "adapter", "bias vectors added to linear maps", ("lora_target_modules", "top_layers"), merges=False
        ),
        Strategy(
            "houlsby",
            "adapter",
            "a bottleneck after attention and one after the feed-forward part",
            ("bottleneck_size", "top_layers"),
            merges=False,
        ),
        Strategy(
            "pfeiffer",
            "adapter",
            "a bottleneck after the feed-forward part",
            ("bottleneck_size", "top_layers"),
            merges=False,
        ),
        Strategy(
            "prompt_tuning",
            "prompt",
            "embeddings of virtual tokens",
            ("prompt_tokens", "prompt_init_text"),
            ("sft",),
            merges=False,
        ),
        Strategy(
            "p_tuning",
            "prompt",
            "embeddings of virtual tokens, made by a small network",
            ("prompt_tokens",),
            ("sft",),
            merges=False,
        ),
        Strategy(
            "prefix_tuning",
            "prompt",
            "keys and values of virtual tokens in every layer",
            ("prompt_tokens",),
            ("sft",),
            merges=False,
        ),
    )
}
SETTINGS = tuple(dict.fromkeys(name for strategy in STRATEGIES.values() for name in strategy.settings))
LORA_FAMILY = tuple(name for name, strategy in STRATEGIES.items() if strategy.settings == LORA_SETTINGS)
# What changes nothing at first, and what changes the base so that switching the adapter off is not the start.
NEUTRAL_INITS = ("default", "gaussian", "orthogonal", "mica")
BASE_CHANGING_INITS = ("pissa", "olora", "loftq")
PROMPT_REASONS = {
    "pretrain": "other stages start from a pre-trained model, of which a prompt cannot be a part",
    "reward": "a reward model is kept as one plain model, of which a prompt cannot be a part",
    "dpo": "a fresh prompt changes the answers before any training, and the policy must start as its reference",
    "ppo": "a fresh prompt changes the answers before any training, and the policy must start as its reference",
}

QUANTIZED_REASONS = {
    "pretrain": "a pre-trained model is kept as one plain model, of which 4-bit weights are no part",
    "reward": "a score cannot be kept in 4 bits",
}


def find_strategy(name: str) -> Strategy:
    """The strategy of a name.

    Raises:
        ConfigError: there is none; the message names the nearest.
    """
    if name in STRATEGIES:
        return STRATEGIES[name]
    near = difflib.get_close_matches(name.lower().replace("-", "_"), STRATEGIES, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise ConfigError(f"there is no tuning strategy {name}: {hint}there are {', '.join(STRATEGIES)}")


def check_tuning(
    args: "ModelArguments",
    stage: str,
    *,
    merge: bool = True,
    packing: bool = False,
    gradient_checkpointing: bool = False,
    disable_dropout: bool = False,
    critic: str | None = None,
) -> None:
    """Refuse, before anything is loaded, a way of tuning that this stage or its other settings cannot have.

    Args:
        args: says the strategy.
        stage: "pretrain", "sft", "reward", "dpo" or "ppo".
        merge: whether the result is merged into a plain model, where that can be.
        packing: whether rows are packed.
        gradient_checkpointing: whether activations are computed anew.
        disable_dropout: whether the trainer turns all dropout off, adapters' too.
        critic: PPO's kind of critic.

    Raises:
        ConfigError: one line that says what does not fit, and what would.
    """
    strategy = find_strategy(str(args.tuning))
    if stage not in strategy.stages:
        fitting = [name for name, other in STRATEGIES.items() if stage in other.stages]
        reason = (PROMPT_REASONS if strategy.kind == "prompt" else QUANTIZED_REASONS)[stage]
        raise ConfigError(f"--tuning {strategy.name} does not go with {stage}: {reason}; take {', '.join(fitting)}")
    if critic == "adapter" and strategy.kind == "weights":
        raise ConfigError(
            f"--critic adapter puts a second adapter on the policy's frozen base, which --tuning {strategy.name} does "
            "not allow: take --critic frozen, head or model, or --tuning lora"
        )
    if args.lora_dropout and disable_dropout:
        raise ConfigError(f"--lora_dropout has no effect while {stage} turns dropout off: add --disable_dropout false")
    if strategy.kind == "prompt" and packing:
        raise ConfigError(f"--packing puts rows behind each other, where --tuning {strategy.name} has one prompt: off")
    if strategy.name == "prefix_tuning" and gradient_checkpointing:
        raise ConfigError("--gradient_checkpointing drops the cache that prefix_tuning works by: take prompt_tuning")
    if _changes_base(args) and (stage in ("dpo", "ppo") or not merge):
        reason = "the reference is the model without its adapter" if merge else "an adapter alone is then not enough"
        remedy = f"take --lora_init {', '.join(NEUTRAL_INITS)}" + ("" if merge else " or --merge_adapter")
        raise ConfigError(f"--lora_init {args.lora_init} changes the base model, but {reason}: {remedy}")
    if args.lora_init == "loftq":
        import torch  # only now, so that --help answers at once

        if not torch.cuda.is_available():
            raise ConfigError("--lora_init loftq is computed on a GPU, and there is none: take pissa or olora")
    if strategy.name == "gradual" and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("--tuning gradual runs in one process: layers that begin to train later take no part in DDP")
    if strategy.name == "qlora":
        require_bitsandbytes()


def check_model_arguments(args: "ModelArguments") -> None:
    """Settle `tuning` with the older flags, and refuse settings that the strategy does not read.

    Raises:
        ConfigError: an unknown strategy, or settings that contradict it.
    """
    if args.tuning is None:
        lora = "dora" if args.use_dora else "rslora" if args.use_rslora else "lora"
        args.tuning = lora if args.use_peft else "full"
    strategy = find_strategy(args.tuning)
    if not args.use_peft and strategy.kind != "weights":
        raise ConfigError(f"--use_peft false trains the model itself, --tuning {args.tuning} does not: give one")
    args.use_peft = strategy.kind != "weights"
    for flag in ("use_dora", "use_rslora"):
        if getattr(args, flag) and strategy.name not in LORA_FAMILY:
            raise ConfigError(f"--{flag} is a kind of LoRA, --tuning {args.tuning} is not: leave it out")
    args.use_dora |= args.tuning == "dora"
    args.use_rslora |= args.tuning == "rslora"
    defaults = {
        item.name: item.default if item.default_factory is MISSING else item.default_factory() for item in fields(args)
    }
    for name in SETTINGS:
        if name not in strategy.settings and getattr(args, name) != defaults[name]:
            readers = [other.name for other in STRATEGIES.values() if name in other.settings]
            raise ConfigError(f"--tuning {args.tuning} does not read --{name}; these do: {', '.join(readers)}")
    if args.lora_modules_to_save and strategy.kind != "adapter":
        raise ConfigError(
            f"--tuning {args.tuning} does not read --lora_modules_to_save, which adapters do: leave it out"
        )
    base = args.lora_init.split("_niter_")[0]
    if base not in (*NEUTRAL_INITS, *BASE_CHANGING_INITS):
        known = ", ".join((*NEUTRAL_INITS, *BASE_CHANGING_INITS, "pissa_niter_N"))
        raise ConfigError(f"--lora_init {args.lora_init} is unknown, or needs data of its own: take one of {known}")
    if "_niter_" in args.lora_init and not (base == "pissa" and args.lora_init.split("_niter_")[1].isdigit()):
        raise ConfigError(f"--lora_init {args.lora_init}: only pissa takes a number of iterations, as pissa_niter_16")
    if _changes_base(args) and args.tuning == "qlora":
        raise ConfigError(
            f"--lora_init {args.lora_init} reads the base's full weights, which qlora has not: take lora"
        )
    if args.lora_init == "mica" and args.use_dora:
        raise ConfigError("--lora_init mica and --use_dora are two variants of LoRA: give one")


def require_bitsandbytes() -> None:
    """Whether 4-bit weights can be had here is tried on a small one.

    Raises:
        ConfigError: bitsandbytes is missing or does not work.
    """
    remedy = "install it (pip install 'rlgen[qlora]'), or take --tuning lora"
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(f"--tuning qlora needs bitsandbytes, which is not installed: {remedy}")
    try:
        import bitsandbytes.functional as functional
        import torch

        accelerator = torch.accelerator.current_accelerator(check_available=True)
        weights = torch.ones(64, 64, device=accelerator or "cpu")
        functional.dequantize_4bit(*functional.quantize_4bit(weights, quant_type="nf4"))
    except Exception as error:  # whatever a library without its binaries raises
        reason = str(error).strip().split("\n")[0]
        raise ConfigError(
            f"--tuning qlora: bitsandbytes does not work on this machine ({reason}): {remedy}"
        ) from error


def _changes_base(args: "ModelArguments") -> bool:
    return args.lora_init.split("_niter_")[0] in BASE_CHANGING_INITS


def strategy_table() -> str:
    """All strategies as a Markdown table, for the documentation."""
    head = ["`--tuning`", "trains", "settings", *STAGES, "critic `adapter`", "next stage starts from it"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for strategy in STRATEGIES.values():
        cells = [f"`{strategy.name}`", strategy.trains]
        cells.append(", ".join(f"`{name}`" for name in strategy.settings) or "none")
        cells += ["yes" if stage in strategy.stages else "no" for stage in STAGES]
        cells.append("yes" if strategy.kind == "adapter" else "no")
        cells.append("yes" if strategy.merges else "no")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
