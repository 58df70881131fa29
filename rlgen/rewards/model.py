"""A trained reward model as a reward function."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftModel
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from reward_models._text import completion_text
from rlgen.data import prompt_text
from rlgen.errors import RewardError
from rlgen.models import adapter_base, can_merge, is_adapter, load_reward_model, load_tokenizer
from rlgen.scoring import pack_rows
from rlgen.sharing import Prefix, can_share_prompts, common_length, read_prefix

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
        max_length: longest text in tokens; longer ones lose their beginning, with an encoder the beginning of their
            prompt. None takes what the model can read.
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
        self.name_or_path = name_or_path
        remote_code = bool(model_options.get("trust_remote_code", False))
        self.tokenizer = load_tokenizer(name_or_path, trust_remote_code=remote_code, needs_eos=False)
        self.model = prepare_for_scoring(_load(name_or_path, model_options), self.tokenizer)
        self.model.to(device or default_device())
        if self.model.config.num_labels != 1:
            raise RewardError(f"reward model {name_or_path} has {self.model.config.num_labels} outputs; it needs one")
        self.batch_size = batch_size
        self.max_length = max_length or longest_text(self.model, self.tokenizer)
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
        texts = self.tokenized(prompts, completions)
        scores = score_texts(self.model, texts, batch_size=self.batch_size)
        return [(score - self.mean) / self.deviation for score in scores]

    def tokenized(self, prompts: Sequence[Any], completions: Sequence[Any]) -> list[list[int]]:
        """Tokens of the rows, none longer than the model can read."""
        rows = zip(prompts, completions, strict=True)
        return [token_ids(self.tokenizer, *row, max_length=self.max_length) for row in rows]

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


def load_model_reward(
    name_or_path: str, *, aggregate: str = "mean", uncertainty_coef: float = 0.5, **options: Any
) -> RewardModel:
    """A trained reward model, or an ensemble of them, from its folder.

    Args:
        name_or_path: folder or hub id.
        aggregate: how an ensemble's members become one score, see `RewardEnsemble`; a single model has no use for it.
        uncertainty_coef: likewise.
        **options: keyword arguments for `RewardModel`.
    """
    from rlgen.rewards.ensemble import RewardEnsemble, is_ensemble

    if is_ensemble(name_or_path):
        return RewardEnsemble(name_or_path, aggregate=aggregate, uncertainty_coef=uncertainty_coef, **options)
    return RewardModel(name_or_path, **options)


def token_ids(
    tokenizer: PreTrainedTokenizerBase, prompt: Any, completion: Any, *, max_length: int | None = None
) -> list[int]:
    """Tokens of one row, for a decoder exactly as TRL's RewardTrainer makes them.

    A conversational row goes through the chat template; a plain one is joined and ended with the eos token. An
    encoder without a chat template reads prompt and completion as a pair of texts, between its own special tokens.

    Args:
        tokenizer: the reward model's.
        prompt: plain or conversational.
        completion: likewise.
        max_length: a longer row loses its beginning, with an encoder the beginning of its prompt.
    """
    if reads_pairs(tokenizer):
        return _pair_ids(tokenizer, prompt, completion, max_length)
    if isinstance(prompt, str):
        text = prompt + completion
        eos = str(tokenizer.eos_token)
        ids = list(tokenizer(text if text.endswith(eos) else text + eos)["input_ids"])
    else:
        messages = list(prompt) + list(completion)
        rendered: Any = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)
        ids = list(rendered["input_ids"])
    return ids if max_length is None else ids[-max_length:]


def reads_pairs(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether it is an encoder's tokenizer, made for a text or a pair of texts rather than a conversation."""
    special = tokenizer.cls_token_id is not None and tokenizer.sep_token_id is not None
    return special and tokenizer.chat_template is None


def longest_text(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """How many tokens the model can read, None where nothing says so."""
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    # Some encoders number their positions from 2 on; only the tokenizer knows what is left.
    return min(limit or tokenizer.model_max_length, tokenizer.model_max_length) if reads_pairs(tokenizer) else limit


def prepare_for_scoring(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """Evaluation mode, and the pad token by which a classifier finds each text's last token."""
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    model.train(False)
    return model


def score_texts(model: PreTrainedModel, texts: Sequence[Sequence[int]], *, batch_size: int = 16) -> list[float]:
    """Score tokenized texts with a sequence classifier, in their order.

    Equal texts are scored once, neighbouring texts that begin alike (the completions of one prompt) share the work on
    their beginning, and so do all texts on theirs.

    Args:
        model: one output; see `prepare_for_scoring`.
        texts: token ids, none empty.
        batch_size: texts per forward pass.

    Returns:
        The raw outputs.
    """
    # The classifier reads the last token that is no padding, so trailing pads (pad may be eos) play no part.
    stripped = [_without_trailing(ids, _pad(model)) for ids in texts]
    unique = list(dict.fromkeys(stripped))
    head = getattr(model, "score", None)
    head = getattr(head, "original_module", head)  # inside an adapter's wrapper
    shares = isinstance(head, torch.nn.Linear) and can_share_prompts(model)
    groups = _groups(unique, batch_size) if shares else [[text] for text in unique]
    prefix = read_prefix(model, unique) if shares else None
    # Sorted by length so that a batch holds little padding.
    groups.sort(key=lambda group: max(map(len, group)))
    scores: dict[tuple[int, ...], float] = {}
    while groups:
        batch = [groups.pop()]
        while groups and sum(map(len, batch)) + len(groups[-1]) <= batch_size:
            batch.append(groups.pop())
        together = [text for group in batch for text in group]
        answers = _score_padded(model, together) if prefix is None else _score_packed(model, batch, prefix)
        scores.update(zip(together, answers.float().tolist(), strict=True))
    return [scores[text] for text in stripped]


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


def _groups(texts: Sequence[tuple[int, ...]], largest: int) -> list[list[tuple[int, ...]]]:
    """Neighbouring texts that share at least half of their tokens with the first of their group."""
    groups: list[list[tuple[int, ...]]] = []
    for ids in texts:
        open_group = bool(groups) and len(groups[-1]) < largest
        if open_group and 2 * common_length([groups[-1][0], ids]) >= len(ids):
            groups[-1].append(ids)
        else:
            groups.append([ids])
    return groups


@torch.no_grad()
def _score_padded(model: PreTrainedModel, texts: Sequence[Sequence[int]]) -> torch.Tensor:
    """Scores of texts that share nothing."""
    ids = pad_sequence([torch.tensor(text) for text in texts], batch_first=True, padding_value=_pad(model))
    mask = pad_sequence([torch.ones(len(text), dtype=torch.long) for text in texts], batch_first=True)
    scores: torch.Tensor = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device)).logits[:, 0]
    return scores


@torch.no_grad()
def _score_packed(model: Any, groups: Sequence[Sequence[tuple[int, ...]]], prefix: Prefix) -> torch.Tensor:
    """Scores of groups, flattened; behind the prefix of all, each group's common beginning is read once."""
    rests = [[text[prefix.length :] for text in group] for group in groups]
    beginnings = [group[0][: common_length(group)] for group in rests]
    width = max(map(len, groups))
    endings = [
        [text[len(beginning) :] for text in group] + [()] * (width - len(group))
        for group, beginning in zip(rests, beginnings, strict=True)
    ]
    packed = pack_rows(beginnings, endings, _pad(model)).to(model.device)
    hidden = model.base_model(
        input_ids=packed.input_ids,
        attention_mask=packed.attention_mask(model.config._attn_implementation, model.dtype, prefix.length),
        position_ids=packed.position_ids + prefix.length,
        past_key_values=prefix.cache(len(groups)) if prefix.length else None,
        use_cache=False,
    ).last_hidden_state
    counts = packed.completion_mask.sum(2)
    lengths = torch.tensor([len(beginning) for beginning in beginnings], device=counts.device)
    last = lengths[:, None] + counts.cumsum(1) - 1
    rows, texts = counts.nonzero(as_tuple=True)
    scores: torch.Tensor = model.score(hidden[rows, last[rows, texts]])[:, 0]
    return scores


def _pair_ids(tokenizer: PreTrainedTokenizerBase, prompt: Any, completion: Any, max_length: int | None) -> list[int]:
    asked = prompt[0]["content"] if not isinstance(prompt, str) and len(prompt) == 1 else prompt_text(prompt)
    ids = list(tokenizer(asked, completion_text(completion))["input_ids"])
    if max_length is not None and len(ids) > max_length:
        excess = len(ids) - max_length
        cut = min(excess, len(tokenizer(asked, add_special_tokens=False)["input_ids"]))
        ids = ids[:1] + ids[1 + cut :]  # the first token is the one that an encoder reads its answer from
        ids = ids[: max_length - 1] + ids[-1:] if excess > cut else ids
    return ids


def _pad(model: PreTrainedModel) -> int:
    return int(model.config.get_text_config().pad_token_id)


def _without_trailing(ids: Sequence[int], pad: int) -> tuple[int, ...]:
    end = len(ids)
    while end > 1 and ids[end - 1] == pad:
        end -= 1
    return tuple(ids[:end])


def _load(name_or_path: str, options: dict[str, Any]) -> PreTrainedModel:
    if not is_adapter(name_or_path):
        return load_reward_model(name_or_path, **options)
    base = load_reward_model(adapter_base(name_or_path), **options)
    adapted = PeftModel.from_pretrained(base, name_or_path)
    merged: PreTrainedModel = adapted.merge_and_unload() if can_merge(adapted) else adapted.get_base_model()
    return merged


def default_device() -> torch.device:
    """The accelerator, if there is one."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return accelerator or torch.device("cpu")
