"""TRL's trainers of pairs, with batches of like length; transformers groups only rows that are one text."""

from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import LengthGroupedSampler
from trl import DPOTrainer as TRLDPOTrainer
from trl import RewardTrainer as TRLRewardTrainer


class _PairsByLength:
    """Makes `train_sampling_strategy="group_by_length"` work; a batch is padded to the longest text of its pairs."""

    args: Any
    train_dataset: Any

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler[int] | None:
        rows = self.train_dataset if train_dataset is None else train_dataset
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(rows)  # type: ignore[misc, no-any-return]
        batch = self.args.train_batch_size * self.args.gradient_accumulation_steps
        return LengthGroupedSampler(batch, lengths=pair_lengths(rows))

    def _get_eval_sampler(self, eval_dataset: Dataset) -> Sampler[int] | None:
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_eval_sampler(eval_dataset)  # type: ignore[misc, no-any-return]
        generator = torch.Generator().manual_seed(self.args.seed)
        return LengthGroupedSampler(self.args.eval_batch_size, lengths=pair_lengths(eval_dataset), generator=generator)


class RewardTrainer(_PairsByLength, TRLRewardTrainer):
    """TRL's RewardTrainer, which reads `label_smoothing_factor`, too.

    With a share s of all pairs taken to be labelled the wrong way round, the loss of a pair whose scores differ by d
    (less its margin) is -(1 - s) log sigmoid(d) - s log sigmoid(-d) = -log sigmoid(d) + s d.

    Source: Wang et al. 2024, arXiv 2401.06080 (label smoothing of noisy preferences).
    """

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """TRL's loss, and the share of reversed pairs."""
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        if self.args.label_smoothing_factor:
            chosen, rejected = torch.chunk(outputs.logits.squeeze(-1), chunks=2)
            difference = chosen - rejected - inputs.get("margin", 0.0)
            loss = loss + self.args.label_smoothing_factor * difference.mean()
        return (loss, outputs) if return_outputs else loss


class DPOTrainer(_PairsByLength, TRLDPOTrainer):
    """TRL's DPOTrainer."""


def pair_lengths(rows: Dataset) -> list[int]:
    """Tokens of the longer text of each pair, the prompt included; DPO's rows keep the prompt apart."""
    answers = zip(rows["chosen_ids"], rows["rejected_ids"], strict=True)
    prompts = rows["prompt_ids"] if "prompt_ids" in rows.column_names else [()] * len(rows)
    return [len(prompt) + max(map(len, pair)) for prompt, pair in zip(prompts, answers, strict=True)]
