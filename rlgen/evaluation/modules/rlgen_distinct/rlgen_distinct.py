"""Distinct-n, as a script for `evaluate.load`."""

from rlgen.evaluation.references import DistinctN

__all__ = ["DistinctN"]
