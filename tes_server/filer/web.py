"""The schemes `http` and `https`, inputs only.

Large files come as ranges, several at once, where the server supports that; what a server says of ranges and lengths is
checked against what it sends. Transfers are resumed where they broke off. Redirects are followed here, hop by hop, to
http(s) only. A url's query and password are sent to its own host and shown nowhere.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import os
import re
import ssl
import urllib.parse
from collections.abc import Iterator
from http import HTTPStatus

import urllib3

import tes_server
from tes_server import errors, telemetry
from tes_server.filer import connect, copying, wording
from tes_server.filer.control import Control
from tes_server.filer.crew import Crew
from tes_server.filer.manifest import Access

HOPS = 10
"""Redirects followed for one request; browsers allow 20, a download needs two or three."""

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_DENIED = frozenset({401, 403, 407})
_MISSING = frozenset({404, 410})
_PASSING = frozenset({408, 425, 429})
_NEVER = frozenset({501, 505, 511})
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


class _PassingFailure(Exception):
    """Something that may go better next time. `after` is what the server asks us to wait, in seconds."""

    def __init__(self, words: str, after: float = 0.0) -> None:
        super().__init__(words)
        self.after = after


class _NoRanges(Exception):
    """The server's ranges do not fit together (it ignores them, or the file changed): fetch it whole."""


class Web:
    """http and https (schemes.Reader)."""

    def __init__(self, access: Access, control: Control) -> None:
        self.access = access
        self._pools = connect.pools(access, control, wording.INPUT)

    def source(self, url: str) -> Iterator[WebFile]:
        """The file at `url`; these schemes know no directories."""
        if not self.access.http:
            raise errors.StagingError("http(s) inputs are switched off here", telemetry.Code.INPUT_DENIED)
        yield WebFile(self, url)

    def close(self) -> None:
        """See schemes.Reader."""
        self._pools.clear()

    @contextlib.contextmanager
    def get(self, url: str, headers: dict[str, str]) -> Iterator[urllib3.BaseHTTPResponse]:
        """The answer to a GET, after redirects, with its body still to be read. Raises for every answer but 200, 206 and 416."""
        for _ in range(HOPS + 1):
            response = self._request(url, headers)
            try:
                location = response.headers.get("Location")
                if response.status not in _REDIRECTS or not location:
                    _check_status(response)
                    yield response
                    return
                url = urllib.parse.urljoin(url, location)
            finally:
                # An answer read to its end has given its connection back already; any other is not worth reading on.
                response.close()
        raise errors.StagingError(f"redirected more than {HOPS} times", telemetry.Code.INPUT_ERROR)

    def _request(self, url: str, headers: dict[str, str]) -> urllib3.BaseHTTPResponse:
        try:
            parts = urllib.parse.urlsplit(url)
            login, _, host = parts.netloc.rpartition("@")
            if parts.scheme not in ("http", "https") or not host:
                raise errors.StagingError(f"{wording.redacted(url)} is no http(s) url", telemetry.Code.INPUT_ERROR)
            headers = {"Accept-Encoding": "identity", "User-Agent": f"tes-server/{tes_server.__version__}", **headers}
            if login:
                headers["Authorization"] = "Basic " + base64.b64encode(urllib.parse.unquote_to_bytes(login)).decode()
            plain = urllib.parse.urlunsplit((parts.scheme, host, parts.path, parts.query, ""))
            return self._pools.urlopen("GET", plain, headers=headers, redirect=False, retries=False, preload_content=False, decode_content=False)
        except ValueError as cause:  # urllib3's LocationParseError and the UnicodeError of a bad host name are ValueErrors too
            raise errors.StagingError(f"{wording.redacted(url)} is no valid url", telemetry.Code.INPUT_ERROR) from cause


def _check_status(response: urllib3.BaseHTTPResponse) -> None:
    status = response.status
    if status in (200, 206, 416):
        return
    words = f"the server answered {status}"
    with contextlib.suppress(ValueError):
        words = f"{words} ({HTTPStatus(status).phrase})"
    if status in _DENIED:
        raise errors.StagingError(words, telemetry.Code.INPUT_DENIED)
    if status in _MISSING:
        raise errors.StagingError(words, telemetry.Code.INPUT_NOT_FOUND)
    if status in _PASSING or (status >= 500 and status not in _NEVER):
        after = response.headers.get("Retry-After", "")
        raise _PassingFailure(words, float(after) if after.isascii() and after.isdigit() else 0.0)
    raise errors.StagingError(words, telemetry.Code.INPUT_ERROR)


class WebFile:
    """One file of a web server (schemes.File)."""

    name = ""
    size = -1
    executable = False

    def __init__(self, web: Web, url: str) -> None:
        self._web = web
        self._url = url

    def fill(self, fd: int, control: Control) -> int:
        """Download into `fd`; returns the size. StagingError; its `transient` says that tries ran out, not that it is hopeless."""
        try:
            return _Download(self._web, self._url, fd, ranges=True).run(control)
        except _NoRanges:
            os.ftruncate(fd, 0)
        try:
            return _Download(self._web, self._url, fd, ranges=False).run(control)
        except _NoRanges as cause:
            raise errors.StagingError("the server answers a plain request with a part of the file", telemetry.Code.INPUT_ERROR) from cause


class _Piece:
    """Bytes to fetch from `position` up to `end`, or with None to wherever the file ends."""

    def __init__(self, position: int, end: int | None) -> None:
        self.position = position
        self.end = end


class _Download:
    """One way through a file: with `ranges`, in parts where the server agrees; else in one go, from the start after each failure."""

    def __init__(self, web: Web, url: str, fd: int, *, ranges: bool) -> None:
        self._web = web
        self._url = url
        self._fd = fd
        self._ranges = ranges
        self._total: int | None = None
        self._tag: str | None = None
        self._in_parts = False

    def run(self, control: Control) -> int:
        part = self._web.access.part_bytes
        first = _Piece(0, part if self._ranges else None)
        self._fetch(first, control)
        if not self._in_parts or self._total is None:
            return first.position
        below = control.below()
        with Crew(below, self._web.access.parts, "tes-part") as crew:
            for start in range(first.position, self._total, part):
                crew.submit(functools.partial(self._fetch, _Piece(start, min(start + part, self._total)), below))
        return self._total

    def _fetch(self, piece: _Piece, control: Control) -> None:
        """One piece, with as many requests as it takes."""
        access = self._web.access
        failures, mark = 0, piece.position
        while True:
            try:
                with self._web.get(self._url, self._headers(piece)) as response:
                    self._receive(response, piece, control)
                if piece.end is None or piece.position >= piece.end:
                    return
            except (_PassingFailure, urllib3.exceptions.HTTPError) as cause:
                control.check()
                if isinstance(cause.__cause__ or cause.__context__, ssl.SSLCertVerificationError):
                    raise errors.StagingError("the server's certificate is not trusted here", telemetry.Code.INPUT_ERROR) from cause
                if piece.position - mark >= access.part_bytes:
                    failures, mark = 0, piece.position
                failures += 1
                if failures >= access.tries:
                    raise errors.StagingError(f"{_words(cause)}, {failures} times in a row", telemetry.Code.INPUT_ERROR, transient=True) from cause
                asked = cause.after if isinstance(cause, _PassingFailure) else 0.0
                control.pause(min(max(asked, access.first_delay * 2 ** (failures - 1)), access.longest_delay))

    def _headers(self, piece: _Piece) -> dict[str, str]:
        if not self._ranges or (piece.end is None and piece.position == 0):
            return {}
        headers = {"Range": f"bytes={piece.position}-{'' if piece.end is None else piece.end - 1}"}
        if self._tag is not None and self._tag.startswith('"'):
            headers["If-Range"] = self._tag
        return headers

    def _receive(self, response: urllib3.BaseHTTPResponse, piece: _Piece, control: Control) -> None:
        """Write the body of an answer at its place. Raises _PassingFailure if it ends early."""
        end = self._begin_range(response, piece) if response.status == 206 else self._begin_whole(response, piece)
        while data := response.read(copying.BUFFER, decode_content=False):
            control.check()
            if end is not None and piece.position + len(data) > end:
                raise _NoRanges
            piece.position += copying.write(self._fd, data, piece.position)
        if end is not None and piece.position < end:
            raise _PassingFailure("the transfer broke off")

    def _begin_range(self, response: urllib3.BaseHTTPResponse, piece: _Piece) -> int:
        """Where the body of a 206 ends, once it is sure that it begins where we are, in the same file."""
        stated = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if stated is None or not self._ranges:
            raise _NoRanges
        start, last, total = (int(number) for number in stated.groups())
        tag = _tag(response)
        known = self._tag is not None
        if start != piece.position or last < start or last >= total or (known and tag != self._tag) or self._total not in (None, total):
            raise _NoRanges
        if not known:
            self._tag, self._total, self._in_parts = tag, total, True
        piece.end = total if piece.end is None else min(piece.end, total)
        return last + 1

    def _begin_whole(self, response: urllib3.BaseHTTPResponse, piece: _Piece) -> int | None:
        """Where the body of a 200 ends, if the server says so; the piece becomes the whole file, from its start."""
        if response.status == 416 or self._in_parts:
            raise _NoRanges
        if piece.position:
            os.ftruncate(self._fd, 0)
        length = response.headers.get("Content-Length", "")
        self._tag = _tag(response)
        self._total = int(length) if length.isascii() and length.isdigit() else None
        piece.position, piece.end = 0, None
        return self._total


def _tag(response: urllib3.BaseHTTPResponse) -> str:
    """What tells one version of a file from another: its ETag, else its date."""
    return response.headers.get("ETag") or response.headers.get("Last-Modified") or ""


def _words(cause: Exception) -> str:
    """A failure without the url that urllib3 puts into its messages."""
    if isinstance(cause, urllib3.exceptions.TimeoutError):
        return "the server did not answer in time"
    return str(cause) if isinstance(cause, _PassingFailure) else "the connection failed or broke off"
