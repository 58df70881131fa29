"""Share of texts equal to a reference, as a script for `evaluate.load`."""

from rlgen.evaluation.references import ExactMatch

__all__ = ["ExactMatch"]
