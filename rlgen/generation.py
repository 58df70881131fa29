"""Sample completions and score given ones: the decoding loop behind rollouts, preference pairs and comparisons."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedTokenizerBase
from transformers.generation import TopPLogitsWarper

from rlgen.errors import DataError
from rlgen.runs import report_progress
from rlgen.scoring import pack_rows, token_logprobs

Prompt = str | list[dict[str, str]]


@dataclass(frozen=True)
class Completion:
    """One sampled answer."""

    text: str
    token_ids: list[int]
    """With the eos token, if it came."""
    logprobs: list[float]
    """Natural log-probability of each token under the distribution before top-k, top-p and min-p."""
    finished: bool
    """Whether it ended with an eos token, not at the length limit."""


def render_prompts(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt]) -> list[str]:
    """Prompts as the text that the model reads: messages through the chat template, plain strings as they are.

    Raises:
        DataError: messages, but the tokenizer has no chat template.
    """
    rendered = []
    for prompt in prompts:
        if isinstance(prompt, str):
            rendered.append(prompt)
            continue
        if not tokenizer.chat_template:
            raise DataError(
                "the prompts are chat messages, but the tokenizer has no chat template; give plain text prompts, or "
                "a model with a chat template"
            )
        rendered.append(tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True))
    return rendered


def tokenize_prompts(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], max_prompt_tokens: int | None = None
) -> list[list[int]]:
    """Token ids of the rendered prompts, the last `max_prompt_tokens` of each.

    Raises:
        DataError: a prompt without any token.
    """
    ids = []
    for prompt, text in zip(prompts, render_prompts(tokenizer, prompts), strict=True):
        tokens = tokenizer(text, add_special_tokens=isinstance(prompt, str))["input_ids"]
        if not tokens:
            raise DataError("a prompt is empty; remove that row")
        ids.append(tokens[-max_prompt_tokens:] if max_prompt_tokens else tokens)
    return ids


def generate(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    num_generations: int = 1,
    batch_size: int = 16,
    seed: int = 0,
    max_prompt_tokens: int | None = None,
    progress_name: str | None = None,
) -> list[list[Completion]]:
    """Sample completions for prompts, in batches of similar length.

    Args:
        model: causal language model.
        tokenizer: its tokenizer.
        prompts: conversational or plain.
        max_new_tokens: length limit in tokens.
        temperature: 0 for the most likely token at each step.
        top_p: nucleus sampling.
        num_generations: completions a prompt.
        batch_size: prompts at a time.
        seed: of the sampling.
        max_prompt_tokens: longer prompts lose their beginning.
        progress_name: report progress under this name.

    Returns:
        For each prompt, in order, its completions.
    """
    ids = tokenize_prompts(tokenizer, prompts, max_prompt_tokens)
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    generator = torch.Generator(device=next(model.parameters()).device).manual_seed(seed)
    eos = eos_token_ids(model, tokenizer)
    results: list[list[Completion]] = [[] for _ in ids]
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        tokens, logprobs = sample(
            model,
            [ids[i] for i in batch],
            num_generations=num_generations,
            max_new_tokens=max_new_tokens,
            eos_token_ids=eos,
            pad_token_id=int(tokenizer.pad_token_id),
            temperature=temperature,
            top_p=top_p,
            generator=generator,
        )
        for k, (completion, logps) in enumerate(zip(tokens, logprobs, strict=True)):
            text = tokenizer.decode(completion, skip_special_tokens=True)
            results[batch[k // num_generations]].append(Completion(text, completion, logps, completion[-1] in eos))
        if progress_name:
            report_progress(progress_name, start + len(batch), len(order))
    return results


def completion_logprobs(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    completions_token_ids: Sequence[Sequence[int]],
    *,
    batch_size: int = 16,
    temperature: float = 1.0,
    max_prompt_tokens: int | None = None,
) -> list[list[float]]:
    """Natural log-probability of each token of one given completion a prompt.

    Args:
        model: causal language model.
        tokenizer: its tokenizer.
        prompts: conversational or plain.
        completions_token_ids: tokens of the completion of each prompt.
        batch_size: rows at a time.
        temperature: what the logits are divided by.
        max_prompt_tokens: longer prompts lose their beginning.

    Returns:
        One list a completion, as long as it has tokens.
    """
    ids = tokenize_prompts(tokenizer, prompts, max_prompt_tokens)
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]) + len(completions_token_ids[i]))
    device = next(model.parameters()).device
    results: list[list[float]] = [[] for _ in ids]
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        packed = pack_rows(
            [ids[i] for i in batch], [[completions_token_ids[i]] for i in batch], int(tokenizer.pad_token_id)
        ).to(device)
        with torch.inference_mode():
            logprobs, _ = token_logprobs(model, packed, temperature=temperature)
        for k, i in enumerate(batch):
            results[i] = logprobs[k, 0][packed.completion_mask[k, 0]].tolist()
    return results


def eos_token_ids(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Every token that ends a completion: the tokenizer's eos and those of the model's generation settings."""
    config = getattr(model, "generation_config", None)
    declared = getattr(config, "eos_token_id", None)
    ids = {int(tokenizer.eos_token_id)} if tokenizer.eos_token_id is not None else set()
    ids.update([declared] if isinstance(declared, int) else declared or [])
    return sorted(ids)


@torch.no_grad()
def sample(
    model: nn.Module,
    prompt_ids: Sequence[Sequence[int]],
    *,
    num_generations: int,
    max_new_tokens: int,
    eos_token_ids: Sequence[int],
    pad_token_id: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
) -> tuple[list[list[int]], list[list[float]]]:
    """Decode one batch: each prompt is read once for all its completions, finished rows leave the batch.

    Args:
        model: causal language model with a dynamic key-value cache.
        prompt_ids: B lists of token ids.
        num_generations: completions a prompt, G.
        max_new_tokens: length limit in tokens.
        eos_token_ids: tokens that end a completion.
        pad_token_id: fills short prompts on the left.
        temperature: 0 for the most likely token at each step.
        top_p: nucleus sampling; 1 for all tokens.
        generator: source of randomness; None for torch's global one.

    Returns:
        B * G token lists, a prompt's completions side by side, and the log-probabilities of their tokens.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    longest = max(map(len, prompt_ids))
    input_ids = torch.full((len(prompt_ids), longest), pad_token_id, device=device)
    attention_mask = torch.zeros_like(input_ids)
    for i, ids in enumerate(prompt_ids):
        input_ids[i, longest - len(ids) :] = torch.tensor(ids, device=device)
        attention_mask[i, longest - len(ids) :] = 1
    position_ids = (attention_mask.cumsum(1) - 1).clamp(min=0)

    cache = DynamicCache(config=model.config)
    step: dict[str, Any] = {"past_key_values": cache, "use_cache": True, "logits_to_keep": 1}
    logits = model(input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, **step).logits
    if num_generations > 1:
        cache.batch_repeat_interleave(num_generations)
    logits = logits[:, -1].repeat_interleave(num_generations, 0)
    attention_mask = attention_mask.repeat_interleave(num_generations, 0)
    positions = position_ids[:, -1:].repeat_interleave(num_generations, 0)

    nucleus = TopPLogitsWarper(top_p) if top_p < 1 else None
    ends = torch.tensor(list(eos_token_ids), device=device)
    alive = torch.arange(len(prompt_ids) * num_generations, device=device)
    tokens: list[list[int]] = [[] for _ in alive]
    logprobs: list[list[float]] = [[] for _ in alive]
    for count in range(1, max_new_tokens + 1):
        chosen, logps = _choose(logits, temperature, nucleus, generator)
        for row, token, logp in zip(alive.tolist(), chosen.tolist(), logps.tolist(), strict=True):
            tokens[row].append(token)
            logprobs[row].append(logp)
        going = ~torch.isin(chosen, ends)
        if count == max_new_tokens or not going.any():
            break
        if not going.all():
            kept = going.nonzero()[:, 0]
            cache.batch_select_indices(kept)
            alive, chosen = alive[kept], chosen[kept]
            attention_mask, positions = attention_mask[kept], positions[kept]
        attention_mask = torch.cat([attention_mask, attention_mask.new_ones(len(alive), 1)], 1)
        positions = positions + 1
        logits = model(
            input_ids=chosen[:, None], attention_mask=attention_mask, position_ids=positions, **step
        ).logits[:, -1]
    model.train(was_training)
    return tokens, logprobs


def _choose(
    logits: Tensor, temperature: float, nucleus: TopPLogitsWarper | None, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Next tokens (B,) and their log-probabilities (B,) from logits (B, V)."""
    logprobs = (logits.float() / (temperature or 1.0)).log_softmax(-1)
    if temperature == 0:
        chosen = logprobs.argmax(-1)
    else:
        scores = nucleus(None, logprobs) if nucleus else logprobs
        # Inverse of the cumulative distribution: several times faster than torch.multinomial on a CPU.
        cumulative = scores.softmax(-1).cumsum(-1)
        draw = torch.rand(len(logits), 1, device=logits.device, generator=generator) * cumulative[:, -1:]
        chosen = torch.searchsorted(cumulative, draw, right=True)[:, 0].clamp(max=logits.shape[-1] - 1)
    return chosen, logprobs.gather(1, chosen[:, None])[:, 0]
