"""JSON answers as ASGI messages, straight from bytes.

Every answer of the API, errors and empty ones included, is `application/json` (clients.md row 17). Must never encode a
value: whoever answers has the bytes ready.
"""

from __future__ import annotations

from collections.abc import Iterable

from starlette.types import Send

Header = tuple[bytes, bytes]

JSON: Header = (b"content-type", b"application/json")

# Bodies repeat what users sent: a browser must not guess them to be a page.
NOSNIFF: Header = (b"x-content-type-options", b"nosniff")

# And neither a browser nor a proxy may keep what somebody saw who had signed in (RFC 9111, 5.2.2.5).
NO_STORE: Header = (b"cache-control", b"no-store")

ALWAYS = (NOSNIFF, NO_STORE)


async def send_json(send: Send, status: int, body: bytes, headers: Iterable[Header] = ()) -> None:
    """Send a whole answer. For HEAD the HTTP server drops the body and keeps the length."""
    await send({"type": "http.response.start", "status": status, "headers": [JSON, *ALWAYS, (b"content-length", b"%d" % len(body)), *headers]})
    await send({"type": "http.response.body", "body": body})
