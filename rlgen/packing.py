"""Whether packed examples are strangers to each other, tried on the loaded model: its attention decides."""

import torch
from torch import nn

from rlgen.errors import ConfigError

_LENGTH = 6


@torch.no_grad()
def check_packing(model: nn.Module, vocabulary: int) -> None:
    """Pack two made-up examples and see whether the second one notices what stands in the first.

    TRL packs several examples into one row, numbers the positions of each from 0 and gives no attention mask;
    transformers reads from the positions where an example begins. Not every architecture does.

    Args:
        model: causal language model.
        vocabulary: token ids below this are used.

    Raises:
        ConfigError: tokens of one example see those of another.
    """
    device = next(model.parameters()).device
    positions = torch.arange(_LENGTH, device=device).repeat(2)[None]
    ids = torch.arange(2 * _LENGTH, device=device)[None] % vocabulary
    other = ids.clone()
    other[:, :_LENGTH] = (ids[:, :_LENGTH] + vocabulary // 2) % vocabulary
    was_training = model.training
    model.eval()
    try:
        first, second = (
            model(input_ids=row, position_ids=positions, use_cache=False).logits[:, _LENGTH:] for row in (ids, other)
        )
    except TypeError as error:
        raise ConfigError(f"--packing: {type(model).__name__} takes no position_ids: leave it out") from error
    finally:
        model.train(was_training)
    scale = float(first.float().abs().max()) or 1.0
    if float((first.float() - second.float()).abs().max()) > 1e-3 * scale:
        raise ConfigError(
            f"--packing: in {type(model).__name__} the examples of a packed row see each other, which would train on "
            "contexts that do not exist: leave it out, or try another --attn_implementation"
        )
