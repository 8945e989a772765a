"""Sends one request to an ASGI application in process, byte by byte as it is given: no client that tidies it up."""

from __future__ import annotations

import asyncio
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from starlette.types import ASGIApp, Message

LOOPBACK = {"host": "127.0.0.1:8000"}


class Answer(msgspec.Struct, frozen=True):
    """What came back; header names are lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, which has to be JSON."""
        return msgspec.json.decode(self.body)


def request(
    app: ASGIApp, method: str, target: str, body: bytes | Sequence[bytes] = b"", headers: Mapping[str, str] = LOOPBACK, disconnects: bool = False
) -> Answer | None:
    """The answer to one request, or None if there was none. A body in parts arrives in parts, without a Content-Length."""
    parts = [body] if isinstance(body, bytes) else list(body)
    lengths = {"content-length": str(len(body))} if isinstance(body, bytes) and body else {}
    path, _, query = target.partition("?")
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": urllib.parse.unquote(path),
        "raw_path": path.encode(),
        "query_string": query.encode("utf-8"),
        "root_path": "",
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in {**headers, **lengths}.items()],
        "server": ("127.0.0.1", 8000),
        "client": ("127.0.0.1", 50000),
    }
    incoming: list[Message] = [{"type": "http.request", "body": part, "more_body": index < len(parts) - 1} for index, part in enumerate(parts)]
    if disconnects:
        incoming = [*({**message, "more_body": True} for message in incoming), {"type": "http.disconnect"}]
    sent: list[Message] = []

    async def receive() -> Message:
        return incoming.pop(0) if incoming else {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))  # type: ignore[arg-type]
    if not sent:
        return None
    start, *rest = sent
    return Answer(start["status"], {name.decode(): value.decode() for name, value in start["headers"]}, b"".join(part.get("body", b"") for part in rest))


def get(app: ASGIApp, target: str, **options: Any) -> Answer:
    """GET."""
    return _some(request(app, "GET", target, **options))


def post(app: ASGIApp, target: str, body: bytes | Sequence[bytes] = b"", **options: Any) -> Answer:
    """POST."""
    return _some(request(app, "POST", target, body, **options))


def _some(answer: Answer | None) -> Answer:
    assert answer is not None
    return answer
