"""What a url scheme can do for the filer, and the registry of those there are.

A scheme is a module that implements `Reader`, `Writer` or both; it is imported when a url first names it, so that SDKs stay optional.
Implementations are held to `tests/contract/scheme_contract.py`. This module must never move a byte.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from tes_server.filer.control import Control
from tes_server.filer.manifest import Access
from tes_server.plan import objects

if TYPE_CHECKING:
    from tes_server.filer.ftp import Ftp
    from tes_server.filer.local import Files
    from tes_server.filer.objects import Objects
    from tes_server.filer.web import Web
    from tes_server.filer.web_upload import WebUploads

# -- what a source is made of; names are relative paths, "" is the source itself -----------------------------------


class File(Protocol):
    """A regular file."""

    @property
    def name(self) -> str:
        """Relative path, `/` between names; from a stranger: it may hold `..`, or bytes that are no UTF-8 (surrogateescape)."""

    @property
    def size(self) -> int:
        """Bytes, or -1 if that is not known before the transfer."""

    @property
    def executable(self) -> bool:
        """Somebody may execute it."""

    def fill(self, fd: int, control: Control) -> int:
        """Write all bytes to `fd`, an empty file; returns their number. Raises OSError, StagingError, or Canceled."""


class LocalFile(File, Protocol):
    """A regular file on this machine: what uploads take."""

    def open(self) -> int:
        """A new descriptor for reading, which the caller closes. OSError if the file is not what it was."""


@dataclasses.dataclass(frozen=True, slots=True)
class Directory:
    """A directory; comes before what it holds."""

    name: str


@dataclasses.dataclass(frozen=True, slots=True)
class Link:
    """A relative symbolic link that stays inside the source."""

    name: str
    target: str


@dataclasses.dataclass(frozen=True, slots=True)
class Left:
    """Something that is left out on purpose; `why` goes on after its name: "is a FIFO"."""

    name: str
    why: str


@dataclasses.dataclass(frozen=True, slots=True)
class Failed:
    """Something that should be there and cannot be read."""

    name: str
    cause: OSError


Entry = Directory | Link | Left | Failed
"""What a source may hold beside files."""


# -- schemes -------------------------------------------------------------------------------------------------------


class Target(Protocol):
    """A place below which files are put. Thread-safe; `name`s are relative paths without `..`, parents made as needed."""

    def directory(self, name: str) -> None:
        """Make an empty directory, or do nothing if there is one."""

    def link(self, link: Link) -> None:
        """Make a link, in place of a file or link of that name."""

    def put(self, name: str, file: LocalFile) -> int:
        """Put a file there, whole or not at all, in place of one of that name; returns its size in bytes."""


class Reader(Protocol):
    """A kind of url that inputs may come from. Errors are OSError or StagingError, never an SDK's own, and show no query."""

    def source(self, url: str, directory: bool = False) -> Iterator[File | Entry]:
        """The file at `url`, or everything below the directory at `url`, beginning with Directory("").

        `directory`: the task says that it is one, which decides where a url can be both.
        """

    def close(self) -> None:
        """Give back connections. Idempotent."""


class Writer(Protocol):
    """A kind of url that outputs may go to. Errors as in `Reader`."""

    keeps_links: bool
    """symbolic links can be stored there; where False, outputs are given with what their links lead to"""

    def split(self, url: str) -> tuple[str, str]:
        """The url of the directory that holds `url`, and the name in it, "" if `url` ends with a slash."""

    def target(self, url: str) -> Target:
        """The directory at `url` as a target; made with its parents if there is none."""

    def finish(self) -> None:
        """Make what was put durable. Called once, after the last put."""

    def close(self) -> None:
        """Give back connections. Idempotent."""


def _file(access: Access, control: Control, attempt: str) -> Files:
    from tes_server.filer import local

    return local.Files(access, control, attempt)


def _web(access: Access, control: Control, _attempt: str) -> Web:
    from tes_server.filer import web

    return web.Web(access, control)


def _ftp_in(access: Access, control: Control, attempt: str) -> Ftp:
    from tes_server.filer import ftp, wording

    return ftp.Ftp(access, control, attempt, wording.INPUT)


def _ftp_out(access: Access, control: Control, attempt: str) -> Ftp:
    from tes_server.filer import ftp, wording

    return ftp.Ftp(access, control, attempt, wording.OUTPUT)


def _web_out(access: Access, control: Control, _attempt: str) -> WebUploads:
    from tes_server.filer import web_upload

    return web_upload.WebUploads(access, control)


def _objects(access: Access, control: Control, _attempt: str) -> Objects:
    from tes_server.filer import objects

    return objects.Objects(access, control)


Made = TypeVar("Made")
Maker = Callable[[Access, Control, str], Made]
"""Makes a scheme for one stage step. The text is the attempt's own, and the same when the step is run again after a crash."""

READERS: dict[str, Maker[Reader]] = {
    "file": _file,
    "http": _web,
    "https": _web,
    "ftp": _ftp_in,
    "ftps": _ftp_in,
    **dict.fromkeys(objects.SCHEMES, _objects),
}
"""What inputs may come from, by the scheme's lower-case name."""

WRITERS: dict[str, Maker[Writer]] = {
    "file": _file,
    "http": _web_out,
    "https": _web_out,
    "ftp": _ftp_out,
    "ftps": _ftp_out,
    **dict.fromkeys(objects.SCHEMES, _objects),
}
"""What outputs may go to."""


def scheme_of(url: str, access: Access) -> str:
    """The scheme by which a url is handled: an `https` url of a blob in a store that may be used is `az`."""
    scheme = url.partition(":")[0].lower()
    return "az" if scheme == "https" and access.store_of(url) is not None else scheme


class Schemes(Generic[Made]):
    """Those of one stage step (READERS or WRITERS), each made when a url first needs it."""

    def __init__(self, registry: Mapping[str, Maker[Made]], access: Access, control: Control, attempt: str) -> None:
        self._registry = registry
        self._access = access
        self._control = control
        self._attempt = attempt
        self._made: dict[Maker[Made], Made] = {}

    def of(self, url: str) -> Made:
        """The one that knows `url`. KeyError if there is none."""
        maker = self._registry[scheme_of(url, self._access)]
        if maker not in self._made:
            self._made[maker] = maker(self._access, self._control, self._attempt)
        return self._made[maker]

    def used(self) -> Collection[Made]:
        """All that were made."""
        return self._made.values()
