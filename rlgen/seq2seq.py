"""Supervised fine-tuning of encoder-decoders: prompts to encode, completions to write."""

import copy
from collections.abc import Mapping
from typing import Any

from datasets import Dataset
from peft import PeftConfig, get_peft_model
from transformers import DataCollatorForSeq2Seq, PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainerCallback
from trl import SFTConfig

from reward_models._text import completion_text
from rlgen.generation import tokenize_prompts


class EncoderDecoderSFTTrainer(Trainer):
    """transformers' trainer in the place of TRL's SFTTrainer, which is for decoders alone.

    Args:
        model: plain encoder-decoder.
        args: TRL's settings; `max_length` limits prompt and completion each. See `rlgen.families` for those that an
            encoder-decoder cannot have.
        train_dataset: rows with `prompt` and `completion`, plain or conversational.
        eval_dataset: likewise, or None.
        processing_class: tokenizer.
        peft_config: adapter to train, or None if weights of the model train.
        callbacks: further callbacks.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        args: SFTConfig,
        train_dataset: Dataset,
        eval_dataset: Dataset | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        peft_config: PeftConfig | None = None,
        callbacks: list[TrainerCallback] | None = None,
    ) -> None:
        assert processing_class is not None
        if peft_config is not None:
            model = get_peft_model(model, peft_config)
            if args.gradient_checkpointing:
                model.enable_input_require_grads()  # else no gradient gets past the frozen embeddings
        args.label_names = ["labels"]
        right = copy.deepcopy(processing_class)
        right.padding_side = "right"  # absolute positions count from the first token
        super().__init__(
            model=model,
            args=args,
            data_collator=DataCollatorForSeq2Seq(right, model=model),
            train_dataset=encode_rows(train_dataset, processing_class, args.max_length),
            eval_dataset=None
            if eval_dataset is None
            else encode_rows(eval_dataset, processing_class, args.max_length),
            processing_class=processing_class,
            callbacks=callbacks,
        )


def encode_rows(rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int | None = None) -> Dataset:
    """Rows as an encoder-decoder learns from them.

    Args:
        rows: `prompt` and `completion`, plain or conversational.
        tokenizer: of the model.
        max_length: longer prompts lose their beginning, longer completions their end, in tokens.

    Returns:
        Rows with `input_ids`, the prompt as in sampling, and `labels`, the completion with an eos token.

    Raises:
        DataError: an empty prompt.
    """

    def tokens(row: Mapping[str, Any]) -> dict[str, list[int]]:
        prompt = tokenize_prompts(tokenizer, [row["prompt"]], max_length)[0]
        answer = tokenizer(completion_text(row["completion"]), add_special_tokens=False)["input_ids"]
        return {"input_ids": prompt, "labels": [*answer, int(tokenizer.eos_token_id)][:max_length]}

    return rows.map(tokens, remove_columns=rows.column_names)
