"""Callbacks of the ways of tuning: layers that begin to train one after the other, and what a way costs."""

import logging
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rlgen.tuning import decoder_layers

if TYPE_CHECKING:
    from rlgen.config import ModelArguments
    from rlgen.runs import Run

logger = logging.getLogger(__name__)


def tuning_callbacks(args: "ModelArguments", run: "Run") -> list[TrainerCallback]:
    """What a trainer needs for the way of tuning, and the report of its costs in `run.json` under "tuning".

    Args:
        args: says the strategy.
        run: where the report goes.
    """
    report = CostReport(str(args.tuning), run)
    return [GradualUnfreezing(args.unfreeze_until), report] if args.tuning == "gradual" else [report]


class GradualUnfreezing(TrainerCallback):
    """Trains what stands above the layers from the start, and one layer more at equal intervals, from the top down.

    The embeddings follow with the lowest layer. All parameters are in the optimizer from the beginning; one without a
    gradient stays as it is.

    Args:
        until: share of all steps after which everything trains.

    Source: Howard and Ruder 2018, arXiv 1801.06146, section 3.3; the schedule there is one layer an epoch.
    """

    def __init__(self, until: float) -> None:
        self.until = until

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **kwargs: Any
    ) -> None:
        """Freeze what does not train yet; the optimizer knows all parameters by now."""
        self._set(model, state)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **kwargs: Any
    ) -> None:
        """Unfreeze what is due."""
        self._set(model, state)

    def layers_at(self, step: int, max_steps: int, count: int) -> int:
        """How many of `count` layers train in a step, the first being 0."""
        done = step / max(self.until * max_steps, 1)
        return min(1 + int(done * count), count)

    def _set(self, model: nn.Module, state: TrainerState) -> None:
        layers = decoder_layers(model)
        trained = self.layers_at(state.global_step, state.max_steps, len(layers))
        frozen = {id(p) for layer in layers[: len(layers) - trained] for p in layer.parameters()}
        inside = {id(p) for layer in layers for p in layer.parameters()}
        reached = False  # parameters come in the order of the forward pass: embeddings, layers, last norm, head
        for parameter in model.parameters():
            reached |= id(parameter) in inside
            parameter.requires_grad_(id(parameter) not in frozen and (reached or trained == len(layers)))


class CostReport(TrainerCallback):
    """Says at the start how much trains, and records at the end what it took.

    Args:
        strategy: its name.
        run: gets trainable and all parameters, bytes of the optimizer's state, bytes of the weights that a checkpoint
            holds.
    """

    def __init__(self, strategy: str, run: "Run") -> None:
        self.run = run
        self.report: dict[str, Any] = {"strategy": strategy}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **kwargs: Any
    ) -> None:
        """Log one line about parameters and checkpoints."""
        optimizer = kwargs.get("optimizer")
        counts = count_parameters(model, optimizer)
        self.report |= {**counts, "checkpoint_bytes": checkpoint_bytes(model)}
        if state.is_world_process_zero:
            logger.info(
                "%s trains %s of %s parameters (%.2f%%); a checkpoint's weights take %s",
                self.report["strategy"],
                f"{counts['trainable_parameters']:,}",
                f"{counts['parameters']:,}",
                100 * counts["trainable_parameters"] / counts["parameters"],
                readable(self.report["checkpoint_bytes"]),
            )

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The optimizer has its state after its first step."""
        if "optimizer_bytes" not in self.report:
            self.report["optimizer_bytes"] = optimizer_bytes(kwargs.get("optimizer"))
            if state.is_world_process_zero:
                logger.info("the optimizer's state takes %s", readable(self.report["optimizer_bytes"]))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write the report; by now the optimizer knows layers that began to train late."""
        self.report["optimizer_bytes"] = optimizer_bytes(kwargs.get("optimizer"))
        if state.is_world_process_zero:
            self.run.note("tuning", self.report)


def count_parameters(model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> dict[str, int]:
    """Parameters that train, and all of them; with an optimizer those count as training that it holds."""
    unique = {id(parameter): parameter for parameter in model.parameters()}
    if optimizer is not None:
        trainable = [p for group in optimizer.param_groups for p in group["params"]]
    else:
        trainable = [p for p in unique.values() if p.requires_grad]
    return {
        "trainable_parameters": sum(p.numel() for p in trainable),
        "parameters": sum(_true_size(p) for p in unique.values()),
    }


def optimizer_bytes(optimizer: torch.optim.Optimizer | None) -> int:
    """Bytes of the tensors that an optimizer keeps on this process."""
    if optimizer is None:
        return 0
    tensors = [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def checkpoint_bytes(model: nn.Module) -> int:
    """Bytes of the weights that saving writes: an adapter's alone, or all of a model's, tied ones once."""
    state = get_peft_model_state_dict(model) if isinstance(model, PeftModel) else model.state_dict()
    tensors = {(tensor.data_ptr(), tensor.shape): tensor for tensor in state.values()}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def readable(size: int) -> str:
    """A number of bytes for people."""
    return f"{size / 1e6:.2f} MB" if size < 1e9 else f"{size / 1e9:.2f} GB"


def _true_size(parameter: nn.Parameter) -> int:
    """Number of weights; bitsandbytes keeps two of 4 bits in a byte."""
    packed = type(parameter).__name__ == "Params4bit"
    return parameter.numel() * (2 * parameter.element_size() if packed else 1)
