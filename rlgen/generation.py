"""Sample completions of prompts and score given ones: what preference pairs and comparisons are made of."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from rlgen.decoding import sample
from rlgen.errors import DataError
from rlgen.runs import report_progress
from rlgen.scoring import pack_rows, token_logprobs, unwrapped
from rlgen.sharing import can_share_prompts, read_prefix

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
    temperature: float | Sequence[float] = 1.0,
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
        temperature: 0 for the most likely token at each step; or one number for each completion of a prompt.
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
        sampled = sample(
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
        for k, (completion, logps) in enumerate(zip(sampled.tokens, sampled.logprobs, strict=True)):
            text = tokenizer.decode(completion, skip_special_tokens=True)
            results[batch[k // num_generations]].append(Completion(text, completion, logps, completion[-1] in eos))
        if progress_name:
            report_progress(progress_name, start + len(batch), len(order))
    return results


def completion_logprobs(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    completions_token_ids: Sequence[Sequence[Sequence[int]]],
    *,
    batch_size: int = 16,
    temperature: float | Sequence[float] = 1.0,
    max_prompt_tokens: int | None = None,
) -> list[list[list[float]]]:
    """Natural log-probability of each token of given completions; a prompt is read once for its G completions.

    Args:
        model: causal language model.
        tokenizer: its tokenizer.
        prompts: conversational or plain.
        completions_token_ids: for each prompt, the tokens of its G completions.
        batch_size: completions at a time.
        temperature: what the logits are divided by; or one number for each of the G completions.
        max_prompt_tokens: longer prompts lose their beginning.

    Returns:
        For each prompt and each of its completions, one number a token.
    """
    ids = tokenize_prompts(tokenizer, prompts, max_prompt_tokens)
    count = len(completions_token_ids[0]) if ids else 1
    temperatures = [temperature] * count if isinstance(temperature, int | float) else list(temperature)
    inner = unwrapped(model)
    device = next(model.parameters()).device
    # The completions that stand in one row: all of a prompt's, or each by itself.
    together = [list(range(count))] if can_share_prompts(inner) else [[g] for g in range(count)]
    rows = list(itertools.product(range(len(ids)), together))
    rows.sort(key=lambda row: len(ids[row[0]]) + sum(len(completions_token_ids[row[0]][g]) for g in row[1]))
    prefix = read_prefix(inner, ids)
    results: list[list[list[float]]] = [[[] for _ in range(count)] for _ in ids]
    at_a_time = max(batch_size // len(together[0]), 1)
    for start in range(0, len(rows), at_a_time):
        batch = rows[start : start + at_a_time]
        packed = pack_rows(
            [ids[i][prefix.length :] for i, _ in batch],
            [[completions_token_ids[i][g] for g in group] for i, group in batch],
            int(tokenizer.pad_token_id),
        ).to(device)
        heat = torch.tensor([[temperatures[g] for g in group] for _, group in batch], device=device)
        with torch.inference_mode():
            logprobs, _ = token_logprobs(
                model, packed, temperature=heat if len(set(temperatures)) > 1 else temperatures[0], prefix=prefix
            )
        for row, (i, group) in enumerate(batch):
            for k, g in enumerate(group):
                results[i][g] = logprobs[row, k][packed.completion_mask[row, k]].tolist()
    return results


def eos_token_ids(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Every token that ends a completion: the tokenizer's eos and those of the model's generation settings."""
    config = getattr(model, "generation_config", None)
    declared = getattr(config, "eos_token_id", None)
    ids = {int(tokenizer.eos_token_id)} if tokenizer.eos_token_id is not None else set()
    ids.update([declared] if isinstance(declared, int) else declared or [])
    return sorted(ids)
