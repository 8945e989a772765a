"""One http(s) request and its answer: redirects hop by hop, logins, and what a status means.

A url's query and password are sent to its own host and shown nowhere. This module must never try anything twice.
"""

from __future__ import annotations

import base64
import contextlib
import re
import ssl
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus

import urllib3

import tes_server
from tes_server.errors import StagingError
from tes_server.filer import connect, wording
from tes_server.filer.control import Control
from tes_server.filer.manifest import Access
from tes_server.filer.patience import Passing
from tes_server.filer.wording import Side
from tes_server.telemetry import Code

HOPS = 10
"""Redirects followed for one request; browsers allow 20, a download needs two or three."""

WORDS = 4096
"""Bytes of an error's body that are looked at."""

Body = Callable[[], Iterator[bytes]]
"""Begins a request's body anew."""

_SENT_AGAIN = frozenset({307, 308})
_REDIRECTS = _SENT_AGAIN | {301, 302, 303}
_DENIED = frozenset({401, 403, 407})
_MISSING = frozenset({404, 410})
_PASSING = frozenset({408, 425, 429})
_NEVER = frozenset({501, 505, 511})
_REASON = re.compile(rb"<Code>([A-Za-z]{1,60})</Code>")
"""How object stores name the reason of a refusal. Nothing else of their words is shown: they may repeat signatures."""


class Requests:
    """Sends the requests of one stage step. Thread-safe."""

    def __init__(self, access: Access, control: Control, side: Side) -> None:
        self._control = control
        self._side = side
        self._dialer = connect.Dialer(access, control, side)
        self._pools = connect.pools(self._dialer, access)
        self._away = connect.pools(self._dialer.away(), access)

    def close(self) -> None:
        """Give back connections."""
        self._pools.clear()
        self._away.clear()

    @contextlib.contextmanager
    def answer(self, method: str, url: str, headers: Mapping[str, str], good: frozenset[int], body: Body | None = None) -> Iterator[urllib3.BaseHTTPResponse]:
        """The answer after redirects, its status one of `good`, with its body still to be read.

        Raises Passing, StagingError or Canceled, also for what goes wrong while the block reads.
        """
        with self._translated():
            pools = self._pools
            for _ in range(HOPS + 1):
                response, host = self._send(pools, method, url, headers, body)
                try:
                    location = response.headers.get("Location")
                    if response.status not in (_REDIRECTS if body is None else _SENT_AGAIN) or not location:
                        self._check(response, good)
                        yield response
                        return
                finally:
                    # An answer read to its end has given its connection back already; any other is not worth reading on.
                    response.close()
                url = urllib.parse.urljoin(url, location)
                if not self._dialer.is_own(host):
                    # Whoever is asked elsewhere may not send us to what listens on this very machine.
                    pools = self._away
            raise StagingError(f"redirected more than {HOPS} times", self._side.error)

    def _send(self, pools: urllib3.PoolManager, method: str, url: str, headers: Mapping[str, str], body: Body | None) -> tuple[urllib3.BaseHTTPResponse, str]:
        try:
            parts = urllib.parse.urlsplit(url)
            login, _, host = parts.netloc.rpartition("@")
            if parts.scheme.lower() not in ("http", "https") or not parts.hostname:
                raise StagingError(f"{wording.redacted(url)} is no http(s) url", self._side.error)
            sent = {"Accept-Encoding": "identity", "User-Agent": f"tes-server/{tes_server.__version__}", **headers}
            if login:
                sent["Authorization"] = "Basic " + base64.b64encode(urllib.parse.unquote_to_bytes(login)).decode()
            plain = urllib.parse.urlunsplit((parts.scheme, host, parts.path, parts.query, ""))
            chunks = body() if body else None
            response = pools.urlopen(method, plain, headers=sent, body=chunks, redirect=False, retries=False, preload_content=False, decode_content=False)
            return response, parts.hostname
        except ValueError as cause:  # urllib3's LocationParseError and the UnicodeError of a bad host name are ValueErrors too
            raise StagingError(f"{wording.redacted(url)} is no valid url", self._side.error) from cause

    def _check(self, response: urllib3.BaseHTTPResponse, good: frozenset[int]) -> None:
        status = response.status
        if status in good:
            return
        words = f"the server answered {status}"
        with contextlib.suppress(ValueError):
            words = f"{words} ({HTTPStatus(status).phrase})"
        reason = _REASON.search(response.read(WORDS, decode_content=False))
        if reason:
            words = f"{words}: {reason[1].decode()}"
        if status in _DENIED:
            raise StagingError(words, self._side.denied)
        if status in _MISSING:
            raise StagingError(words, self._side.missing)
        if status == HTTPStatus.INSUFFICIENT_STORAGE:
            raise StagingError(words, Code.DISK_FULL)
        if status in _PASSING or (status >= 500 and status not in _NEVER):
            after = response.headers.get("Retry-After", "")
            raise Passing(words, float(after) if after.isascii() and after.isdigit() else 0.0)
        raise StagingError(words, self._side.error)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """What urllib3 raises, in our words: without the url that it puts into its messages."""
        try:
            yield
        except urllib3.exceptions.HTTPError as cause:
            self._control.check()
            if isinstance(cause.__cause__ or cause.__context__, ssl.SSLCertVerificationError):
                raise StagingError("the server's certificate is not trusted here", self._side.error) from cause
            late = isinstance(cause, urllib3.exceptions.TimeoutError)
            raise Passing("the server did not answer in time" if late else "the connection failed or broke off") from cause
