"""Activations of decoder layers: read them, and leave out the frozen lower layers once they are known."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from rlgen.families import is_encoder_decoder, start_token
from rlgen.scoring import PackedRows, select_tokens, unwrapped
from rlgen.tuning import decoder_layers


def frozen_depth(model: nn.Module) -> int:
    """How many of the lowest decoder layers nothing trains; 0 if anything trains that may come before them.

    Outside the layers only the output embeddings are known to come after; a trained embedding of positions, a prompt
    of trained vectors or a last norm leaves no trunk. Nor has an encoder-decoder one, whose layers all read the
    encoder's output.
    """
    inner = unwrapped(model)
    if is_encoder_decoder(inner):
        return 0
    layers = decoder_layers(inner)
    known = {id(parameter) for layer in layers for parameter in layer.parameters()}
    head = inner.get_output_embeddings()
    if head is not None and head.weight is not inner.get_input_embeddings().weight:
        known |= {id(parameter) for parameter in head.parameters()}
    if any(parameter.requires_grad and id(parameter) not in known for parameter in inner.parameters()):
        return 0
    for depth, layer in enumerate(layers):
        if any(parameter.requires_grad for parameter in layer.parameters()):
            return depth
    return len(layers)


@contextmanager
def record_hidden(
    model: nn.Module, depths: Sequence[int], packed: PackedRows | None = None
) -> Iterator[dict[int, Tensor]]:
    """Record the hidden states (N, S, H) after the given numbers of decoder layers during a forward pass.

    Args:
        model: decoder or encoder-decoder.
        depths: numbers of layers.
        packed: the rows that it is going to see; an encoder-decoder's states are put where a decoder's would be.
    """
    layers = decoder_layers(unwrapped(model))
    recorded: dict[int, Tensor] = {}
    hooks = []
    for depth in set(depths):

        def keep(layer: Any, _inputs: Any, output: Any, depth: int = depth) -> None:
            layer._answers_with_tuple = isinstance(output, tuple)
            states = (output[0] if isinstance(output, tuple) else output).detach()
            recorded[depth] = _in_rows(model, states, packed)

        hooks.append(layers[depth - 1].register_forward_hook(keep))
    try:
        yield recorded
    finally:
        for hook in hooks:
            hook.remove()


def decoder(model: nn.Module) -> nn.Module:
    """The decoder below the LM head, whose output begins with the final hidden state; PEFT-wrapped or not."""
    inner = unwrapped(model)
    inner = inner.get_base_model() if hasattr(inner, "get_base_model") else inner
    if is_encoder_decoder(inner):
        inner = inner.get_decoder()  # which has a head of its own where two models were joined
    below: nn.Module = inner.base_model
    return below


def run_decoder(model: nn.Module, packed: PackedRows) -> Tensor:
    """Final hidden states (N, S, H) of packed rows; no logits."""
    inner = unwrapped(model)
    if is_encoder_decoder(inner):
        none = torch.empty(0, dtype=torch.long, device=packed.input_ids.device)
        with select_tokens(inner, none, none), record_final(model, packed=packed, detached=False) as final:
            model(**packed.for_encoder_decoder(start_token(inner)), use_cache=False)
        return final[-1]
    mask = packed.attention_mask(inner.config._attn_implementation, inner.dtype)
    hidden: Tensor = decoder(model)(
        input_ids=packed.input_ids, attention_mask=mask, position_ids=packed.position_ids, use_cache=False
    )[0]
    return hidden


@contextmanager
def record_final(
    model: nn.Module, wanted: bool = True, packed: PackedRows | None = None, detached: bool = True
) -> Iterator[list[Tensor]]:
    """Record the final hidden state (N, S, H), after the last norm, of each forward pass.

    Args:
        model: decoder or encoder-decoder.
        wanted: False for nothing.
        packed: as for `record_hidden`.
        detached: without gradient.
    """
    recorded: list[Tensor] = []
    if not wanted:
        yield recorded
        return

    def keep(_layer: Any, _inputs: Any, output: Any) -> None:
        recorded.append(_in_rows(model, output[0].detach() if detached else output[0], packed))

    hook = decoder(model).register_forward_hook(keep)
    try:
        yield recorded
    finally:
        hook.remove()


def _in_rows(model: nn.Module, states: Tensor, packed: PackedRows | None) -> Tensor:
    return states if packed is None or not is_encoder_decoder(model) else packed.in_rows(states)


@contextmanager
def replay_hidden(model: nn.Module, depth: int, hidden: Tensor | None) -> Iterator[None]:
    """Run only the decoder layers above `depth`: the ones below answer with their known output.

    Args:
        model: causal model.
        depth: number of layers to leave out.
        hidden: (N, S, H) their output for the rows that the model is going to see; None leaves nothing out.
    """
    if hidden is None or depth == 0:
        yield
        return
    layers = decoder_layers(unwrapped(model))[:depth]
    before = [layer.__dict__.get("forward") for layer in layers]
    # Some families' layers answer with a tuple; `record_hidden` has seen which way this one does.
    answer = (hidden, None) if getattr(layers[-1], "_answers_with_tuple", False) else hidden
    for layer in layers:
        layer.forward = lambda *_, **__: answer
    try:
        yield
    finally:
        for layer, forward in zip(layers, before, strict=True):
            del layer.forward
            if forward is not None:
                layer.forward = forward
