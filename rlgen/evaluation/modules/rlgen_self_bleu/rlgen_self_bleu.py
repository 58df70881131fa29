"""Self-BLEU, as a script for `evaluate.load`."""

from rlgen.evaluation.references import SelfBleu

__all__ = ["SelfBleu"]
