"""Completions of checkpoints behind an endpoint, cached like those of the others."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from rlgen.errors import ModelError, RewardError
from rlgen.evaluation.generations import CHUNK, Generated, Sampling, Store, content_hash
from rlgen.evaluation.remote import Remote
from rlgen.generation import Completion, Prompt
from rlgen.rewards.endpoint import Answer, Question


def sent_texts(prompts: Sequence[Prompt]) -> list[str]:
    """What is sent for each prompt, as text that tells prompts apart."""
    return [json.dumps(_question(prompt), ensure_ascii=False) for prompt in prompts]


def remote_warning(name: str, prompts: Sequence[Prompt]) -> str:
    """What a comparison with such a checkpoint cannot know."""
    plain = "; plain prompts are sent as the message of a user" if any(isinstance(p, str) for p in prompts) else ""
    return (
        f"checkpoint {name} is behind an endpoint: its chat template and weights are not seen, no KL, perplexity or "
        f"number of tokens is measured for it, and rewards that read completion_ids see none{plain}"
    )


def generate_remote(
    name: str,
    remote: Remote,
    prompts: Sequence[Prompt],
    samplings: Sequence[Sampling],
    store: Store,
    *,
    concurrency: int,
    retries: int = 3,
    backoff: float = 1.0,
    advance: Callable[[int], None],
) -> dict[str, Generated]:
    """Completions of a model behind an endpoint, of which only the missing ones are asked for.

    Every answer is kept as it comes, beside the store, so that a failure in mid-chunk loses none. Samples of a prompt
    differ by the field `seed` of their requests; endpoints that ignore it draw new ones anyway.

    Args:
        name: Of the checkpoint, for messages.
        remote: Where it is.
        prompts: Conversational prompts; a plain one is sent as the message of a user.
        samplings: How to draw.
        store: Where the checkpoint's completions are kept.
        concurrency: Requests under way at a time.
        retries: Further attempts of a request.
        backoff: Seconds before the first of them.
        advance: Told how many more completions are there.

    Returns:
        By name of the plan, the completions of all prompts, in order, without tokens: the endpoint's are not known.

    Raises:
        ModelError: The endpoint keeps failing, or its key is not set.
    """
    answers = store.path.with_suffix("")
    generated = {sampling.name: Generated([], [], 0.0) for sampling in samplings}
    for start in range(0, len(prompts), CHUNK):
        chunk = prompts[start : start + CHUNK]
        for sampling in samplings:
            key = content_hash([remote.fingerprint, asdict(sampling), start, sent_texts(chunk)])
            if store.get(key) is None:
                began = time.monotonic()
                try:
                    rows = _ask(remote, chunk, sampling, answers, concurrency, retries, backoff)
                except RewardError as error:
                    raise ModelError(
                        f"checkpoint {name}: {error}; what it has answered is kept: run the same command again"
                    ) from error
                store.put({key: [[asdict(sample) for sample in row] for row in rows]}, {key: time.monotonic() - began})
            known = store.get(key) or []
            answered = generated[sampling.name]
            answered.completions += [[Completion(**sample) for sample in row] for row in known]
            answered.keys.append(key)
            answered.seconds += store.seconds(key)
            advance(sum(map(len, known)))
    return generated


def _ask(
    remote: Remote,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    cache: Path,
    concurrency: int,
    retries: int,
    backoff: float,
) -> list[list[Completion]]:
    request = {"temperature": sampling.temperature, "max_tokens": sampling.max_new_tokens}
    questions: list[Question] = [_question(prompt) for prompt in prompts]
    samples = []
    for k in range(sampling.num_samples):
        endpoint = remote.endpoint(
            {**request, "seed": sampling.seed + k}, cache, concurrency=concurrency, retries=retries, backoff=backoff
        )
        samples.append([_completion(answer) for answer in asyncio.run(endpoint.ask(questions))])
    return [list(row) for row in zip(*samples, strict=True)]


def _question(prompt: Prompt) -> list[dict[str, str]]:
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    return [{"role": turn["role"], "content": turn["content"]} for turn in prompt]


def _completion(answer: Answer | RewardError) -> Completion:
    if isinstance(answer, RewardError):
        raise answer
    return Completion(answer.text, [], [], answer.finished)
