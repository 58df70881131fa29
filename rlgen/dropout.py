"""One dropout rate for a whole model, whichever way its layers keep theirs."""

from torch import nn

DROPOUT_MODULES = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)


def set_dropout(model: nn.Module, rate: float | None) -> int:
    """Set every dropout of a plain model: modules, and the rates that attention layers keep as numbers.

    LayerDrop, which skips whole layers, is something else and stays.

    The model's configuration stays as it is, so that a later stage starts without what this one asked for. Adapters
    have a rate of their own (`--lora_dropout`) and are put on afterwards.

    Args:
        model: without adapters.
        rate: probability that a unit is dropped, 0 to 1; None changes nothing.

    Returns:
        How many places were set.
    """
    if rate is None:
        return 0
    found = 0
    for module in model.modules():
        if isinstance(module, DROPOUT_MODULES):
            module.p = rate
            found += 1
            continue
        for name, value in list(vars(module).items()):
            if (
                "drop" in name
                and "layerdrop" not in name
                and isinstance(value, int | float)
                and not isinstance(value, bool)
            ):
                setattr(module, name, rate)
                found += 1
    return found
