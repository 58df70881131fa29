"""How likely a checkpoint finds the references: mean negative log-probability per token, cached by chunks."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from rlgen.evaluation import generations
from rlgen.evaluation.generations import Loaded, Store, content_hash
from rlgen.evaluation.references import several
from rlgen.generation import Prompt, completion_logprobs

Likelihood = tuple[float, int] | None  # sum of log-probabilities and number of tokens; None without a reference


def reference_likelihoods(
    policy: Loaded,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    rendered: Sequence[str],
    references: Sequence[Any],
    store: Store,
    *,
    batch_size: int,
    advance: Callable[[int], None],
) -> list[Likelihood]:
    """Score every row's first reference, its end token included, given the prompt.

    Args:
        policy: The checkpoint; its model is loaded only if something is missing.
        tokenizer: Its tokenizer.
        prompts: Plain or conversational prompts.
        rendered: The same as the text that the model reads.
        references: One text, a list of texts, or None per prompt.
        store: Where the scores are kept.
        batch_size: References per batch.
        advance: Told how many more prompts are done.

    Returns:
        Per prompt, the sum of natural log-probabilities and the number of tokens; None without a reference.
    """
    texts = [several(reference)[0] if reference else None for reference in references]
    found: list[Likelihood] = []
    for start in range(0, len(prompts), generations.CHUNK):
        chunk = slice(start, start + generations.CHUNK)
        key = content_hash([policy.checkpoint.fingerprint, "reference", rendered[chunk], texts[chunk]])
        if store.get(key) is None:
            began = time.monotonic()
            given = [i for i, text in enumerate(texts[chunk], start) if text]
            ids = [[_token_ids(tokenizer, str(texts[i]))] for i in given]
            scored = (
                completion_logprobs(policy.model, tokenizer, [prompts[i] for i in given], ids, batch_size=batch_size)
                if given
                else []
            )
            by_row = {i: [round(sum(row[0]), 6), len(row[0])] for i, row in zip(given, scored, strict=True)}
            records = [by_row.get(i) for i in range(start, start + len(texts[chunk]))]
            store.put({key: records}, {key: time.monotonic() - began})
        records = store.get(key) or []
        found += [None if record is None else (float(record[0]), int(record[1])) for record in records]
        advance(len(records))
    return found


def _token_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Tokens of a reference as supervised training has them."""
    end = tokenizer.eos_token_id
    return [*tokenizer(text, add_special_tokens=False)["input_ids"], *([] if end is None else [int(end)])]
