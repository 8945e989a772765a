"""What a failed schema check is told as: one short sentence, never schema text.

Pure. The same words serve bodies and query parameters.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import jsonschema_rs

ARTICLES = {"object": "an object", "array": "an array", "string": "a string", "number": "a number", "integer": "an integer", "boolean": "true or false"}

LONGEST_QUOTE = 40
"""Characters of a rejected text that are repeated: enough to recognise it, too little to fill a log."""


def pointer_to(path: Sequence[str | int]) -> str:
    """The JSON pointer (RFC 6901) of a path of keys and indexes."""
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in path)


def explain(failure: jsonschema_rs.ValidationError) -> tuple[list[str | int], str]:
    """Where a value breaks its schema, and how: (path, sentence). A missing field is told by its own path."""
    path = list(failure.instance_path)
    kind, value = failure.kind, failure.instance
    match kind:
        case jsonschema_rs.ValidationErrorKind.Required():
            return [*path, kind.property], "is missing"
        case jsonschema_rs.ValidationErrorKind.Type():
            return path, f"expected {' or '.join(ARTICLES[name] for name in kind.types)}, got {_named(value)}"
        case jsonschema_rs.ValidationErrorKind.Enum():
            return path, f"expected one of {', '.join(map(str, kind.options))}, got {_named(value)}"
        case jsonschema_rs.ValidationErrorKind.Minimum():
            return path, f"expected {kind.limit} or more, got {_shortened(str(value))}"
        case jsonschema_rs.ValidationErrorKind.Maximum():
            return path, f"expected {kind.limit} or less, got {_shortened(str(value))}"
        case _:
            return path, "is not what the API description asks for"


def _named(value: Any) -> str:
    """The kind of a value; of a text also its beginning."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return "a number"
        case str():
            return f"the text {json.dumps(_shortened(value))}"
        case list():
            return "an array"
        case _:
            return "an object"


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_QUOTE else text[:LONGEST_QUOTE] + "..."
