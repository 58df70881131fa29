"""One checkpoint's answers token by token: log-probabilities under several checkpoints, KL, value, advantage."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from rlgen.data import prompt_text, row_hashes
from rlgen.errors import ConfigError
from rlgen.evaluation.checkpoints import Checkpoint
from rlgen.evaluation.formats import template
from rlgen.evaluation.generations import loaded, read_tokenizers, vocabulary_hash
from rlgen.evaluation.results import number
from rlgen.generation import Completion, completion_logprobs, generate, render_prompts
from rlgen.ppo.advantages import gae, token_rewards
from rlgen.ppo.config import PPOConfig
from rlgen.ppo.critic import completion_values, load_critic
from rlgen.runs import report_progress, write_atomic

SCHEMA_VERSION = 1
PUSHED = 3  # tokens that the page names in each direction

# Rewards of answers: prompts, texts and further columns, the answers' tokens among them, to one number or None each
RewardOf = Callable[[Sequence[Any], Sequence[str], Mapping[str, list[Any]]], list[float | None]]


@dataclass(frozen=True)
class Shaping:
    """How rewards become advantages; the settings of PPO.

    Args:
        kl_coef: Weight of the KL penalty of every token.
        gamma: Discount factor.
        lam: Lambda of generalised advantage estimation.
    """

    kl_coef: float = PPOConfig.kl_coef
    gamma: float = PPOConfig.gamma
    lam: float = PPOConfig.lam


def shaping_of(checkpoint: Checkpoint) -> Shaping:
    """The settings that a PPO run was trained with; PPO's defaults for any other checkpoint."""
    for run in checkpoint.runs[:1]:
        record = json.loads((Path(run) / "run.json").read_text(encoding="utf-8"))
        if record.get("stage") == "ppo":
            known = record.get("config", {})
            return Shaping(**{key: known[key] for key in asdict(Shaping()) if known.get(key) is not None})
    return Shaping()


def token_view(
    checkpoints: Sequence[Checkpoint],
    rows: Dataset,
    *,
    author: str,
    reference: str,
    max_new_tokens: int,
    shaping: Shaping | None = None,
    critic: str | Path | None = None,
    reward_of: RewardOf | None = None,
) -> dict[str, Any]:
    """Let one checkpoint answer, greedily, and ask all of them what they think of each of its tokens.

    Args:
        checkpoints: With one vocabulary and one chat template. Each is loaded alone and freed.
        rows: Rows with `prompt`.
        author: Name of the checkpoint that answers.
        reference: Name of the checkpoint that the KL contributions refer to.
        max_new_tokens: Length limit of an answer.
        shaping: Settings of the advantages; None for those of PPO.
        critic: Folder of the author's critic, for values; None for none.
        reward_of: Rewards of the answers; with a critic they make advantages.

    Returns:
        What tokens.json holds, see docs/results.md.

    Raises:
        ConfigError: A name is unknown, or the checkpoints do not read the same tokens.
    """
    by_name = {checkpoint.name: checkpoint for checkpoint in checkpoints}
    for flag, name in (("author", author), ("reference", reference)):
        if name not in by_name:
            raise ConfigError(f"--{flag} {name}: no checkpoint has that name ({', '.join(by_name)})")
    tokenizers = read_tokenizers(checkpoints)
    prompts = list(rows["prompt"])
    _check_same_tokens(tokenizers, prompts, author)
    answers, logprobs, values = _ask(by_name, tokenizers, prompts, author, max_new_tokens, critic)
    shaping = shaping or Shaping()
    columns = {name: list(rows[name]) for name in rows.column_names if name not in ("prompt", "completion")}
    columns |= {"completion_ids": [answer.token_ids for answer in answers]}
    columns |= {"finished": [answer.finished for answer in answers]}
    texts = [answer.text for answer in answers]
    rewards = reward_of(prompts, texts, columns) if reward_of else [None] * len(prompts)
    return {
        "schema_version": SCHEMA_VERSION,
        "author": author,
        "reference": reference,
        "checkpoints": [
            {"name": checkpoint.name, "path": checkpoint.path, "fingerprint": checkpoint.fingerprint}
            for checkpoint in checkpoints
        ],
        "max_new_tokens": max_new_tokens,
        "critic": None if critic is None else str(critic),
        **asdict(shaping),
        "rows": [
            {
                "id": row_id,
                "prompt": prompt_text(prompts[i]),
                "text": answers[i].text,
                "finished": answers[i].finished,
                "reward": None if rewards[i] is None else number(float(rewards[i] or 0.0)),
                **_tokens(
                    token_texts(tokenizers[author], answers[i].token_ids),
                    answers[i].token_ids,
                    {name: logprobs[name][i] for name in by_name},
                    (author, reference),
                    values[i] if values else None,
                    rewards[i],
                    shaping,
                ),
            }
            for i, row_id in enumerate(row_hashes(rows))
        ],
    }


def _ask(
    checkpoints: Mapping[str, Checkpoint],
    tokenizers: Mapping[str, PreTrainedTokenizerBase],
    prompts: Sequence[Any],
    author: str,
    max_new_tokens: int,
    critic: str | Path | None,
) -> tuple[list[Completion], dict[str, list[list[float]]], list[list[float]] | None]:
    """The author's answers; per checkpoint the log-probabilities of their tokens; the critic's values of them."""
    order = [author, *(name for name in checkpoints if name != author)]
    logprobs: dict[str, list[list[float]]] = {}
    answers: list[Completion] = []
    values = None
    for done, name in enumerate(order):
        with loaded(checkpoints[name]) as policy:
            if name == author:
                written = generate(
                    policy.model,
                    tokenizers[name],
                    prompts,
                    max_new_tokens=max_new_tokens,
                    temperature=0.0,
                    batch_size=8,
                )
                answers = [samples[0] for samples in written]
            ids = [[answer.token_ids] for answer in answers]
            scored = completion_logprobs(policy.model, tokenizers[name], prompts, ids)
            logprobs[name] = [samples[0] for samples in scored]
            if name == author and critic is not None:
                # After the scoring: some critics put an adapter of their own into the model.
                judged = load_critic(critic, policy.model)  # type: ignore[arg-type]
                values = completion_values(judged, tokenizers[name], prompts, [answer.token_ids for answer in answers])
        report_progress("tokens", done + 1, len(order))
    return answers, logprobs, values


def advantages(
    log_ratios: Sequence[float], values: Sequence[float], reward: float, shaping: Shaping
) -> tuple[list[float], list[float]]:
    """Rewards of the tokens of one answer, and their advantages, before whitening.

    Args:
        log_ratios: Per token, log p(author) - log p(reference).
        values: Per token, the critic's value of the state before it.
        reward: Of the whole answer; it arrives at the last token.
        shaping: Weight of the KL penalty, gamma and lambda.

    Returns:
        One reward and one advantage a token.

    Source: Ziegler et al. 2019, arXiv 1909.08593, section 2.2; Schulman et al. 2016, arXiv 1506.02438, equation 16.
    """
    mask = torch.ones(1, len(log_ratios), dtype=torch.bool)
    kl = torch.tensor([log_ratios], dtype=torch.float64)
    given = token_rewards(torch.tensor([reward], dtype=torch.float64), kl, mask, shaping.kl_coef)
    found, _ = gae(given, torch.tensor([values], dtype=torch.float64), mask, shaping.gamma, shaping.lam)
    return given[0].tolist(), found[0].tolist()


def token_texts(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int]) -> list[str]:
    """Text of each token such that all together are the text of the sequence.

    A token that ends within a character has the empty text; the one that completes the character has it whole. Special
    tokens are shown.
    """
    texts, before = [], ""
    for end in range(1, len(token_ids) + 1):
        text = tokenizer.decode(list(token_ids[:end]), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        incomplete = text.endswith("\ufffd") and end < len(token_ids)
        texts.append("" if incomplete else text[len(before) :])
        before = before if incomplete else text
    return texts


def write_tokens(folder: str | Path, view: Mapping[str, Any]) -> Path:
    """Write `tokens.json` and `tokens.html`; returns the path of the page."""
    page = Path(folder) / "tokens.html"
    write_atomic(Path(folder) / "tokens.json", json.dumps(view, indent=1, ensure_ascii=False) + "\n")
    write_atomic(page, render_tokens(view))
    return page


def render_tokens(view: Mapping[str, Any]) -> str:
    """The page as text; everything that a model or a user wrote is escaped."""
    everything = [token for row in view["rows"] for token in row["tokens"]]
    shades = {
        "kl": f"what {view['author']} made likelier or unlikelier than {view['reference']} (KL contribution)",
        "value": "the critic's value of the state before the token",
        "advantage": "the token's advantage",
    }
    shades = {key: text for key, text in shades.items() if any(token[key] is not None for token in everything)}
    largest = {key: max((abs(token[key] or 0.0) for token in everything), default=0.0) or 1.0 for key in shades}
    return template("tokens.html.j2").render(
        view=view,
        names=[checkpoint["name"] for checkpoint in view["checkpoints"]],
        shades=shades,
        largest=largest,
        pushed={row["id"]: _pushed(row["tokens"]) for row in view["rows"]},
    )


def _check_same_tokens(tokenizers: Mapping[str, PreTrainedTokenizerBase], prompts: Sequence[Any], author: str) -> None:
    """A log-probability under another vocabulary, or after another text, is about another event."""
    rendered = render_prompts(tokenizers[author], prompts)
    for name, tokenizer in tokenizers.items():
        if vocabulary_hash(tokenizer) != vocabulary_hash(tokenizers[author]):
            raise ConfigError(
                f"checkpoints {author} and {name} have different vocabularies: their probabilities of a token do not "
                "compare; leave one out"
            )
        if render_prompts(tokenizer, prompts) != rendered:
            raise ConfigError(
                f"checkpoints {author} and {name} do not see the same text: their chat templates differ; give both "
                "the same one"
            )


def _tokens(
    texts: Sequence[str],
    ids: Sequence[int],
    logprobs: Mapping[str, Sequence[float]],
    pair: tuple[str, str],
    values: Sequence[float] | None,
    reward: float | None,
    shaping: Shaping,
) -> dict[str, Any]:
    """The tokens of one answer, and the sum of their KL contributions."""
    author, reference = pair
    kl = [own - theirs for own, theirs in zip(logprobs[author], logprobs[reference], strict=True)]
    given: Sequence[float | None] = [None] * len(ids)
    found: Sequence[float | None] = [None] * len(ids)
    if values is not None and reward is not None:
        given, found = advantages(kl, values, reward, shaping)
    rounded = [
        {
            "text": text,
            "id": int(token),
            "logprobs": {name: number(numbers[t]) for name, numbers in logprobs.items()},
            "kl": number(kl[t]),
            "value": None if values is None else number(values[t]),
            "reward": _number(given[t]),
            "advantage": _number(found[t]),
        }
        for t, (text, token) in enumerate(zip(texts, ids, strict=True))
    ]
    return {"kl": number(sum(kl)), "tokens": rounded}


def _number(value: float | None) -> float | None:
    return None if value is None else number(value)


def _pushed(tokens: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """The texts of the tokens whose probability rose and fell most."""
    ranked = sorted((token for token in tokens if token["kl"] is not None), key=lambda token: -token["kl"])
    return {
        "up": [token["text"] for token in ranked[:PUSHED] if token["kl"] > 0],
        "down": [token["text"] for token in ranked[::-1][:PUSHED] if token["kl"] < 0],
    }
