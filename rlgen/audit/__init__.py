"""Hacking audit: held-out prompts, scored during training with rewards that training does not optimize."""

from rlgen.audit.callback import AuditCallback
from rlgen.audit.config import ACTIONS, AuditArguments, check_audit, settings
from rlgen.audit.judge import Change, judge
from rlgen.audit.measures import Watched, watched_measures

__all__ = [
    "ACTIONS",
    "AuditArguments",
    "AuditCallback",
    "Change",
    "Watched",
    "check_audit",
    "judge",
    "settings",
    "watched_measures",
]
