"""Muon for the matrices of hidden layers and AdamW for everything else, as one optimizer with one learning rate."""

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import nn

# What is no hidden layer: names of heads that are not found as output embeddings.
HEADS = frozenset({"lm_head", "score", "classifier", "pre_classifier", "pooler"})


class Muon(torch.optim.Optimizer):
    """torch's Muon and AdamW side by side.

    Muon's update of an (A, B) matrix is scaled by 0.2 sqrt(max(A, B)), so that its size is that of AdamW's and both
    take the same learning rate and weight decay.

    Args:
        matrices: groups of two-dimensional weights, for Muon.
        others: groups of all other weights, for AdamW; either may be empty.
        lr: learning rate of both.
        betas: of AdamW.
        eps: of AdamW.
        momentum: of Muon, 0 to 1.
        nesterov: whether Muon's momentum is Nesterov's.
        ns_steps: Newton-Schulz iterations of Muon.

    Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"; Liu et al. 2025, "Muon is
        Scalable for LLM Training", arXiv 2502.16982, section 2.2 (the scale).
    """

    def __init__(
        self,
        matrices: list[dict[str, Any]],
        others: list[dict[str, Any]],
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_steps: int = 5,
    ) -> None:
        matrices, others = ([group for group in groups if group["params"]] for groups in (matrices, others))
        self._parts: dict[str, torch.optim.Optimizer] = {}
        if matrices:
            options: dict[str, Any] = {"momentum": momentum, "nesterov": nesterov, "ns_steps": ns_steps}
            self._parts["muon"] = torch.optim.Muon(matrices, lr=lr, adjust_lr_fn="match_rms_adamw", **options)
        if others:
            self._parts["adamw"] = torch.optim.AdamW(others, lr=lr, betas=betas, eps=eps)
        groups = []
        for name, part in self._parts.items():
            for group in part.param_groups:
                group["part"] = name
                groups.append(group)
        super().__init__(groups, {})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of both; groups and state are this optimizer's, however they were loaded or rescheduled."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for name, part in self._parts.items():
            part.param_groups = [group for group in self.param_groups if group["part"] == name]
            part.state = self.state
            part.step()
        return loss


class MuonFactory:
    """What transformers' trainer calls with the model to make the optimizer."""

    def __call__(self, model: nn.Module, *, weight_decay: float, decay_names: Collection[str], **options: Any) -> Muon:
        """Sort the trainable weights of a model into those for Muon and those for AdamW.

        Args:
            model: with its adapters on.
            weight_decay: of weights in `decay_names`; 0 for others.
            decay_names: parameters that decay.
            **options: of `Muon`.
        """
        matrices, others = hidden_matrices(model)

        def groups(weights: dict[str, nn.Parameter]) -> list[dict[str, Any]]:
            return [
                {"params": [weights[n] for n in weights if (n in decay_names) == decays], "weight_decay": decay}
                for decays, decay in ((True, weight_decay), (False, 0.0))
            ]

        return Muon(groups(matrices), groups(others), **options)


def hidden_matrices(model: nn.Module) -> tuple[dict[str, nn.Parameter], dict[str, nn.Parameter]]:
    """Trainable weights by name: matrices of hidden layers, and all others (embeddings, heads, biases, norms)."""
    outside = {id(p) for module in model.modules() if isinstance(module, nn.Embedding) for p in module.parameters()}
    head: nn.Module | None = getattr(model, "get_output_embeddings", lambda: None)()  # type: ignore[operator]
    outside |= {id(p) for p in head.parameters()} if head is not None else set()
    matrices: dict[str, nn.Parameter] = {}
    others: dict[str, nn.Parameter] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            hidden = parameter.ndim == 2 and id(parameter) not in outside and not HEADS & set(name.split("."))
            (matrices if hidden else others)[name] = parameter
    return matrices, others
