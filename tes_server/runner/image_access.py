"""Signing in at registries: what a 401 asks for (Basic, or Bearer by a token server), and the tokens that are still good.

A token is for one repository of one registry, and goes into requests for it only. This module must never follow a redirect
or log a header.
"""

from __future__ import annotations

import base64
import re
import threading
import time
import urllib.parse
from collections.abc import Callable

import msgspec
import urllib3

from tes_server import errors
from tes_server.runner import image_connections, image_manifest
from tes_server.runner.image_credentials import Login
from tes_server.telemetry import Code

Send = Callable[..., urllib3.BaseHTTPResponse]
"""send(method, url, headers=..., body=...) -> the answer, its body read. Raises EngineError where nobody answers or is busy."""

MOST = 1000
"""Headers kept: anybody may name repositories without end."""

_SHORTEST = 60.0
"""Seconds that a token is good for if its server does not say (Docker's token specification)."""
_MARGIN = 10.0
"""Seconds before its end from which a token is not used any more: it must outlive the request."""

_SCHEME = re.compile(r"[\s,]*([A-Za-z]+)(?=[\s,]|$)")
_PARAMETER = re.compile(r"""\s*([A-Za-z_]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))\s*(?:,|$)""")


class _Token(msgspec.Struct, frozen=True):
    """OAuth's answer and Docker's own, which names the token differently. JSON null stands for nothing."""

    token: str | None = None
    access_token: str | None = None
    expires_in: float | None = None


class Access:
    """Authorization headers by (origin, repository). Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str], tuple[str, float]] = {}

    def header(self, origin: str, repository: str) -> str:
        """What is known to open it, or ""."""
        with self._lock:
            header, until = self._known.get((origin, repository), ("", 0.0))
        return header if time.monotonic() < until else ""

    def sign_in(self, origin: str, repository: str, challenge: str, login: Login | None, send: Send) -> str:
        """The header that answers `challenge` (WWW-Authenticate of a 401). EngineError IMAGE_DENIED if there can be none."""
        scheme, parameters = parse(challenge)
        if scheme == "basic":
            if login is None or not login.user:
                raise errors.EngineError("the registry wants a user and a password", Code.IMAGE_DENIED)
            header, seconds = _basic(login), _SHORTEST
        elif scheme == "bearer":
            header, seconds = _bearer(origin, repository, parameters, login, send)
        else:
            raise errors.EngineError("the registry wants a kind of sign-in that is not known here", Code.IMAGE_DENIED)
        self._keep((origin, repository), header, seconds)
        return header

    def _keep(self, place: tuple[str, str], header: str, seconds: float) -> None:
        now = time.monotonic()
        with self._lock:
            if len(self._known) >= MOST:
                self._known = {known: told for known, told in self._known.items() if told[1] > now}
            if len(self._known) >= MOST:
                self._known.clear()
            self._known[place] = (header, now + seconds)


def parse(challenge: str) -> tuple[str, dict[str, str]]:
    """The scheme, lower case, and parameters of the first challenge that we can answer (RFC 9110, 11.6.1); "" if there is none."""
    position = 0
    while scheme := _SCHEME.match(challenge, position):
        position = scheme.end()
        parameters: dict[str, str] = {}
        while parameter := _PARAMETER.match(challenge, position):
            position = parameter.end()
            parameters[parameter[1].lower()] = re.sub(r"\\(.)", r"\1", parameter[2]) if parameter[2] is not None else parameter[3]
        if scheme[1].lower() in ("basic", "bearer"):
            return scheme[1].lower(), parameters
    return "", {}


def _basic(login: Login) -> str:
    return "Basic " + base64.b64encode(f"{login.user}:{login.password}".encode()).decode()


def _bearer(origin: str, repository: str, parameters: dict[str, str], login: Login | None, send: Send) -> tuple[str, float]:
    realm = image_connections.split(parameters.get("realm", ""))
    # A registry that is asked over TLS must not have the password sent in the clear.
    if realm.scheme != "https" and not (realm.scheme == "http" and origin.startswith("http:")):
        raise errors.EngineError("the registry names a token server that is not asked over TLS", Code.IMAGE_DENIED)
    query = {"service": parameters.get("service", ""), "scope": parameters.get("scope") or f"repository:{repository}:pull", "client_id": "tes-server"}
    url = urllib.parse.urlunsplit((realm.scheme, realm.netloc, realm.path, "", ""))
    if login is not None and login.identity:
        body = urllib.parse.urlencode({**query, "grant_type": "refresh_token", "refresh_token": login.identity})
        answer = send("POST", url, headers={"Content-Type": "application/x-www-form-urlencoded"}, body=body)
    else:
        asked = [*urllib.parse.parse_qsl(realm.query), *query.items()]
        headers = {"Authorization": _basic(login)} if login is not None else {}
        answer = send("GET", f"{url}?{urllib.parse.urlencode(asked)}", headers=headers)
    if answer.status != 200:
        who = "the login that this server has" if login is not None else "a reader without a login"
        raise errors.EngineError(f"the registry's token server refuses {who} (status {answer.status})", Code.IMAGE_DENIED)
    try:
        given = msgspec.json.decode(answer.data, type=_Token)
    except image_manifest.UNDECODABLE as cause:
        raise errors.EngineError("the registry's token server gave something else than a token", Code.IMAGE_ERROR, transient=True) from cause
    token = given.token or given.access_token or ""
    if not token or not token.isascii() or not token.isprintable():
        raise errors.EngineError("the registry's token server gave no token", Code.IMAGE_DENIED)
    return f"Bearer {token}", max(given.expires_in or _SHORTEST, _SHORTEST) - _MARGIN
