"""Inputs of the schemes `http` and `https`.

Large files come as ranges, several at once, where the server supports that; what a server says of ranges, lengths and
checksums is checked against what it sends. Transfers are resumed where they broke off. Bytes are kept as they are sent: a
Content-Encoding, which nobody asked for, is not undone. This module must never write a byte that belongs to another
version of the file than the one before it.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator

import urllib3

from tes_server import telemetry
from tes_server.errors import StagingError
from tes_server.filer import copying, wording
from tes_server.filer.control import Control
from tes_server.filer.crew import Crew
from tes_server.filer.digests import Digest
from tes_server.filer.manifest import Access
from tes_server.filer.patience import Passing, Patience
from tes_server.filer.web_request import Requests

_ANSWERS = frozenset({200, 206, 416})
_NUMBER = re.compile(r"[0-9]{1,18}")
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})")


class _NoRanges(Exception):
    """The server's ranges do not fit together (it ignores them, or the file changed): fetch it whole."""


class Web:
    """http and https (schemes.Reader)."""

    def __init__(self, access: Access, control: Control) -> None:
        self.access = access
        self.requests = Requests(access, control, wording.INPUT)

    def source(self, url: str, directory: bool = False) -> Iterator[WebFile]:  # noqa: ARG002
        """The file at `url`; these schemes know no directories."""
        if not self.access.http:
            raise StagingError("http(s) inputs are switched off here", telemetry.Code.INPUT_DENIED)
        yield WebFile(self, url)

    def close(self) -> None:
        """See schemes.Reader."""
        self.requests.close()


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
            raise StagingError("the server answers a plain request with a part of the file", telemetry.Code.INPUT_ERROR) from cause


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
        self._digest: Digest | None = None
        self._in_parts = False

    def run(self, control: Control) -> int:
        part = self._web.access.part_bytes
        first = _Piece(0, part if self._ranges else None)
        self._fetch(first, control)
        size = first.position
        if self._in_parts and self._total is not None:
            size = self._total
            below = control.below()
            with Crew(below, self._web.access.parts, "tes-part") as crew:
                for start in range(first.position, size, part):
                    crew.submit(functools.partial(self._fetch, _Piece(start, min(start + part, size)), below))
        if self._digest is not None and not self._digest.matches(self._fd, control):
            raise StagingError(f"does not have the {self._digest.name} checksum that its server states", telemetry.Code.INPUT_ERROR, transient=True)
        return size

    def _fetch(self, piece: _Piece, control: Control) -> None:
        """One piece, with as many requests as it takes."""
        patience = Patience(self._web.access, control, telemetry.Code.INPUT_ERROR, piece.position)
        while True:
            try:
                with self._web.requests.answer("GET", self._url, self._headers(piece), _ANSWERS) as response:
                    self._receive(response, piece, control)
                if piece.end is None or piece.position >= piece.end:
                    return
            except Passing as met:
                patience.failed(met, piece.position)

    def _headers(self, piece: _Piece) -> dict[str, str]:
        if not self._ranges or (piece.end is None and piece.position == 0):
            return {}
        headers = {"Range": f"bytes={piece.position}-{'' if piece.end is None else piece.end - 1}"}
        if self._tag is not None and self._tag.startswith('"'):
            headers["If-Range"] = self._tag
        return headers

    def _receive(self, response: urllib3.BaseHTTPResponse, piece: _Piece, control: Control) -> None:
        """Write the body of an answer at its place. Raises Passing if it ends early."""
        end = self._begin_range(response, piece) if response.status == 206 else self._begin_whole(response, piece)
        while data := response.read(copying.BUFFER, decode_content=False):
            control.check()
            if end is not None and piece.position + len(data) > end:
                raise _NoRanges
            piece.position += copying.write(self._fd, data, piece.position)
            control.moved(len(data))
        if end is not None and piece.position < end:
            raise Passing("the transfer broke off")
        if end is None and piece.position == 0 and not response.chunked:
            # What is cut off in the middle of its headers looks like this, and the library is content with it.
            raise Passing("the answer has neither a length nor a byte")

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
            self._digest = Digest.stated(response.headers, whole=False)
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
        self._total = int(length) if _NUMBER.fullmatch(length) else None
        self._digest = Digest.stated(response.headers, whole=True)
        piece.position, piece.end = 0, None
        return self._total


def _tag(response: urllib3.BaseHTTPResponse) -> str:
    """What tells one version of a file from another: its ETag, else its date."""
    return response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
