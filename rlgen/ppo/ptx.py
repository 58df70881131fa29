"""PPO-ptx: rows of text that the policy keeps learning to write while it is trained on rewards.

Source: Ouyang et al. 2022, arXiv 2203.02155, equation 2: the gradient of gamma * E[log pi(x)] over other data, there
pretraining text, is added to that of PPO against forgetting.
"""

import functools
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from datasets import Dataset
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from rlgen.errors import DataError
from rlgen.ppo.config import PPOConfig
from rlgen.ppo.losses import language_model_loss
from rlgen.scoring import PackedRows, pack_rows, token_logprobs

logger = logging.getLogger(__name__)


class PTX:
    """Prompt and completion rows in an order that depends on nothing but the seed and the step, and their loss.

    No state is kept, so that a resumed run reads the rows that the straight one would have read. Each pass over the
    rows has an order of its own.

    Args:
        rows: with `prompt` and `completion`, both plain text or both chat messages.
        tokenizer: the policy's.
        args: PPO's settings: the `ptx_` ones, the seed and the number of accumulated minibatches.
        accelerator: the processes, each of which reads rows of its own.
        eos_token_ids: tokens that end a completion.
        chat_template_kwargs: further arguments of the chat template, those of the rollouts' prompts.

    Raises:
        DataError: a row without prompt or of two kinds, or no row that is short enough.
    """

    def __init__(
        self,
        rows: Dataset,
        tokenizer: PreTrainedTokenizerBase,
        args: PPOConfig,
        accelerator: Accelerator,
        eos_token_ids: Sequence[int],
        chat_template_kwargs: Mapping[str, Any],
    ) -> None:
        pairs = []
        for index, row in enumerate(rows):
            prompt, completion = _texts(row, index, tokenizer, chat_template_kwargs)
            prompt_ids = tokenizer(prompt, add_special_tokens=isinstance(row["prompt"], str))["input_ids"]
            if not prompt_ids:
                raise DataError(f"row {index} of the ptx rows has an empty prompt; remove it")
            completion_ids = tokenizer(completion, add_special_tokens=False)["input_ids"]
            completion_ids = _ended(completion_ids, eos_token_ids, tokenizer.eos_token_id)
            pairs.append((prompt_ids, completion_ids[: max(args.ptx_max_length - len(prompt_ids), 0)]))
        self.pairs = [pair for pair in pairs if pair[1]]
        if not self.pairs:
            raise DataError(f"no ptx row has a prompt shorter than ptx_max_length = {args.ptx_max_length}; raise it")
        if len(self.pairs) < len(pairs):
            logger.warning(
                "%d of %d ptx rows are left out: their prompts have ptx_max_length = %d tokens or more",
                *(len(pairs) - len(self.pairs), len(pairs), args.ptx_max_length),
            )
        self.args = args
        self.accelerator = accelerator
        self.pad_token_id = int(tokenizer.pad_token_id)
        self._order = functools.lru_cache(maxsize=2)(functools.partial(_order, len(self.pairs), args.seed))

    def loss(self, model: nn.Module, update: int, part: int) -> tuple[Tensor, float]:
        """The weighted cross-entropy of a minibatch's rows, so scaled that an update's add up to `ptx_coef` * mean.

        Args:
            model: the policy, all of whose layers run.
            update: optimizer steps before this one.
            part: which of its accumulated minibatches.

        Returns:
            The loss, a scalar with gradient; and the mean cross-entropy of these rows in nats a token.
        """
        packed, tokens = self.minibatch(update, part)
        packed = packed.to(self.accelerator.device)
        logprobs, _ = token_logprobs(model, packed)
        keep = packed.completion_mask
        # Gradients are averaged over processes and added up over the minibatches of an update.
        loss = language_model_loss(logprobs, keep, tokens / self.accelerator.num_processes)
        return self.args.ptx_coef * loss, float(language_model_loss(logprobs.detach(), keep, int(keep.sum())))

    def minibatch(self, update: int, part: int) -> tuple[PackedRows, int]:
        """Rows of a minibatch on this process, and the completion tokens of the whole update on all processes."""
        size = self.args.ptx_batch_size
        share = size * self.accelerator.num_processes
        count = share * self.args.gradient_accumulation_steps
        pairs = [self._pair(update * count + place) for place in range(count)]
        start = part * share + size * self.accelerator.process_index
        prompts, completions = zip(*pairs[start : start + size], strict=True)
        packed = pack_rows(prompts, [[completion] for completion in completions], self.pad_token_id)
        return packed, sum(len(completion) for _, completion in pairs)

    def _pair(self, position: int) -> tuple[list[int], list[int]]:
        """The row at a place in the endless sequence of passes."""
        turn, place = divmod(position, len(self.pairs))
        return self.pairs[self._order(turn)[place]]


def _order(count: int, seed: int, turn: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed * 1_000_003 + turn)
    order: list[int] = torch.randperm(count, generator=generator).tolist()
    return order


def _ended(ids: Sequence[int], eos_token_ids: Sequence[int], default: int) -> list[int]:
    """The tokens up to the first that ends a completion, or to a default one, as the policy would sample them."""
    for place, token in enumerate(ids):
        if token in eos_token_ids:
            return list(ids[: place + 1])
    return [*ids, default]


def _texts(
    row: Mapping[str, Any], index: int, tokenizer: PreTrainedTokenizerBase, options: Mapping[str, Any]
) -> tuple[str, str]:
    """Prompt and completion as text: plain ones as they are, messages through the chat template."""
    prompt, completion = row["prompt"], row["completion"]
    if isinstance(prompt, str) and isinstance(completion, str):
        return prompt, completion
    if isinstance(prompt, str) or isinstance(completion, str):
        raise DataError(f"row {index} of the ptx rows mixes plain text and chat messages; use one of them")
    if not tokenizer.chat_template:
        raise DataError("the ptx rows are chat messages, but the tokenizer has no chat template; give plain text")
    rendered = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True, **options)
    whole = tokenizer.apply_chat_template([*prompt, *completion], tokenize=False, **options)
    if not whole.startswith(rendered):
        raise DataError(
            f"the chat template writes the prompt of ptx row {index} differently once an answer follows; "
            "give plain text"
        )
    return rendered, whole[len(rendered) :]
