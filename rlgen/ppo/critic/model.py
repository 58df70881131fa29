"""The critic `model`: a separate transformer, decoder or encoder, with a value head."""

import inspect
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlgen.errors import ConfigError, TrainingError
from rlgen.ppo.critic.base import CriticOptions
from rlgen.ppo.critic.features import states_of
from rlgen.ppo.critic.tokens import TokenCritic, TokenStates
from rlgen.scoring import PADDING, PROMPT, PackedRows, pack_rows
from rlgen.sharing import can_share_prompts

if TYPE_CHECKING:
    from rlgen.ppo.rollout import Scored


class ModelCritic(TokenCritic):
    """All weights of the model train, in its own number format.

    A state's value must not depend on later tokens. Decoders see to that themselves; an encoder gets a mask by which
    prompt tokens see the whole prompt, and completion tokens what stands before them (the prefix language model of
    Dong et al. 2019, arXiv 1905.03197). Which of the two it is, is found out on a few random tokens.

    Args:
        backbone: the model below any head.
        options: sizes and settings.
        **kwargs: see `TokenCritic`.

    Raises:
        ConfigError: the model sees later tokens in spite of the mask.
    """

    kind = "model"
    backbone: PreTrainedModel

    def __init__(self, backbone: PreTrainedModel, options: CriticOptions, **kwargs: Any) -> None:
        if getattr(backbone, "pooler", None) is not None:
            backbone.pooler = None  # reads the first token only, which knows no completion
        super().__init__(backbone.config.get_text_config().hidden_size, options, backbone, **kwargs)
        accepted = inspect.signature(backbone.forward).parameters
        self._accepts = {name for name in ("position_ids", "use_cache") if name in accepted}
        self.first_position = _first_position(backbone)
        self.prefix_mask, self.shares_prompts = False, False
        self.prefix_mask = self._looks_ahead()
        if self.prefix_mask and self._looks_ahead():
            raise ConfigError(
                f"the critic model is a {type(backbone).__name__}, which sees later tokens whatever mask it is given: "
                "choose a decoder, or an encoder that takes a mask for every pair of tokens"
            )
        self.shares_prompts = self._hides_siblings()

    def train(self, mode: bool = True) -> "ModelCritic":
        """Dropout is for the head only, as it is off in the policy."""
        super().train(mode)
        self.backbone.eval()
        return self

    def states(self, scored: "Scored | TokenStates") -> TokenStates:
        """Tokens; each completion with a prompt of its own where the model cannot share it."""
        return TokenStates(scored.packed if self.shares_prompts else separate(scored.packed))

    def hidden(self, states: TokenStates) -> Tensor:
        """Final hidden states (N, S, H).

        Raises:
            TrainingError: a text is longer than the model can read.
        """
        packed = states.packed
        limit = getattr(self.backbone.config.get_text_config(), "max_position_embeddings", None)
        longest = int(packed.position_ids.max()) + 1
        if limit is not None and longest + self.first_position > limit:
            raise TrainingError(
                f"a prompt and its completion have {longest} tokens, the critic model reads "
                f"{limit - self.first_position}: lower max_completion_length, shorten prompts, or take another model"
            )
        kernel = self.backbone.config._attn_implementation
        if self.prefix_mask:
            mask = prefix_mask(packed, kernel, self.backbone.dtype)
        else:
            mask = packed.attention_mask(kernel, self.backbone.dtype)
        options = {"position_ids": packed.position_ids + self.first_position, "use_cache": False}
        output = self.backbone(
            input_ids=packed.input_ids,
            attention_mask=mask,
            **{name: value for name, value in options.items() if name in self._accepts},
        )
        hidden: Tensor = output[0]
        return hidden

    def describe(self) -> dict[str, Any]:
        """Kind, sizes and the model's configuration."""
        return {**super().describe(), "hidden_size": self.hidden_size, "model": self.backbone.config.to_dict()}

    @torch.no_grad()
    def _looks_ahead(self) -> bool:
        """Whether the last token of a text changes the hidden states of those before it."""
        self.eval()
        ids = _probe(self.backbone)
        texts = pack_rows([ids[:8]] * 2, [[ids[8:14]], [[*ids[8:13], ids[14]]]], 0)
        one, other = self.hidden(TokenStates(texts.to(self.head.weight.device)))[:, :-1]
        return bool((one - other).abs().max() > 1e-5 * one.abs().max())

    @torch.no_grad()
    def _hides_siblings(self) -> bool:
        """Whether completions that share a row have the same hidden states as each by itself."""
        if not can_share_prompts(self.backbone):
            return False
        self.eval()
        ids = _probe(self.backbone)
        shared = pack_rows([ids[:8]], [[ids[8:12], ids[12:]]], 0).to(self.head.weight.device)
        one, other = (states_of(self.hidden(TokenStates(p)), p) for p in (shared, separate(shared)))
        return bool((one - other).abs().max() < 1e-3 * one.abs().max())


def separate(packed: PackedRows) -> PackedRows:
    """Rows of one prompt and one completion each, (N * G, S'), in the same order."""
    prompts, completions = [], []
    for row in range(len(packed.input_ids)):
        prompt = packed.input_ids[row][packed.segment_ids[row] == PROMPT].tolist()
        for ids, keep in zip(packed.completion_ids[row], packed.completion_mask[row], strict=True):
            prompts.append(prompt)
            completions.append([ids[keep].tolist()])
    return pack_rows(prompts, completions, 0).to(packed.input_ids.device)


def prefix_mask(packed: PackedRows, implementation: str | None, dtype: torch.dtype) -> Tensor:
    """Mask (N, 1, S, S) by which a token sees its whole prompt and what stands before it in its own completion.

    Args:
        packed: the rows.
        implementation: attention kernel; "sdpa" takes booleans, True for visible, all others a float bias.
        dtype: of that bias.
    """
    segment, length = packed.segment_ids, packed.segment_ids.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=segment.device).tril()
    own = (segment[:, None, :] == segment[:, :, None]) & causal
    prompt = (segment[:, None, :] == PROMPT) & (segment[:, :, None] != PADDING)
    allowed = (own | prompt)[:, None]
    if implementation == "sdpa":
        return allowed
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill(~allowed, torch.finfo(dtype).min)


def _first_position(model: PreTrainedModel) -> int:
    """Position of a text's first token: RoBERTa and its kin begin after the position of padding."""
    table = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
    padding = getattr(table, "padding_idx", None)
    return 0 if padding is None else padding + 1


def _probe(model: PreTrainedModel) -> list[int]:
    """16 token ids from all over the vocabulary."""
    size = model.config.get_text_config().vocab_size
    return [size * place // 17 for place in range(1, 17)]
