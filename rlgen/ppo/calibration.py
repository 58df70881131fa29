"""How well values are calibrated: whether a state that is valued one point higher returns one point more."""

from torch import Tensor


def calibration(predictions: Tensor, targets: Tensor) -> tuple[float, float]:
    """Slope and intercept of the least-squares line of targets on predictions.

    Args:
        predictions: (M,).
        targets: (M,).

    Returns:
        Slope: 1 is calibrated, below 1 the predictions are too extreme (overfitted), above 1 too timid. Intercept, in
        units of the targets: 0 where the slope is 1 and nothing is over- or undervalued throughout. Both are NaN if
        the predictions do not vary.

    Source: Cox 1958, "Two further applications of a model for binary regression", Biometrika 45, for the regression;
        Van Calster et al. 2019, BMC Medicine 17:230, for the names calibration slope and intercept.
    """
    if predictions.numel() == 0:
        return float("nan"), float("nan")
    predictions, targets = predictions.double(), targets.double()
    centred = predictions - predictions.mean()
    # A constant leaves rounding behind, from which a line of any slope could be read.
    if centred.abs().max() <= 1e-6 * predictions.abs().max().clamp(min=1e-12):
        return float("nan"), float("nan")
    slope = (centred * targets).sum() / centred.square().sum()
    return float(slope), float(targets.mean() - slope * predictions.mean())
