"""A trained reward model as a reward function."""

import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftModel
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlgen.errors import RewardError
from rlgen.models import adapter_base, is_adapter, load_reward_model, load_tokenizer
from rlgen.scoring import pack_rows

if TYPE_CHECKING:
    from datasets import Dataset

# Written beside a reward model by its recipe: mean and standard deviation of its scores on training pairs.
STATISTICS = "reward_model.json"


class RewardModel:
    """Scores completions with a sequence classifier that has one output.

    Args:
        name_or_path: reward model folder (plain, or an adapter of task type SEQ_CLS) or hub id.
        standardize: subtract the mean and divide by the deviation that the folder records, so that scores of
            different reward models compare; None does so where they are recorded.
        batch_size: texts per forward pass.
        device: where the model runs; None for the accelerator, if there is one.
        max_length: longest text in tokens; longer ones lose their beginning. None takes what the model can read.
        model_options: passed on to `load_reward_model` (`dtype`, `trust_remote_code`).

    Raises:
        ModelError: the model cannot be loaded.
        RewardError: it has more than one output, or nothing to standardize with.
    """

    __name__ = "reward_model"

    def __init__(
        self,
        name_or_path: str,
        *,
        standardize: bool | None = None,
        batch_size: int = 16,
        device: str | torch.device | None = None,
        max_length: int | None = None,
        **model_options: Any,
    ) -> None:
        remote_code = bool(model_options.get("trust_remote_code", False))
        self.tokenizer = load_tokenizer(name_or_path, trust_remote_code=remote_code)
        self.model = prepare_for_scoring(_load(name_or_path, model_options), self.tokenizer)
        self.model.to(device or _default_device())
        if self.model.config.num_labels != 1:
            raise RewardError(f"reward model {name_or_path} has {self.model.config.num_labels} outputs; it needs one")
        self.batch_size = batch_size
        limit = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        self.max_length = max_length or limit
        self.mean, self.deviation = read_statistics(name_or_path, standardize)

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **_: Any) -> list[float]:
        """Score rows as the model saw them in training.

        Args:
            prompts: plain or conversational, one per row.
            completions: likewise.

        Returns:
            One score per row: in training standard deviations from the training mean where the folder records
            them, else the model's raw output.
        """
        texts = [token_ids(self.tokenizer, *row) for row in zip(prompts, completions, strict=True)]
        if self.max_length is not None:
            texts = [ids[-self.max_length :] for ids in texts]
        scores = score_texts(self.model, texts, batch_size=self.batch_size)
        return [(score - self.mean) / self.deviation for score in scores]

    def score_pairs(self, pairs: "Dataset") -> tuple[list[float], list[float]]:
        """Scores of the chosen and of the rejected texts of preference pairs.

        Args:
            pairs: rows with prompt, chosen and rejected.
        """
        # Side by side, the two texts of a pair share the work on their prompt.
        prompts = [prompt for prompt in pairs["prompt"] for _ in range(2)]
        texts = [text for pair in zip(pairs["chosen"], pairs["rejected"], strict=True) for text in pair]
        scores = self(prompts, texts)
        return scores[::2], scores[1::2]


def token_ids(tokenizer: PreTrainedTokenizerBase, prompt: Any, completion: Any) -> list[int]:
    """Tokens of one row exactly as TRL's RewardTrainer makes them.

    A conversational row goes through the chat template; a plain one is joined and ended with the eos token.
    """
    if isinstance(prompt, str):
        text = prompt + completion
        eos = str(tokenizer.eos_token)
        return list(tokenizer(text if text.endswith(eos) else text + eos)["input_ids"])
    messages = list(prompt) + list(completion)
    rendered: Any = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)
    return list(rendered["input_ids"])


def prepare_for_scoring(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """Evaluation mode, and the pad token by which a classifier finds each text's last token."""
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    model.train(False)
    return model


def score_texts(model: PreTrainedModel, texts: Sequence[list[int]], *, batch_size: int = 16) -> list[float]:
    """Score tokenized texts with a sequence classifier, in their order.

    Neighbouring texts that begin alike (the completions of one prompt) share the work on their beginning.

    Args:
        model: one output; see `prepare_for_scoring`.
        texts: token ids, none empty.
        batch_size: texts per forward pass.

    Returns:
        The raw outputs.
    """
    scores = [0.0] * len(texts)
    groups = _groups(texts, batch_size)
    # Sorted by length so that a batch holds little padding.
    groups.sort(key=lambda group: max(len(texts[index]) for index in group))
    while groups:
        batch = [groups.pop()]
        while groups and sum(map(len, batch)) + len(groups[-1]) <= batch_size:
            batch.append(groups.pop())
        order = [index for group in batch for index in group]
        for index, score in zip(
            order, _score_texts(model, [[texts[i] for i in group] for group in batch]), strict=True
        ):
            scores[index] = score
    return scores


def read_statistics(folder: str, standardize: bool | None = None) -> tuple[float, float]:
    """Mean and deviation to standardize with: (0, 1) where there are none to use.

    Raises:
        RewardError: they are asked for and not there, or unreadable.
    """
    file = Path(folder).expanduser() / STATISTICS
    if standardize is False or (standardize is None and not file.is_file()):
        return 0.0, 1.0
    try:
        recorded = json.loads(file.read_text())
        return float(recorded["mean"]), max(float(recorded["std"]), 1e-6)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RewardError(f"{file} does not hold a reward model's mean and std: {error}") from error


def _groups(texts: Sequence[list[int]], largest: int) -> list[list[int]]:
    """Indices of neighbouring texts that share at least half of their tokens with the first of their group."""
    groups: list[list[int]] = []
    for index, ids in enumerate(texts):
        open_group = bool(groups) and len(groups[-1]) < largest
        if open_group and 2 * len(_common_prefix([texts[groups[-1][0]], ids])) >= len(ids):
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


@torch.no_grad()
def _score_texts(model: PreTrainedModel, groups: list[list[list[int]]]) -> list[float]:
    """Scores of one batch of groups, flattened."""
    texts = [ids for group in groups for ids in group]
    scores = _score_packed(model, groups) if len(groups) < len(texts) else None
    if scores is None:
        ids, attention_mask = _pad_right(texts, _pad(model), model.device)
        scores = model(input_ids=ids, attention_mask=attention_mask).logits[:, 0]
    return [float(score) for score in scores.float()]


def _score_packed(model: PreTrainedModel, groups: list[list[list[int]]]) -> torch.Tensor | None:
    """Each group's common beginning goes through the model once; None where the model does not allow it.

    It takes a decoder that is told positions and honors a mask of ours, and a linear score of the last token.
    """
    head, decoder, kernel = getattr(model, "score", None), model.base_model, model.config._attn_implementation
    if not isinstance(head, torch.nn.Linear) or kernel not in ("sdpa", "eager"):
        return None
    if "position_ids" not in inspect.signature(decoder.forward).parameters:
        return None
    pad = _pad(model)
    # The classifier reads the last token that is no padding, so trailing pads (pad may be eos) play no part.
    groups = [[_without_trailing(ids, pad) for ids in group] for group in groups]
    prefixes = [_common_prefix(group)[: min(map(len, group)) - 1] for group in groups]
    if not all(prefixes):
        return None
    width = max(map(len, groups))
    rest = [
        [ids[len(prefix) :] for ids in group] + [[]] * (width - len(group))
        for group, prefix in zip(groups, prefixes, strict=True)
    ]
    packed = pack_rows(prefixes, rest, pad).to(model.device)
    hidden = decoder(
        input_ids=packed.input_ids,
        attention_mask=packed.attention_mask(kernel, model.dtype),
        position_ids=packed.position_ids,
        use_cache=False,
    ).last_hidden_state
    counts = packed.completion_mask.sum(2)
    lengths = torch.tensor([len(prefix) for prefix in prefixes], device=counts.device)
    last = lengths[:, None] + counts.cumsum(1) - 1
    rows, texts = counts.nonzero(as_tuple=True)
    scores: torch.Tensor = head(hidden[rows, last[rows, texts]])[:, 0]
    return scores


def _common_prefix(group: Sequence[list[int]]) -> list[int]:
    first, last = min(group), max(group)  # in lexical order all others lie between them
    for count, (left, right) in enumerate(zip(first, last, strict=False)):
        if left != right:
            return first[:count]
    return first


def _pad_right(texts: Sequence[Sequence[int]], pad: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, both (B, longest)."""
    ids = pad_sequence([torch.tensor(text) for text in texts], batch_first=True, padding_value=pad)
    mask = pad_sequence([torch.ones(len(text), dtype=torch.long) for text in texts], batch_first=True)
    return ids.to(device), mask.to(device)


def _pad(model: PreTrainedModel) -> int:
    return int(model.config.get_text_config().pad_token_id)


def _without_trailing(ids: list[int], pad: int) -> list[int]:
    end = len(ids)
    while end > 1 and ids[end - 1] == pad:
        end -= 1
    return ids[:end]


def _load(name_or_path: str, options: dict[str, Any]) -> PreTrainedModel:
    if not is_adapter(name_or_path):
        return load_reward_model(name_or_path, **options)
    base = load_reward_model(adapter_base(name_or_path), **options)
    merged: PreTrainedModel = PeftModel.from_pretrained(base, name_or_path).merge_and_unload()
    return merged


def _default_device() -> torch.device:
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return accelerator or torch.device("cpu")
