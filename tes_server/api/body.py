"""The JSON body of a request: read with a bound, cleaned of nulls, checked by the compiled schema, made a struct.

Any Content-Type, or none, is read as JSON (clients.md row 5), chunked or not. Must never answer with a 500, whatever the
bytes are, nor hold the event loop for long.
"""

from __future__ import annotations

import copy
from typing import Any, Generic, TypeVar

import jsonschema_rs
import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from tes_server import errors
from tes_server.api import wording

T = TypeVar("T")

SMALL = 64 * 1024
"""Bytes of a body that are worked on at once; more (some milliseconds) go to a thread, so that other requests are answered meanwhile."""


class Body(Generic[T]):
    """The body that one operation takes. `limit` is in bytes."""

    def __init__(self, schema: dict[str, Any], kind: type[T], limit: int) -> None:
        self._validator = jsonschema_rs.Draft4Validator(_writable(schema))
        self._kind = kind
        self._limit = limit

    async def read(self, scope: Scope, receive: Receive) -> tuple[T, int]:
        """The body as a struct, and its size in bytes. Raises `errors.Invalid` with a pointer, or `errors.TooLarge`."""
        raw = await self._received(scope, receive)
        return self.decode(raw) if len(raw) <= SMALL else await run_in_threadpool(self.decode, raw), len(raw)

    async def _received(self, scope: Scope, receive: Receive) -> bytes:
        # An announced length saves reading what will be refused; the count is what holds (chunked bodies announce none).
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit() and int(value) > self._limit:
                raise self._too_large()
            if name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
                raise errors.Invalid("is not taken here: send the body as it is, not compressed", "Content-Encoding")
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > self._limit:
                raise self._too_large()
            chunks.append(chunk)
            if not message.get("more_body", False):
                return b"".join(chunks) if len(chunks) > 1 else chunk

    def _too_large(self) -> errors.TooLarge:
        return errors.TooLarge(f"the body is larger than {self._limit} bytes, the most that this server takes")

    def decode(self, raw: bytes) -> T:
        """The struct that these bytes stand for. Pure. Raises `errors.Invalid` with a pointer."""
        try:
            value = _parsed(raw)
            self._validator.validate(value)
            return msgspec.convert(value, self._kind)
        except jsonschema_rs.ValidationError as failure:
            path, sentence = wording.explain(failure)
            raise errors.Invalid(sentence if path else f"the body: {sentence}", wording.pointer_to(path)) from None
        except RecursionError:
            raise errors.Invalid("the body is nested too deeply") from None
        except msgspec.ValidationError as cause:
            # The one thing that a schema takes and a struct does not: an integer that no float can hold.
            sentence, _, place = str(cause).partition(" - at `$")
            raise errors.Invalid(sentence.lower(), place.rstrip("`").replace("[", "/").replace("]", "").replace(".", "/")) from None


def _parsed(raw: bytes) -> Any:
    if not raw.strip():
        raise errors.Invalid("the body is empty; a JSON object is expected")
    try:
        value = msgspec.json.decode(raw)
    except UnicodeDecodeError:
        raise errors.Invalid("the body is not UTF-8") from None
    except msgspec.DecodeError as cause:
        sentence = str(cause).removeprefix("JSON is malformed: ").partition(" - at `")[0]
        raise errors.Invalid(f"the body is not JSON: {sentence}") from None
    return _without_nulls(value) if b"null" in raw else value


def _without_nulls(value: Any) -> Any:
    """Fields and map values that are null are fields not given (clients.md row 6). In an array null is kept, as an error."""
    if type(value) is dict:
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    if type(value) is list:
        return [_without_nulls(inner) for inner in value]
    return value


def _writable(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema without what only the server sets: such fields are ignored, so a task that was read can be sent again."""
    schema = copy.deepcopy(schema)
    schema["properties"] = {name: inner for name, inner in schema["properties"].items() if not inner.get("readOnly")}
    return schema
