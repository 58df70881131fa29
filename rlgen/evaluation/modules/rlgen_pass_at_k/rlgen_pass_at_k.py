"""Unbiased pass@k, as a script for `evaluate.load`."""

from rlgen.evaluation.references import PassAtK

__all__ = ["PassAtK"]
