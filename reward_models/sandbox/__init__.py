"""Run Python that a model wrote: in processes of its own, with limits, without network, files or environment.

docs/rewards/sandbox.md says what is guaranteed where, and what is not.
"""

from reward_models.sandbox._pool import CallError, Result, Sandbox, SandboxUnavailable, available_isolation

__all__ = ["CallError", "Result", "Sandbox", "SandboxUnavailable", "available_isolation"]
