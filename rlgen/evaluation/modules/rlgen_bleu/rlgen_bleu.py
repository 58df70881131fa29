"""Corpus BLEU, as a script for `evaluate.load`."""

from rlgen.evaluation.references import Bleu

__all__ = ["Bleu"]
