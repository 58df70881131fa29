"""ROUGE-1, -2, -L and -Lsum, as a script for `evaluate.load`."""

from rlgen.evaluation.references import Rouge

__all__ = ["Rouge"]
