"""Settings of the audit, to be inherited by the settings of a recipe."""

from dataclasses import dataclass, field
from typing import Any

from rlgen.errors import ConfigError

ACTIONS = ("warn", "raise_kl", "rollback", "stop")
FEWEST_PROMPTS = 8


@dataclass
class AuditArguments:
    """When to audit, with what, and what to do about a finding."""

    audit_steps: int = field(
        default=0,
        metadata={"help": "Audit held-out prompts every so many steps; 0 for never."},
    )
    audit_reward: list[str] | None = field(
        default=None,
        metadata={
            "help": "Rewards that are not optimized, for the audit to watch beside ROUGE-L (where rows have a "
            "reference), repetition, sameness, length and endings."
        },
    )
    audit_prompts: int = field(default=64, metadata={"help": "How many held-out prompts the audit answers."})
    audit_temperature: float = field(
        default=0.0, metadata={"help": "Temperature of the audit's completions; 0 for greedy."}
    )
    audit_action: str = field(
        default="warn",
        metadata={
            "help": "On alarm: warn, raise_kl (raise the KL penalty), rollback (to the last good state, and raise "
            "it) or stop.",
            "choices": list(ACTIONS),
        },
    )
    audit_kl_factor: float = field(default=4.0, metadata={"help": "What raise_kl and rollback multiply kl_coef by."})


def check_audit(args: AuditArguments, kl_coef: float) -> None:
    """Refuse settings that the audit cannot work with.

    Args:
        args: the settings.
        kl_coef: weight of the KL penalty that the run begins with.

    Raises:
        ConfigError: a value out of range, or an action that has nothing to act on.
    """
    if args.audit_steps < 0:
        raise ConfigError(f"audit_steps is {args.audit_steps}; it must be at least 0, which is never")
    if args.audit_prompts < FEWEST_PROMPTS:
        raise ConfigError(f"audit_prompts is {args.audit_prompts}; fewer than {FEWEST_PROMPTS} show nothing")
    if args.audit_temperature < 0:
        raise ConfigError(f"audit_temperature is {args.audit_temperature}; it must be at least 0, which is greedy")
    if args.audit_action not in ACTIONS:
        raise ConfigError(f"audit_action is {args.audit_action!r}; choose {', '.join(ACTIONS)}")
    if args.audit_kl_factor <= 1:
        raise ConfigError(f"audit_kl_factor is {args.audit_kl_factor}; it must be above 1 to raise anything")
    if args.audit_steps and args.audit_action == "raise_kl" and kl_coef == 0:
        raise ConfigError("audit_action raise_kl multiplies the KL penalty, which is 0: give it a weight above 0")
    if not args.audit_steps and (args.audit_reward or args.audit_action != "warn"):
        raise ConfigError("audit_reward and audit_action do nothing without audit_steps: give --audit_steps N")


def settings(args: Any) -> AuditArguments:
    """The audit's settings alone, out of larger ones that inherit them."""
    return AuditArguments(**{name: getattr(args, name) for name in AuditArguments.__dataclass_fields__})
