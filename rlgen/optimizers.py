"""Optimizers by name: those of transformers, and Muon; a name or package that is missing is found before any model."""

import difflib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rlgen.errors import ConfigError

MUON = "muon"
MUON_OPTIONS = {"momentum": float, "nesterov": bool, "ns_steps": int}
# Which package an optimizer of transformers needs besides torch, by a part of its name.
PACKAGES = {
    "galore": "galore_torch",
    "apollo": "apollo_torch",
    "lomo": "lomo_optim",
    "grokadamw": "grokadamw",
    "schedule_free": "schedulefree",
    "stable_adamw": "optimi",
    "anyprecision": "torchdistx",
    "torch_4bit": "torchao",
    "torch_8bit": "torchao",
    "torch_xla": "torch_xla",
    "torch_npu": "torch_npu",
}
_BITSANDBYTES = ("8bit", "bnb", "lion", "ademamix", "paged")


def optimizer_names() -> list[str]:
    """Every name that `--optim` takes."""
    from transformers.training_args import OptimizerNames  # only now: it brings torch

    return [*(item.value for item in OptimizerNames), MUON]


def needed_package(name: str) -> str | None:
    """The package besides torch and transformers that an optimizer is made of, None for none."""
    for part, package in PACKAGES.items():
        if part in name:
            return package
    return "bitsandbytes" if any(part in name for part in _BITSANDBYTES) else None


def check_optimizer(args: Any) -> None:
    """Whether the optimizer of some training arguments can be had here.

    Args:
        args: transformers' training arguments; `optim`, `optim_args`, `deepspeed` and `fsdp` are read.

    Raises:
        ConfigError: unknown name or option, a package that is missing or does not work, or Muon on split matrices.
    """
    name = getattr(args.optim, "value", args.optim)
    known = optimizer_names()
    if name not in known:
        near = difflib.get_close_matches(str(name), known, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ConfigError(f"unknown optimizer {name}: {hint}There are {', '.join(known)}")
    if name == MUON:
        muon_options(args.optim_args)
        if args.deepspeed or args.fsdp:
            raise ConfigError("--optim muon needs whole matrices, which DeepSpeed and FSDP split: take another")
    package = needed_package(name)
    if package is not None and importlib.util.find_spec(package) is None:
        install = "pip install 'rlgen[qlora]'" if package == "bitsandbytes" else f"install {package}"
        raise ConfigError(f"--optim {name} needs {package}, which is not installed: {install}, or take adamw_torch")
    if package == "bitsandbytes":
        _try_bitsandbytes(name)


def muon_options(text: str | None) -> dict[str, Any]:
    """`--optim_args` for Muon, for example "momentum=0.9,ns_steps=5", as keyword arguments.

    Raises:
        ConfigError: an option that Muon does not have, or a value of the wrong kind.
    """
    options: dict[str, Any] = {}
    for item in (text or "").replace(" ", "").split(","):
        if not item:
            continue
        key, _, value = item.partition("=")
        kind = MUON_OPTIONS.get(key)
        if kind is None:
            raise ConfigError(f"--optim_args {key}: muon has no such option, only {', '.join(MUON_OPTIONS)}")
        try:
            options[key] = {"true": True, "false": False}[value.lower()] if kind is bool else kind(value)
        except (KeyError, ValueError) as error:
            raise ConfigError(f"--optim_args {item}: {key} takes a {kind.__name__}") from error
    return options


@contextmanager
def muon_hidden(args: Any) -> Iterator[None]:
    """Keep Muon's name from transformers, which does not know it, while it checks the other arguments."""
    is_muon = args.optim == MUON
    if is_muon:
        args.optim = "adamw_torch"
    yield
    if is_muon:
        args.optim = MUON


def use_optimizer(trainer: Any) -> None:
    """Give a trainer the optimizer that its arguments name, if transformers cannot make it; call before `train`."""
    if trainer.args.optim == MUON:
        from rlgen.muon import MuonFactory

        args = trainer.args
        trainer.optimizer_cls_and_kwargs = (
            MuonFactory,
            {
                "lr": args.learning_rate,
                "weight_decay": args.weight_decay,
                "decay_names": frozenset(trainer.get_decay_parameter_names(trainer.model)),
                "betas": (args.adam_beta1, args.adam_beta2),
                "eps": args.adam_epsilon,
                **muon_options(args.optim_args),
            },
        )


def _try_bitsandbytes(name: str) -> None:
    """One step on a small weight; the state of 8-bit optimizers is in 8 bits from 4096 numbers on."""
    try:
        import bitsandbytes
        import torch

        device = torch.accelerator.current_accelerator(check_available=True) or "cpu"
        weight = torch.nn.Parameter(torch.ones(64, 64, device=device))
        weight.grad = torch.ones_like(weight)
        bitsandbytes.optim.AdamW([weight], lr=1e-3, optim_bits=8 if "8bit" in name else 32).step()
    except Exception as error:  # whatever a library without its binaries raises
        reason = str(error).strip().split("\n")[0]
        raise ConfigError(f"--optim {name}: bitsandbytes does not work on this machine ({reason})") from error
