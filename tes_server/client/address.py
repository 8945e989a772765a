"""Where the TES server is and what to sign requests with, from a URL, a token file and the environment.

Secrets end up in one header and nowhere else: `Address.url` is safe to show. Must never open a connection.
"""

from __future__ import annotations

import base64
import pathlib
import urllib.parse
from collections.abc import Mapping

import msgspec

from tes_server import errors

DEFAULT_URL = "http://127.0.0.1:8000"


class Address(msgspec.Struct, frozen=True):
    """`url` has no user, password, query or trailing slash. `authorization` is the header's value, or ""."""

    url: str
    authorization: str = ""


def find(url: str, token_file: pathlib.Path | None, environment: Mapping[str, str]) -> Address:
    """The address to use. First that is given wins: token file, user in the URL, TES_TOKEN, TES_USER with TES_PASSWORD.

    Raises `errors.Invalid` for a URL that is not http(s), or a token file that cannot be read.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        port = f":{parts.port}" if parts.port is not None else ""
    except ValueError as cause:
        raise errors.Invalid(f"the server's URL cannot be read: {cause}") from cause
    if parts.scheme not in ("http", "https") or not parts.hostname:
        # The text may hold a password, so that it is not repeated.
        raise errors.Invalid(f"the server's URL must look like {DEFAULT_URL} (set it with --url or TES_URL)")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    plain = urllib.parse.urlunsplit((parts.scheme, host + port, parts.path.rstrip("/"), "", ""))
    return Address(plain, _authorization(parts, token_file, environment))


def _authorization(parts: urllib.parse.SplitResult, token_file: pathlib.Path | None, environment: Mapping[str, str]) -> str:
    if token_file is not None:
        try:
            return _bearer(token_file.read_text())
        except (OSError, UnicodeDecodeError) as cause:
            raise errors.Invalid(f"the token file {token_file} cannot be read: {getattr(cause, 'strerror', None) or 'it is not text'}") from cause
    if parts.username is not None:
        return _basic(urllib.parse.unquote(parts.username), urllib.parse.unquote(parts.password or ""))
    if environment.get("TES_TOKEN"):
        return _bearer(environment["TES_TOKEN"])
    if environment.get("TES_USER"):
        return _basic(environment["TES_USER"], environment.get("TES_PASSWORD", ""))
    return ""


def _bearer(token: str) -> str:
    token = token.strip()
    # A line break in a header would start another one.
    if not token or not token.isascii() or not token.isprintable():
        raise errors.Invalid("the token must be one line of printable ASCII")
    return f"Bearer {token}"


def _basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
