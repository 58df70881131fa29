"""Corpus chrF, as a script for `evaluate.load`."""

from rlgen.evaluation.references import Chrf

__all__ = ["Chrf"]
