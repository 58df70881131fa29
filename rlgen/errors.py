"""Errors a user can act on: every message says what is wrong, where, and what to do."""


class RlgenError(Exception):
    """Base of all errors that rlgen raises on purpose; recipes print its message as one line."""


class ConfigError(RlgenError):
    """A flag, a YAML key or a combination of options is wrong."""


class DataError(RlgenError):
    """A dataset is missing, empty, malformed, or shares rows with another split."""


class ModelError(RlgenError):
    """A model, adapter or tokenizer, or a published package, cannot be found, fetched or loaded."""


class RewardError(RlgenError):
    """A reward cannot be loaded, or breaks the reward contract; `row` is the row of the call to blame, if one is."""

    def __init__(self, message: str, *, row: int | None = None) -> None:
        super().__init__(message)
        self.row = row


class RunError(RlgenError):
    """A run folder cannot be written, or holds something else."""


class TrainingError(RlgenError):
    """Training cannot start or go on without giving wrong results."""
