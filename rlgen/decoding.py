"""The decoding loop: several completions of a prompt grow side by side over one copy of the prompt's keys and values.

On CPUs the time of a decoding step goes into reading cached keys and values, so a prompt's are kept once, however many
completions it has. Letters for shapes: N prompts, G completions a prompt, P prompt tokens, T completion tokens, K
cached positions, A completions of a prompt that still grow, M completions that still grow in all, V vocabulary.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer
from transformers.generation import TopPLogitsWarper

from rlgen.attention import fast_decoding
from rlgen.encoded import GrowingDecodings
from rlgen.families import is_encoder_decoder
from rlgen.hidden import record_hidden
from rlgen.scoring import PADDING, PROMPT, select_tokens, visible_bias
from rlgen.sharing import can_share_prompts, read_prefix

SAME_LENGTH = (
    0.75  # prompts are read together down to this share of the longest one's length; the rest would be padding
)


@dataclass
class HiddenStates:
    """Activations that the forward passes of sampling have visited anyway, for one depth."""

    prompt: Tensor
    """(N, P, H), prompts flush with the right end."""
    completion: Tensor
    """(N, G, T, H); 0 where a token was never read, which is so for each completion's last one."""


@dataclass
class Sampled:
    """What `sample` returns; a prompt's G completions stand side by side."""

    tokens: list[list[int]]
    """N * G completions, with their eos tokens."""
    logprobs: list[list[float]]
    """Natural log-probability of each token under the distribution before top-p."""
    hidden: dict[int, HiddenStates]
    """By depth: activations after so many decoder layers, if asked for and if the prompts were shared."""


@torch.no_grad()
def sample(
    model: nn.Module,
    prompt_ids: Sequence[Sequence[int]],
    *,
    num_generations: int,
    max_new_tokens: int,
    eos_token_ids: Sequence[int],
    pad_token_id: int,
    temperature: float | Sequence[float] = 1.0,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
    share_prompts: bool = True,
    hidden_depths: Sequence[int] = (),
) -> Sampled:
    """Decode one batch: each prompt is read once for all its completions, and finished ones cost nothing more.

    Args:
        model: decoder with a dynamic key-value cache, or encoder-decoder.
        prompt_ids: N lists of token ids, none empty.
        num_generations: completions a prompt, G.
        max_new_tokens: length limit in tokens.
        eos_token_ids: tokens that end a completion.
        pad_token_id: fills short prompts on the left.
        temperature: 0 for the most likely token at each step; or one number for each of the G completions.
        top_p: nucleus sampling; 1 for all tokens.
        generator: source of randomness; None for torch's global one. Greedy completions draw nothing from it.
        share_prompts: let completions stand in one row where the model seems to allow it; a decoder.
        hidden_depths: numbers of a decoder's layers after which activations are kept.

    Returns:
        N * G completions.
    """
    was_training = model.training
    model.eval()
    growing: _Growing | GrowingDecodings
    if is_encoder_decoder(model):
        growing = GrowingDecodings(model, prompt_ids, num_generations, pad_token_id)
    else:
        growing = _Growing(
            model, prompt_ids, num_generations, pad_token_id, max_new_tokens, hidden_depths, share_prompts
        )
    temperatures = [temperature] * num_generations if isinstance(temperature, int | float) else list(temperature)
    heat = torch.tensor(temperatures, device=growing.device).repeat(len(prompt_ids))
    nucleus = TopPLogitsWarper(top_p) if top_p < 1 else None
    ends = torch.tensor(list(eos_token_ids), device=growing.device)
    tokens: list[list[int]] = [[] for _ in heat]
    logprobs: list[list[float]] = [[] for _ in heat]
    logits = growing.read_prompts()
    for count in range(1, max_new_tokens + 1):
        chosen, logps = _choose(logits, heat[growing.alive], nucleus, generator)
        for index, token, logp in zip(growing.alive.tolist(), chosen.tolist(), logps.tolist(), strict=True):
            tokens[index].append(token)
            logprobs[index].append(logp)
        goes_on = ~torch.isin(chosen, ends)
        if count == max_new_tokens or not goes_on.any():
            break
        logits = growing.read(chosen, goes_on)
    model.train(was_training)
    return Sampled(tokens, logprobs, growing.hidden)


class _Growing:
    """The completions of a batch while they grow: a cache row a prompt, and who owns which position of it."""

    def __init__(
        self,
        model: Any,
        prompt_ids: Sequence[Sequence[int]],
        num_generations: int,
        pad_token_id: int,
        max_new_tokens: int,
        hidden_depths: Sequence[int],
        share_prompts: bool,
    ) -> None:
        self.model = model
        self.inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.device = next(model.parameters()).device
        self.pad_token_id = pad_token_id
        self.prompt_ids = prompt_ids
        self.cache = DynamicCache(config=self.inner.config)
        self.shares = share_prompts and can_share_prompts(self.inner)
        self.mergeable = all(type(layer) is DynamicLayer for layer in self.cache.layers)
        self.copies = 1 if self.shares else num_generations
        members = num_generations // self.copies
        n = len(prompt_ids) * self.copies
        self.rows = torch.arange(n, device=self.device)  # of the original batch, of which finished ones leave
        self.slots = torch.arange(members, device=self.device).expand(n, members)  # (n, A), -1 for nobody
        self.members = members
        lengths = torch.tensor([len(ids) for ids in prompt_ids], device=self.device)
        self.lengths = lengths.repeat_interleave(self.copies)
        self.longest = int(lengths.max())
        self.depths = tuple(hidden_depths) if self.shares or num_generations == 1 else ()
        with record_hidden(model, self.depths) as self.prefix_hidden:
            self.prefix = read_prefix(model, prompt_ids)
        if self.prefix.learned:  # the cache holds what PEFT would put before each sequence
            self.model = self.inner
        places = torch.arange(self.longest, device=self.device)
        shared = self.prefix.length
        padded = (places >= shared) & (places < shared + self.longest - self.lengths[:, None])
        self.owner = torch.where(padded, PADDING, PROMPT)  # (n, K)
        self.owner = nn.functional.pad(self.owner, (self.prefix.learned, 0), value=PROMPT)
        self.step = 0
        self.hidden: dict[int, HiddenStates] = {}
        self.max_new_tokens = max_new_tokens

    @property
    def alive(self) -> Tensor:
        """(M,) indices into the batch's N * G completions of those that still grow."""
        return (self.rows[:, None] * self.members + self.slots)[self.slots >= 0]

    def read_prompts(self) -> Tensor:
        """Read the prompts, in parts of similar length; logits (N * G, V) of the first tokens."""
        unread = [len(ids) - self.prefix.length for ids in self.prompt_ids]
        order = sorted(range(len(unread)), key=lambda i: -unread[i])
        cuts = [0]
        for place, i in enumerate(order):
            if self.mergeable and unread[i] < SAME_LENGTH * unread[order[cuts[-1]]]:
                cuts.append(place)
        parts = [order[start:end] for start, end in pairwise([*cuts, len(order)])]
        logits, caches = zip(*(self._read_part(part) for part in parts), strict=True)
        back = torch.tensor(order, device=self.device).argsort()
        if len(parts) == 1:
            self.cache = caches[0]
            self.cache.batch_select_indices(back)
        else:
            self.cache = _merge(caches, back, self.cache, self.prefix.total)
        if self.copies > 1:
            self.cache.batch_repeat_interleave(self.copies)
        return torch.cat(logits)[back].repeat_interleave(self.copies * self.members, 0)

    def _read_part(self, part: list[int]) -> tuple[Tensor, DynamicCache]:
        shared, before = self.prefix.length, self.prefix.total
        unread = [self.prompt_ids[i][shared:] for i in part]
        width = len(unread[0])
        input_ids = torch.full((len(part), width), self.pad_token_id, device=self.device)
        real = torch.zeros_like(input_ids)
        for row, ids in enumerate(unread):
            input_ids[row, width - len(ids) :] = torch.tensor(ids, device=self.device)
            real[row, width - len(ids) :] = 1
        cache = self.prefix.cache(len(part))
        last = torch.full((len(part),), width - 1, device=self.device)
        positions = (real.cumsum(1) - 1).clamp(min=0) + before
        everyone = torch.arange(len(part), device=self.device)
        mask = nn.functional.pad(real, (before, 0), value=1)
        logits, hidden = self._forward(input_ids, positions, mask, cache, everyone, last)
        for depth, states in hidden.items():
            kept = self._kept(depth, states)
            kept.prompt[torch.tensor(part, device=self.device), self.longest - width :] = states
            for i in part if shared else ():
                start = self.longest - len(self.prompt_ids[i])
                kept.prompt[i, start : start + shared] = self.prefix_hidden[depth][0]
        return logits, cache

    def read(self, chosen: Tensor, goes_on: Tensor) -> Tensor:
        """Read the tokens just chosen (M,) of the completions that go on; logits (M', V) of their next ones."""
        self.step += 1
        tokens = torch.full_like(self.slots, self.pad_token_id)
        tokens[self.slots >= 0] = chosen
        keeps = torch.zeros_like(self.slots, dtype=torch.bool)
        keeps[self.slots >= 0] = goes_on
        width = int(keeps.sum(1).max())
        first = keeps.long().argsort(dim=1, descending=True, stable=True)[:, :width]
        slots = torch.where(keeps, self.slots, -1).gather(1, first)
        tokens = tokens.gather(1, first)
        rows_left = keeps.any(1).nonzero()[:, 0]
        if len(rows_left) < len(keeps):
            self.cache.batch_select_indices(rows_left)
            slots, tokens = slots[rows_left], tokens[rows_left]
            self.rows, self.owner, self.lengths = self.rows[rows_left], self.owner[rows_left], self.lengths[rows_left]
        self.slots = slots
        self.owner = torch.cat([self.owner, torch.where(slots >= 0, slots + 1, PADDING)], 1)
        positions = (self.prefix.learned + self.lengths[:, None] + self.step - 1).expand_as(slots)
        rows, columns = (slots >= 0).nonzero(as_tuple=True)
        mask = self._mask()
        with fast_decoding(self.inner) if self.shares else nullcontext():  # it takes masks of ours only
            logits, hidden = self._forward(tokens, positions, mask, self.cache, rows, columns)
        for depth, states in hidden.items():
            kept = self._kept(depth, states)
            kept.completion[self.rows[rows], slots[rows, columns], self.step - 1] = states[rows, columns]
        return logits

    def _mask(self) -> Tensor:
        """Which cached positions the new tokens see: (n, K), or with siblings in a row (n, 1, A, K)."""
        if not self.shares:
            return (self.owner != PADDING).long()
        # A slot that nobody uses sees the prompt, like everyone: its output is not looked at, but must be a number.
        visible = (self.owner[:, None] == PROMPT) | (self.owner[:, None] == (self.slots + 1)[:, :, None])
        return visible_bias(visible[:, None], self.inner.config._attn_implementation, self.inner.dtype)

    def _forward(
        self, input_ids: Tensor, positions: Tensor, mask: Tensor, cache: DynamicCache, rows: Tensor, columns: Tensor
    ) -> tuple[Tensor, dict[int, Tensor]]:
        with select_tokens(self.model, rows, columns), record_hidden(self.model, self.depths) as hidden:
            logits = self.model(
                input_ids=input_ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
            ).logits
        return logits, hidden

    def _kept(self, depth: int, states: Tensor) -> HiddenStates:
        if depth not in self.hidden:
            n, size = len(self.prompt_ids), states.shape[-1]
            self.hidden[depth] = HiddenStates(
                states.new_zeros(n, self.longest, size),
                states.new_zeros(n, self.members, self.max_new_tokens, size),
            )
        return self.hidden[depth]


def _merge(parts: Sequence[DynamicCache], order: Tensor, merged: DynamicCache, shared: int) -> DynamicCache:
    """One cache from several of different length, rows in the given order, padded behind the `shared` first tokens."""
    width = max(part.get_seq_length() for part in parts)

    def widen(states: Tensor) -> Tensor:
        before, after = states[:, :, :shared], states[:, :, shared:]
        return torch.cat([before, nn.functional.pad(after, (0, 0, width - states.shape[2], 0))], 2)

    for number, layers in enumerate(zip(*(part.layers for part in parts), strict=True)):
        keys = torch.cat([widen(layer.keys) for layer in layers])[order]
        values = torch.cat([widen(layer.values) for layer in layers])[order]
        merged.update(keys, values, number)
    return merged


def _choose(
    logits: Tensor, temperature: Tensor, nucleus: TopPLogitsWarper | None, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Next tokens (M,) and their log-probabilities (M,) from logits (M, V)."""
    greedy = temperature == 0
    scores = logits.float() / torch.where(greedy, 1.0, temperature)[:, None]
    peak, chosen = scores.max(-1)
    weights = (scores - peak[:, None]).exp()
    normalizer = weights.sum(-1).log() + peak
    sampled = ~greedy
    if sampled.any():
        if nucleus:
            weights = nucleus(None, scores).sub(peak[:, None]).exp()
        # Inverse of the cumulative distribution: several times faster than torch.multinomial on a CPU.
        cumulative = weights[sampled].cumsum(-1)
        draw = torch.rand(len(cumulative), 1, device=logits.device, generator=generator) * cumulative[:, -1:]
        drawn = torch.searchsorted(cumulative, draw, right=True)[:, 0].clamp(max=logits.shape[-1] - 1)
        chosen = chosen.masked_scatter(sampled, drawn)
    return chosen, scores.gather(1, chosen[:, None])[:, 0] - normalizer
