"""What must hold before PPO trains: settings that fit together, a reference that is the policy's own start."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from peft import PeftModel
from transformers import PreTrainedModel

from rlgen.errors import ConfigError, TrainingError
from rlgen.ppo.config import PPOConfig
from rlgen.ppo.rollout import Scored, group_completions
from rlgen.scoring import token_logprobs

logger = logging.getLogger(__name__)


def check_settings(args: PPOConfig, rows: int, ptx_rows: int, given: Mapping[str, Any]) -> None:
    """Refuse what the trainer cannot do.

    Args:
        args: settings.
        rows: how many rows there are to train on.
        ptx_rows: how many rows of text for PPO-ptx.
        given: the trainer's further arguments.

    Raises:
        ConfigError: one line about the first thing that does not fit.
    """
    for name in ("tools", "environment_factory", "rollout_func"):
        if given.get(name):
            raise ConfigError(f"{name} is not supported by PPO: tokens that the policy did not choose would train")
    prompts = args.generation_batch_size // args.num_generations
    if rows < prompts:
        raise ConfigError(
            f"a rollout takes {prompts} prompts, but there are {rows} rows: lower "
            "per_device_train_batch_size or steps_per_generation, or raise num_generations"
        )
    if bool(args.ptx_coef) != bool(ptx_rows):
        reason = "there are no rows for it" if args.ptx_coef else "there are rows for it"
        raise ConfigError(f"ptx_coef is {args.ptx_coef}, but {reason}: set both or neither")


def check_reference(
    scored: Scored,
    policy: PreTrainedModel | PeftModel,
    reference: PreTrainedModel | None,
    accelerator: Accelerator,
) -> None:
    """At step 0 policy and reference are the same model; whatever differs would be trained on as if it were KL.

    Args:
        scored: a rollout of the starting policy.
        policy: that policy.
        reference: a model of its own, or None if it is the policy without adapters.
        accelerator: whose arithmetic decides what is a difference.

    Raises:
        TrainingError: they disagree about a token's log-probability; the message names the likely cause.
    """
    difference = float((scored.logprobs - scored.ref_logprobs).abs().max())
    tolerance = 1e-2 if _low_precision(policy, accelerator) else 1e-4
    if difference <= tolerance:
        return
    causes = []
    if isinstance(policy, PeftModel):
        trained = any(bool(p.any()) for n, p in policy.named_parameters() if "lora_B" in n)
        causes.append("the adapter is trained already: merge it into the model first" if trained else "")
    elif reference is not None and reference.dtype != policy.dtype:
        causes.append(f"the dtypes differ ({policy.dtype} and {reference.dtype})")
    causes = [cause for cause in causes if cause] or ["the weights or the layers' arithmetic differ"]
    raise TrainingError(
        f"policy and reference disagree before any update: a token's log-probability differs by {difference:.2g} "
        f"(tolerance {tolerance:g}); {'; '.join(causes)}"
    )


@torch.no_grad()
def sharing_is_sound(
    policy: PreTrainedModel | PeftModel,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    pad_token_id: int,
    *,
    temperature: float,
    accelerator: Accelerator,
) -> bool:
    """Whether siblings in one row score as if alone; windows and recurrent states look past the mask.

    Args:
        policy: the model.
        prompts: the same prompt for each of the completions.
        completions: their tokens.
        pad_token_id: fills rows.
        temperature: what the logits are divided by.
        accelerator: for its device and arithmetic, and the other processes, which must decide alike.
    """
    was_training = policy.training
    policy.eval()
    scored = []
    for group in (len(prompts), 1):
        packed = group_completions(prompts, completions, group, pad_token_id).to(accelerator.device)
        with accelerator.autocast():
            logprobs, _ = token_logprobs(policy, packed, temperature=temperature)
        scored.append(logprobs.flatten(0, 1))
    policy.train(was_training)
    difference = (scored[0] - scored[1]).abs().sum() / sum(map(len, completions))
    sound = float(accelerator.reduce(difference, "mean")) < (0.05 if _low_precision(policy, accelerator) else 1e-3)
    if not sound:
        logger.warning("this model's completions cannot share a prompt in one row; each is scored by itself")
    return sound


def _low_precision(policy: PreTrainedModel | PeftModel, accelerator: Accelerator) -> bool:
    return accelerator.mixed_precision != "no" or policy.dtype in (torch.bfloat16, torch.float16)
