"""Train a tokenizer on texts: byte-level BPE, for a decoder that converses or for an encoder that reads."""

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
DECODER_TOKENS = {"pad_token": "<|endoftext|>", "bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
ENCODER_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
SMALLEST = 256 + max(len(DECODER_TOKENS), len(ENCODER_TOKENS))  # every byte, and the special tokens


def train_tokenizer(
    texts: Iterable[str], vocabulary: int, *, encoder: bool = False, max_length: int | None = None
) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer, in which every text has tokens.

    Args:
        texts: what to learn from.
        vocabulary: tokens in all, at least `SMALLEST`; fewer come out where the texts hold no more.
        encoder: for an encoder, with a mask token, and separators around a text or a pair of texts; else for a
            decoder, with a chat template in ChatML, whose end of a message is the eos token.
        max_length: what the model can read.

    Returns:
        The tokenizer, ready to be saved beside a model.

    Source: Sennrich et al. 2016, arXiv 1508.07909 (BPE); Radford et al. 2019 (on bytes).
    """
    special = ENCODER_TOKENS if encoder else DECODER_TOKENS
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(special.values()),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if encoder:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B [SEP]",
            special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
        )
    limit = {} if max_length is None else {"model_max_length": max_length}
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special, **limit)
    if not encoder:
        wrapped.chat_template = CHAT_TEMPLATE
    return wrapped
