"""rlgen: reinforcement fine-tuning of language models on TRL, from SFT to a comparison with intervals."""

import logging
import os

__version__ = "0.1.0"


def _set_environment() -> None:
    """Defaults that libraries read when they are imported; a value the user has set stays."""
    if os.environ.get("RLGEN_TELEMETRY") != "1":
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it misses, aloud, kernels that nobody asked for
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch: large tensors on the CPU in huge pages
    # torch and oneDNN keep a kernel for each shape of a product, a thousand by default: memory that grows over a run
    # whose batches have ever new lengths.
    os.environ.setdefault("LRU_CACHE_CAPACITY", "64")
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")


_set_environment()
