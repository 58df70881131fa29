"""Formats that a program can check: regular expressions, JSON, and JSON schemas."""

from __future__ import annotations

import functools
import json
import re
from typing import Any

from reward_models._extra import needs_extra

FENCED_DISCOUNT = 0.3  # what JSON is worth inside a code fence: a caller that parses the answer would fail
PARSED_SHARE = 0.5  # what an answer earns at most that is JSON but breaks its schema
MATCH_SECONDS = 1.0

_FENCE = re.compile(r"\s*```(?:json)?[ \t]*\n(.*?)\n?```\s*", re.DOTALL)


@functools.lru_cache(maxsize=1024)
def compiled_pattern(pattern: str) -> Any:
    """Compile a regular expression of the package regex, whose matches can be given a time limit."""
    with needs_extra():
        import regex

    try:
        return regex.compile(pattern, regex.DOTALL)
    except regex.error as error:
        raise ValueError(f"pattern {pattern!r} is no regular expression: {error}") from error


def full_match(pattern: str, text: str) -> float:
    """1 where the whole text matches within `MATCH_SECONDS`, else 0."""
    try:
        return float(compiled_pattern(pattern).fullmatch(text, timeout=MATCH_SECONDS) is not None)
    except TimeoutError:
        return 0.0


def read_json(text: str, scalars: bool = False) -> tuple[Any, float]:
    """A text's JSON value, and what its form is worth: 1, less in a code fence, 0 where there is none."""
    fenced = _FENCE.fullmatch(text)
    try:
        value = json.loads(fenced[1] if fenced else text, parse_constant=_refuse, object_pairs_hook=_distinct)
    except (ValueError, RecursionError):
        return None, 0.0
    if not scalars and not isinstance(value, dict | list):
        return None, 0.0
    return value, FENCED_DISCOUNT if fenced else 1.0


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("repeated key")
    return found


def schema_validator(schema: Any) -> Any:
    """The validator of a JSON schema, given as a dict or as JSON text.

    Raises:
        ValueError: it is no JSON schema.
    """
    return _cached_validator(schema if isinstance(schema, str) else json.dumps(schema, sort_keys=True))


@functools.lru_cache(maxsize=1024)
def _cached_validator(schema: str) -> Any:
    with needs_extra():
        import jsonschema
        import referencing

    try:
        parsed = json.loads(schema)
        if not isinstance(parsed, dict | bool):
            raise ValueError("a schema is an object")
        kind = jsonschema.validators.validator_for(parsed, default=jsonschema.Draft202012Validator)
        kind.check_schema(parsed)
    except (ValueError, RecursionError, jsonschema.SchemaError) as error:
        reason = getattr(error, "message", str(error))
        raise ValueError(f"column 'schema' holds no JSON schema ({reason}): {schema[:200]}") from error
    return kind(parsed, registry=referencing.Registry())  # without one, remote references would be downloaded


def schema_fit(validator: Any, value: Any) -> float:
    """1 for a valid value, else at most `PARSED_SHARE`, divided by the number of errors."""
    import referencing.exceptions

    try:
        errors = sum(1 for _ in validator.iter_errors(value))
    except referencing.exceptions.Unresolvable as error:
        raise ValueError(f"column 'schema' refers to another document, which is not fetched: {error}") from error
    except RecursionError:
        return 0.0
    return 1.0 if errors == 0 else PARSED_SHARE / errors
