"""Log-probabilities of given completions: prompts shared among their completions, logits for completion tokens only.

Letters for shapes: N prompts, G completions a prompt, T completion tokens (padded), S tokens of a packed row,
M completion tokens in all, H hidden size, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import PreTrainedModel

from rlgen.families import is_encoder_decoder, start_token
from rlgen.sharing import Prefix, learned_prompt

PROMPT, PADDING = 0, -1


@dataclass
class PackedRows:
    """One row a prompt: its tokens, then those of each of its completions.

    A completion sees the prompt and itself, never its siblings, so that a row of one prompt and G completions scores
    like G separate rows at the cost of one prompt.
    """

    input_ids: Tensor
    """(N, S) token ids, padded on the right."""
    position_ids: Tensor
    """(N, S) positions as if each completion directly followed the prompt."""
    segment_ids: Tensor
    """(N, S) 0 for the prompt, g + 1 for completion g, -1 for padding."""
    source: Tensor
    """(N, G, T) index into the row of the token that predicts each completion token; 0 where the mask is False."""
    completion_ids: Tensor
    """(N, G, T) completion tokens, padded on the right."""
    completion_mask: Tensor
    """(N, G, T) True for real completion tokens."""

    def __getitem__(self, rows: slice | Tensor) -> "PackedRows":
        """Some of the rows, without the padding that none of them needs."""
        part = PackedRows(*(getattr(self, field.name)[rows] for field in fields(self)))
        length = max(int((part.segment_ids != PADDING).sum(1).max()), 1)
        tokens = max(int(part.completion_mask.sum(2).max()), 1)
        return PackedRows(
            *(getattr(part, name)[:, :length] for name in ("input_ids", "position_ids", "segment_ids")),
            *(getattr(part, name)[:, :, :tokens] for name in ("source", "completion_ids", "completion_mask")),
        )

    def to(self, device: torch.device) -> "PackedRows":
        """The same rows on another device."""
        return PackedRows(*(getattr(self, field.name).to(device) for field in fields(self)))

    def for_encoder_decoder(self, start_token_id: int) -> dict[str, Tensor]:
        """The same rows for an encoder-decoder, one each completion: its prompt to encode, and itself to go on from.

        Args:
            start_token_id: what its decoder begins with.

        Returns:
            `input_ids` and `attention_mask` (N * G, prompt tokens), `decoder_input_ids` (N * G, T), the completions
            moved by one.
        """
        groups = self.completion_ids.shape[1]
        in_prompt = self.segment_ids == PROMPT  # prompts are flush with the left end
        width = max(int(in_prompt.sum(1).max()), 1)
        start = torch.full_like(self.completion_ids[:, :, :1], start_token_id)
        return {
            "input_ids": self.input_ids[:, :width].repeat_interleave(groups, 0),
            "attention_mask": in_prompt[:, :width].long().repeat_interleave(groups, 0),
            "decoder_input_ids": torch.cat([start, self.completion_ids[:, :, :-1]], 2).flatten(0, 1),
        }

    def in_rows(self, states: Tensor) -> Tensor:
        """Put the states of an encoder-decoder's decoder where those of a decoder would be: at `source`.

        What a decoder knows before a completion's first token depends on the prompt alone, so that siblings agree
        about the place that they share.

        Args:
            states: (N * G, T, H).

        Returns:
            (N, S, H), 0 where no completion token is predicted.
        """
        keep = self.completion_mask
        rows = torch.arange(keep.shape[0], device=keep.device)[:, None, None].expand_as(keep)[keep]
        empty = states.new_zeros(*self.input_ids.shape, states.shape[-1])
        return empty.index_put((rows, self.source[keep]), states.unflatten(0, keep.shape[:2])[keep])

    def attention_mask(self, implementation: str | None, dtype: torch.dtype, before: int = 0) -> Tensor:
        """Mask for the model: (N, S) for one completion a prompt, else (N, 1, S, S) with the siblings hidden.

        Args:
            implementation: attention kernel; all but "sdpa" take the 4-dimensional mask as a float bias.
            dtype: of that bias.
            before: tokens that stand before all rows in the model's cache and are seen by all; the mask's last
                dimension grows by them.
        """
        real = self.segment_ids != PADDING
        if self.completion_ids.shape[1] == 1:
            return pad(real, (before, 0), value=True).long()
        segment = self.segment_ids
        visible = (segment[:, None, :] == PROMPT) | (segment[:, None, :] == segment[:, :, None])
        length = segment.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=segment.device).tril()
        allowed = (visible & causal & real[:, None, :]) | torch.eye(length, dtype=torch.bool, device=segment.device)
        return visible_bias(pad(allowed, (before, 0), value=True)[:, None], implementation, dtype)


def visible_bias(visible: Tensor, implementation: str | None, dtype: torch.dtype) -> Tensor:
    """A mask that is True where a token sees another, in the form that the attention kernel takes.

    Args:
        visible: (N, 1, queries, keys), bool.
        implementation: attention kernel; all but "sdpa" take a float bias.
        dtype: of that bias.
    """
    if implementation == "sdpa":
        return visible
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill(~visible, torch.finfo(dtype).min)


def pack_rows(
    prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[Sequence[int]]], pad_token_id: int
) -> PackedRows:
    """Lay out N prompts with G completions each.

    Args:
        prompts: N lists of token ids, none empty where log-probabilities are wanted: a completion's first token is
            predicted by the prompt's last one.
        completions: for each prompt, G lists of token ids.
        pad_token_id: fills the rest.

    Returns:
        Packed rows on the CPU.
    """
    groups = len(completions[0])
    length = max(len(p) + sum(map(len, cs)) for p, cs in zip(prompts, completions, strict=True))
    tokens = max(len(c) for cs in completions for c in cs)
    n = len(prompts)
    input_ids = torch.full((n, length), pad_token_id)
    position_ids = torch.zeros(n, length, dtype=torch.long)
    segment_ids = torch.full((n, length), PADDING)
    source = torch.zeros(n, groups, tokens, dtype=torch.long)
    completion_ids = torch.full((n, groups, tokens), pad_token_id)
    completion_mask = torch.zeros(n, groups, tokens, dtype=torch.bool)
    for i, (prompt, group) in enumerate(zip(prompts, completions, strict=True)):
        end = len(prompt)
        input_ids[i, :end] = torch.tensor(prompt, dtype=torch.long)
        position_ids[i, :end] = torch.arange(end)
        segment_ids[i, :end] = PROMPT
        for g, completion in enumerate(group):
            start, count = end, len(completion)
            if count == 0:
                continue
            end = start + count
            input_ids[i, start:end] = completion_ids[i, g, :count] = torch.tensor(completion)
            position_ids[i, start:end] = torch.arange(len(prompt), len(prompt) + count)
            segment_ids[i, start:end] = g + 1
            source[i, g, :count] = torch.arange(start - 1, end - 1)
            source[i, g, 0] = len(prompt) - 1  # the prompt's last token predicts every completion's first
            completion_mask[i, g, :count] = True
    return PackedRows(input_ids, position_ids, segment_ids, source, completion_ids, completion_mask)


def token_logprobs(
    model: nn.Module,
    packed: PackedRows,
    *,
    temperature: float | Tensor = 1.0,
    with_entropy: bool = False,
    prefix: Prefix | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Per-token log-probabilities of the packed completions, and the entropy of each prediction.

    Args:
        model: decoder or encoder-decoder, possibly wrapped for distributed training.
        packed: N rows on the model's device.
        temperature: what the logits are divided by; a tensor (N, G) for completions that differ in it.
        with_entropy: also return entropies, with their gradient.
        prefix: what stands before all rows and was read already; None for a learned prompt, if the model has one. An
            encoder-decoder has none.

    Returns:
        Log-probabilities (N, G, T), natural log, float32, 0 where the mask is False; entropies alike, or None.
    """
    keep = packed.completion_mask
    inner = unwrapped(model)
    if is_encoder_decoder(inner):
        with select_tokens(inner, *keep.flatten(0, 1).nonzero(as_tuple=True)):
            logits = model(**packed.for_encoder_decoder(start_token(inner)), use_cache=False).logits  # (M, V)
    else:
        prefix = learned_prompt(inner) if prefix is None else prefix
        before = prefix.total if prefix else 0
        if prefix and prefix.learned:
            model = inner.get_base_model()
        rows = torch.arange(keep.shape[0], device=keep.device)[:, None, None].expand_as(keep)[keep]
        with select_tokens(inner, rows, packed.source[keep]):
            logits = model(
                input_ids=packed.input_ids,
                attention_mask=packed.attention_mask(inner.config._attn_implementation, inner.dtype, before),
                position_ids=packed.position_ids + before,
                past_key_values=prefix.cache(len(keep)) if prefix and before else None,
                use_cache=False,
            ).logits  # (M, V)
    logits = logits.float()
    if isinstance(temperature, Tensor):
        logits = logits / temperature[:, :, None].expand_as(keep)[keep][:, None]
    elif temperature != 1:  # V is large: spare a copy
        logits = logits / temperature
    logprobs = logits.log_softmax(-1)
    taken = logprobs.gather(1, packed.completion_ids[keep][:, None])[:, 0]
    template = torch.zeros(keep.shape, dtype=torch.float32, device=keep.device)
    entropy = None
    if with_entropy:
        entropy = template.masked_scatter(keep, -(logprobs.exp() * logprobs).sum(-1))
    return template.masked_scatter(keep, taken), entropy


def unwrapped(model: nn.Module) -> PreTrainedModel:
    """The model inside a wrapper for distributed training."""
    while hasattr(model, "module") and isinstance(model.module, nn.Module):
        model = model.module
    return model


@contextmanager
def select_tokens(model: PreTrainedModel, rows: Tensor, columns: Tensor) -> Iterator[None]:
    """Let the LM head see the hidden states of M chosen tokens only, as a matrix (M, H).

    A matrix, not a batch: a batch sends bfloat16 products on CPUs through a path that copies the weights.
    """
    head = model.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _, inputs: (inputs[0][rows, columns],))
    try:
        yield
    finally:
        hook.remove()
