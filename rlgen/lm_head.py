"""Spare TRL's SFT and DPO trainers the prompt's share of the vocabulary projection on a CPU."""

import torch
import trl.trainer.utils


def project_labelled_tokens_only() -> None:
    """Let TRL's fused LM head skip positions without a label on CPUs too, as it does on GPUs with Triton.

    TRL projects every position elsewhere, since shapes that change from batch to batch would be compiled anew on some
    accelerators; a CPU compiles nothing, and prompts several times as long as completions make the difference a factor
    of two in a training step. Losses and gradients stay the same.
    """
    on_triton = trl.trainer.utils._use_triton

    def compact(device: torch.device) -> bool:
        return device.type == "cpu" or on_triton(device)

    if on_triton.__name__ != compact.__name__:
        trl.trainer.utils._use_triton = compact
