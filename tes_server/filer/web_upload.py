"""Outputs of the schemes `http` and `https`: one PUT for each file, with its length, as to a pre-signed url.

An upload cannot be resumed, only sent again. A url is sent as it came, never put together anew: signatures cover it. This
module must never make a directory, for HTTP has none.
"""

from __future__ import annotations

import functools
import os
import urllib.parse
from collections.abc import Iterator

from tes_server.errors import StagingError
from tes_server.filer import copying, wording
from tes_server.filer.control import Control
from tes_server.filer.manifest import Access
from tes_server.filer.patience import Passing, Patience
from tes_server.filer.schemes import Link, LocalFile
from tes_server.filer.web_request import Requests
from tes_server.telemetry import Code

_DONE = frozenset({200, 201, 202, 204})


class WebUploads:
    """http and https (schemes.Writer)."""

    keeps_links = False

    def __init__(self, access: Access, control: Control) -> None:
        self.access = access
        self.control = control
        self.requests = Requests(access, control, wording.OUTPUT)
        self._given: dict[tuple[str, str], str] = {}

    def split(self, url: str) -> tuple[str, str]:
        """See schemes.Writer. The query stays with the directory's url."""
        parts = urllib.parse.urlsplit(url)
        head, slash, name = parts.path.rpartition("/")
        folder, name = parts._replace(path=head + slash).geturl(), urllib.parse.unquote(name, errors="surrogateescape")
        self._given[folder, name] = url
        return folder, name

    def target(self, url: str) -> WebTarget:
        """See schemes.Writer. Nothing is made."""
        if url.partition(":")[0].lower() not in self.access.uploads:
            raise StagingError("outputs may not go to http(s) here", Code.OUTPUT_DENIED)
        return WebTarget(self, url)

    def url_of(self, folder: str, name: str) -> str:
        """The url of a file: as it was given, or below that of its directory."""
        given = self._given.get((folder, name))
        if given is not None:
            return given
        parts = urllib.parse.urlsplit(folder)
        _check_no_query(parts)
        return parts._replace(path=f"{parts.path.rstrip('/')}/{urllib.parse.quote(name, errors='surrogateescape')}").geturl()

    def finish(self) -> None:
        """See schemes.Writer: a server that has answered keeps what it was given."""

    def close(self) -> None:
        """See schemes.Writer."""
        self.requests.close()


class WebTarget:
    """The urls below one (schemes.Target)."""

    def __init__(self, uploads: WebUploads, url: str) -> None:
        self._uploads = uploads
        self._url = url

    def directory(self, name: str) -> None:  # noqa: ARG002 - of the protocol
        """See schemes.Target. Does nothing: a server that takes `a/b` makes of it what it likes."""
        _check_no_query(urllib.parse.urlsplit(self._url))

    def link(self, link: Link) -> None:
        """See schemes.Target."""
        raise StagingError(f"{wording.printable(link.name)} is a link, and HTTP has none", Code.OUTPUT_ERROR)

    def put(self, name: str, file: LocalFile) -> int:
        """See schemes.Target."""
        uploads = self._uploads
        url = uploads.url_of(self._url, name)
        patience = Patience(uploads.access, uploads.control, Code.OUTPUT_ERROR)
        fd = file.open()
        try:
            size = os.fstat(fd).st_size
            body = functools.partial(_chunks, fd, size, uploads.control)
            while True:
                try:
                    with uploads.requests.answer("PUT", url, {"Content-Length": str(size)}, _DONE, body):
                        return size
                except Passing as met:
                    patience.failed(met)
        finally:
            os.close(fd)


def _chunks(fd: int, size: int, control: Control) -> Iterator[bytes]:
    position = 0
    while position < size:
        control.check()
        data = os.pread(fd, min(copying.BUFFER, size - position), position)
        if not data:
            raise StagingError("was made shorter while it was sent", Code.OUTPUT_ERROR)
        yield data
        position += len(data)
        control.moved(len(data))


def _check_no_query(parts: urllib.parse.SplitResult) -> None:
    if parts.query:
        raise StagingError("is more than one file, and a url with a query names one", Code.OUTPUT_ERROR)
