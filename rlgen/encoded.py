"""Sampling from an encoder-decoder: prompts are encoded once, completions grow in its decoder.

Letters for shapes: N prompts, G completions a prompt, P prompt tokens, M completions that still grow, V vocabulary.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from rlgen.families import start_token


class GrowingDecodings:
    """The completions of a batch while they grow, one cache row each; `rlgen.decoding.sample` chooses their tokens.

    transformers' `generate` would do, but for two things: it obeys the model's own generation settings (a forced first
    token, forbidden repetitions), under which the tokens' probabilities are not those that PPO scores; and it has one
    temperature for all rows.

    Args:
        model: encoder-decoder, PEFT-wrapped or not, in evaluation mode.
        prompt_ids: N lists of token ids, none empty.
        num_generations: G.
        pad_token_id: fills short prompts on the right.
    """

    def __init__(
        self, model: Any, prompt_ids: Sequence[Sequence[int]], num_generations: int, pad_token_id: int
    ) -> None:
        self.inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.device = next(model.parameters()).device
        self.prompt_ids, self.copies, self.pad_token_id = prompt_ids, num_generations, pad_token_id
        self.alive = torch.arange(len(prompt_ids) * num_generations, device=self.device)
        """(M,) indices into the batch's N * G completions of those that still grow."""
        self.hidden: dict[int, Any] = {}
        """Activations are not kept."""
        self.cache = EncoderDecoderCache(DynamicCache(config=self.inner.config), DynamicCache())
        self.encoded = self.mask = torch.empty(0)

    def read_prompts(self) -> Tensor:
        """Encode the prompts; logits (N * G, V) of the first tokens."""
        lengths = torch.tensor([len(ids) for ids in self.prompt_ids], device=self.device)
        places = torch.arange(int(lengths.max()), device=self.device)
        real = places < lengths[:, None]
        flat = torch.tensor([token for ids in self.prompt_ids for token in ids], device=self.device)
        input_ids = torch.full(real.shape, self.pad_token_id, device=self.device).masked_scatter(real, flat)
        encoded = self.inner.get_encoder()(input_ids=input_ids, attention_mask=real.long())[0]  # (N, P, H)
        self.encoded = encoded.repeat_interleave(self.copies, 0)
        self.mask = real.long().repeat_interleave(self.copies, 0)
        return self._read(torch.full_like(self.alive, start_token(self.inner)))

    def read(self, chosen: Tensor, goes_on: Tensor) -> Tensor:
        """Read the tokens just chosen (M,) of the completions that go on; logits (M', V) of their next ones."""
        if not goes_on.all():
            left = goes_on.nonzero()[:, 0]
            self.cache.batch_select_indices(left)
            self.alive, self.encoded, self.mask = self.alive[left], self.encoded[left], self.mask[left]
        return self._read(chosen[goes_on])

    def _read(self, tokens: Tensor) -> Tensor:
        output = self.inner(
            encoder_outputs=BaseModelOutput(last_hidden_state=self.encoded),
            attention_mask=self.mask,
            decoder_input_ids=tokens[:, None],
            past_key_values=self.cache,
            use_cache=True,
        )
        logits: Tensor = output.logits[:, -1]
        return logits
