"""A rollout and its scoring: log-probabilities under policy and reference, features for the critic.

Letters for shapes: N prompts, G completions a prompt, T completion tokens, S tokens of a packed row, M completion
tokens in all, H hidden size, F features.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlgen.decoding import HiddenStates
from rlgen.hidden import record_final, record_hidden, replay_hidden
from rlgen.ppo.critic import Critic
from rlgen.scoring import PROMPT, PackedRows, pack_rows, token_logprobs


@dataclass
class Scored:
    """A batch of completions with what the advantages are made of."""

    packed: PackedRows
    logprobs: Tensor
    """(N, G, T) under the policy that sampled."""
    ref_logprobs: Tensor
    """(N, G, T) under the reference."""
    features: Tensor | None
    """(M, F) for the critic, unless it computes hidden states of its own."""
    trunk: Tensor | None
    """(N, S, H) output of the frozen lower layers, if they are left out of the updates."""


@dataclass
class Rollout:
    """What the updates need; every tensor but the last has the N prompts first, so that it splits into minibatches."""

    packed: PackedRows
    logprobs: Tensor
    """(N, G, T) under the policy that sampled."""
    advantages: Tensor
    """(N, G, T)."""
    trunk: Tensor | None
    """(N, S, H) output of the frozen lower layers, or None."""
    tokens_per_minibatch: Tensor
    """() completion tokens of an average minibatch, over all processes."""

    def as_dict(self) -> dict[str, Any]:
        """Flat dictionary, as TRL buffers, shuffles and splits it."""
        flat = {field.name: getattr(self.packed, field.name) for field in fields(PackedRows)}
        flat.update({field.name: getattr(self, field.name) for field in fields(self)[1:]})
        return flat

    @classmethod
    def from_dict(cls, flat: dict[str, Any]) -> "Rollout":
        """One minibatch back from TRL's buffer, without padding that none of its rows needs."""
        packed = PackedRows(**{field.name: flat[field.name] for field in fields(PackedRows)})[:]
        length, tokens = packed.input_ids.shape[1], packed.completion_ids.shape[2]
        trunk = flat["trunk"]
        return cls(
            packed,
            flat["logprobs"][:, :, :tokens],
            flat["advantages"][:, :, :tokens],
            None if trunk is None else trunk[:, :length],
            flat["tokens_per_minibatch"],
        )


def group_completions(
    prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], group: int, pad_token_id: int
) -> PackedRows:
    """Pack B completions, of which `group` neighbours each share a prompt, into N = B / group rows."""
    starts = range(0, len(prompts), group)
    return pack_rows([prompts[i] for i in starts], [completions[i : i + group] for i in starts], pad_token_id)


def pack_hidden(hidden: HiddenStates, packed: PackedRows) -> Tensor:
    """Lay activations from sampling out like the packed rows (N, S, H); 0 at padding and unread tokens.

    Args:
        hidden: of the N prompts and their G completions.
        packed: rows of the same.
    """
    segment, position = packed.segment_ids, packed.position_ids
    rows = torch.arange(len(segment), device=segment.device)[:, None]
    lengths = (segment == PROMPT).sum(1, keepdim=True)
    in_prompt = hidden.prompt[rows, (hidden.prompt.shape[1] - lengths + position).clamp(0, hidden.prompt.shape[1] - 1)]
    in_completion = hidden.completion[
        rows, (segment - 1).clamp(min=0), (position - lengths).clamp(0, hidden.completion.shape[2] - 1)
    ]
    states = torch.where((segment == PROMPT)[..., None], in_prompt, in_completion)
    return states.masked_fill((segment < PROMPT)[..., None], 0)


def score_rollout(
    policy: PreTrainedModel | PeftModel,
    reference: PreTrainedModel | None,
    packed: PackedRows,
    *,
    critic: Critic,
    trunk_depth: int,
    temperature: float,
    rows_at_a_time: int,
    known: Mapping[int, Tensor] | None = None,
) -> Scored:
    """Score completions under policy and reference by the same code, and read the critic's features on the way.

    Args:
        policy: the model that sampled; with adapters off it is the reference, unless one is given.
        reference: a model of its own, or None.
        packed: N rows.
        critic: says what it reads on the way.
        trunk_depth: number of frozen lower layers that the policy shares with the reference.
        temperature: what the logits are divided by.
        rows_at_a_time: rows of a forward pass.
        known: activations (N, S, H) after `trunk_depth` and the critic's layers, if sampling has left them: then
            only the layers above the trunk run. None computes them.

    Returns:
        Everything detached.
    """
    depths = [depth for depth in (critic.layer, trunk_depth) if depth]
    shape = packed.completion_mask.shape
    logprobs, ref_logprobs = torch.zeros(2, *shape, device=packed.input_ids.device).unbind()
    features: list[Tensor] = [torch.empty(0)] * shape[0]
    trunks: list[Tensor] = [torch.empty(0)] * shape[0]
    longest_first = (packed.segment_ids >= PROMPT).sum(1).argsort(descending=True)  # similar rows hold little padding
    for rows in longest_first.split(rows_at_a_time):
        part = packed[rows]
        tokens, length = part.completion_mask.shape[2], part.input_ids.shape[1]
        base = reference if reference is not None else policy
        adapters_off = policy.disable_adapter() if reference is None else nullcontext()
        below = None if known is None else known[trunk_depth][rows, :length]
        with adapters_off, record_hidden(base, depths, part) as hidden, replay_hidden(base, trunk_depth, below):
            ref_logprobs[rows, :, :tokens] = token_logprobs(base, part, temperature=temperature)[0]
        trunk = (hidden[trunk_depth] if below is None else below) if trunk_depth else None
        with replay_hidden(policy, trunk_depth, trunk), record_final(policy, critic.reads_policy, part) as final:
            logprobs[rows, :, :tokens] = token_logprobs(policy, part, temperature=temperature)[0]
        visited = hidden if known is None else {depth: states[rows, :length] for depth, states in known.items()}
        seen = critic.features(visited, final[-1] if final else None, part)
        for k, (row, count) in enumerate(zip(rows.tolist(), part.completion_mask.sum((1, 2)).tolist(), strict=True)):
            if seen is not None:
                features[row], seen = seen[:count], seen[count:]
            if trunk is not None:
                trunks[row] = nn.functional.pad(trunk[k], (0, 0, 0, packed.input_ids.shape[1] - length))
    return Scored(
        packed,
        logprobs,
        ref_logprobs,
        None if seen is None else torch.cat(features),
        torch.stack(trunks) if trunk_depth else None,
    )
