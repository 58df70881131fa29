"""A rollout and its scoring: log-probabilities under policy and reference, features for the critic.

Letters for shapes: N prompts, G completions a prompt, T completion tokens, S tokens of a packed row, M completion
tokens in all, H hidden size, F features.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlgen.ppo.critic import Critic
from rlgen.ppo.trunk import record_final, record_hidden, replay_hidden
from rlgen.scoring import PackedRows, pack_rows, token_logprobs


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


def score_rollout(
    policy: PreTrainedModel | PeftModel,
    reference: PreTrainedModel | None,
    packed: PackedRows,
    *,
    critic: Critic,
    trunk_depth: int,
    temperature: float,
    rows_at_a_time: int,
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

    Returns:
        Everything detached.
    """
    depths = [depth for depth in (critic.layer, trunk_depth) if depth]
    shape = packed.completion_mask.shape
    logprobs, ref_logprobs = torch.zeros(2, *shape, device=packed.input_ids.device).unbind()
    features, trunks = [], []
    for start in range(0, shape[0], rows_at_a_time):
        rows = slice(start, start + rows_at_a_time)
        part = packed[rows]
        tokens, length = part.completion_mask.shape[2], part.input_ids.shape[1]
        base = reference if reference is not None else policy
        adapters_off = policy.disable_adapter() if reference is None else nullcontext()
        with adapters_off, record_hidden(base, depths) as hidden:
            ref_logprobs[rows, :, :tokens] = token_logprobs(base, part, temperature=temperature)[0]
        trunk = hidden.get(trunk_depth) if trunk_depth else None
        with replay_hidden(policy, trunk_depth, trunk), record_final(policy, critic.reads_policy) as final:
            logprobs[rows, :, :tokens] = token_logprobs(policy, part, temperature=temperature)[0]
        features.append(critic.features(hidden, final[-1] if final else None, part))
        if trunk is not None:
            trunks.append(nn.functional.pad(trunk, (0, 0, 0, packed.input_ids.shape[1] - length)))
    read = [part for part in features if part is not None]
    return Scored(
        packed,
        logprobs,
        ref_logprobs,
        torch.cat(read) if read else None,
        torch.cat(trunks) if trunks else None,
    )
