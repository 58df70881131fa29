"""Checkpoints behind an OpenAI-compatible endpoint: `openai:MODEL@URL`, and `#VARIABLE` for one that needs a key."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlgen.errors import ConfigError
from rlgen.rewards.endpoint import ChatEndpoint

PREFIX = "openai:"
TIMEOUT = 120.0  # seconds; a long answer of a busy server takes its time

_ADDRESS = re.compile(rf"{PREFIX}(?P<model>.+)@(?P<url>https?://[^#\s]+)(?:#(?P<key>\w+))?")


@dataclass(frozen=True)
class Remote:
    """A model behind an endpoint.

    Args:
        model: As the endpoint calls it.
        url: Up to and without `/chat/completions`.
        api_key_env: Environment variable that holds the key; None sends none.
    """

    model: str
    url: str
    api_key_env: str | None = None

    @property
    def fingerprint(self) -> str:
        """Hash of address and name: what lies behind them cannot be seen."""
        return hashlib.sha256(f"{PREFIX}{self.model}@{self.url}".encode()).hexdigest()[:16]

    def endpoint(self, request: dict[str, Any], cache: Path, **options: Any) -> ChatEndpoint:
        """A client that sends these fields with every question.

        Raises:
            RewardError: The variable of the key is not set.
        """
        return ChatEndpoint(
            self.url,
            self.model,
            api_key_env=self.api_key_env,
            request=request,
            cache=cache,
            timeout=TIMEOUT,
            **options,
        )


def is_remote(path: str) -> bool:
    """Whether a checkpoint is given as an endpoint."""
    return path.startswith(PREFIX)


def parse_remote(path: str) -> Remote:
    """Read `openai:MODEL@URL#VARIABLE`.

    Raises:
        ConfigError: It is written otherwise.
    """
    found = _ADDRESS.fullmatch(path)
    if not found:
        raise ConfigError(
            f"{path}: write an endpoint as openai:MODEL@http://HOST:PORT/v1, with #VARIABLE behind it if the "
            "environment variable VARIABLE holds the key"
        )
    return Remote(found["model"], found["url"].rstrip("/"), found["key"])
