"""The schemes `ftp` and `ftps`, inputs and outputs.

Downloads go on where they broke off, uploads too; both are checked against the size that the server tells. An upload gets
its name by a rename at its end. `ftps` is TLS from the first byte on port 990, its default, and on demand (AUTH TLS) on
any other. This module must never show a user's name or password.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import posixpath
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

from tes_server.errors import Canceled, StagingError
from tes_server.filer import schemes, wording
from tes_server.filer.allowance import Allowance
from tes_server.filer.connect import Dialer
from tes_server.filer.control import POLL, Control
from tes_server.filer.crew import SMALL
from tes_server.filer.ftp_connection import Connection, NoResume, Server, parse
from tes_server.filer.ftp_listing import Item, Kind
from tes_server.filer.manifest import Access
from tes_server.filer.patience import Passing, Patience
from tes_server.filer.schemes import Directory, Left, Link, LocalFile
from tes_server.filer.wording import Side
from tes_server.plan import paths

DEPTH = 64
"""Nested directories read: a server may show a link as the directory that it leads to, round in circles."""

STALE = 10.0
"""Seconds after which an idle connection is asked whether it still lives, before it gets a command that matters."""

Given = TypeVar("Given")


class Ftp:
    """ftp and ftps (schemes.Reader and schemes.Writer)."""

    keeps_links = False

    def __init__(self, access: Access, control: Control, attempt: str, side: Side) -> None:
        self.access = access
        self.control = control
        self.attempt = attempt
        self.side = side
        self._dialer = Dialer(access, control, side)
        self._allowance = Allowance(access, side)
        self._lock = threading.Lock()
        self._idle: dict[Server, list[tuple[float, Connection]]] = {}
        # Servers allow few connections to one address, and refuse all when there are more.
        self._places: dict[Server, threading.Semaphore] = {}

    def source(self, url: str, directory: bool = False) -> Iterator[schemes.File | schemes.Entry]:  # noqa: ARG002
        """See schemes.Reader."""
        if not self.access.ftp:
            raise StagingError("ftp(s) inputs are switched off here", self.side.denied)
        server, relative = parse(url, self.side.error)
        top = self.tried(server, lambda connection: connection.look(connection.absolute(relative)))
        if top is None:
            raise StagingError("does not exist", self.side.missing)
        if top.kind is Kind.FILE:
            yield FtpFile(self, server, top.name, Item("", Kind.FILE, top.size))
            return
        waiting = [_Pending("", top.name, frozenset())]
        while waiting:
            here = waiting.pop()
            yield Directory(here.name)
            for item in self.tried(server, lambda connection: connection.items(here.path)):  # noqa: B023 - called at once
                yield from self._entry(server, here, item, waiting)

    def _entry(self, server: Server, here: _Pending, item: Item, waiting: list[_Pending]) -> Iterator[schemes.File | schemes.Entry]:
        name, path = posixpath.join(here.name, item.name), posixpath.join(here.path, item.name)
        if item.kind is Kind.LINK:
            found = self.tried(server, lambda connection: connection.look(path))
            if found is None or found.kind is Kind.DIRECTORY:
                yield Left(name, "is a link that leads " + ("nowhere" if found is None else "to a directory, which FTP cannot follow safely"))
                return
            item = item._replace(size=found.size)
        if item.kind in (Kind.FILE, Kind.LINK):
            yield FtpFile(self, server, path, item._replace(name=name))
        elif item.kind is Kind.OTHER:
            yield Left(name, "is neither a file nor a directory")
        elif item.unique and item.unique in here.above:
            yield Left(name, "is a directory above it")
        elif name.count("/") >= DEPTH:
            yield Left(name, f"is nested deeper than {DEPTH} directories")
        else:
            waiting.append(_Pending(name, path, here.above | {item.unique}))
            self._allowance.count(len(waiting))

    def split(self, url: str) -> tuple[str, str]:
        """See schemes.Writer."""
        head, slash, name = url.rpartition("/")
        return head + slash, wording.unquoted(paths.FTP_TYPE.sub("", name))

    def target(self, url: str) -> FtpTarget:
        """See schemes.Writer. The directory is made with the first thing that is put into it."""
        if url.partition(":")[0].lower() not in self.access.uploads:
            raise StagingError("outputs may not go to ftp(s) here", self.side.denied)
        return FtpTarget(self, *parse(url, self.side.error))

    def finish(self) -> None:
        """See schemes.Writer: FTP has no way to ask for more than the server's word that a file is there."""

    def close(self) -> None:
        """See schemes.Reader."""
        with self._lock:
            idle, self._idle = self._idle, {}
        for connections in idle.values():
            for _, connection in connections:
                connection.end()

    def tried(self, server: Server, action: Callable[[Connection], Given]) -> Given:
        """What `action` gives, with as many tries as it takes."""
        patience = Patience(self.access, self.control, self.side.error)
        while True:
            try:
                with self.connected(server) as connection:
                    return action(connection)
            except Passing as met:
                patience.failed(met)

    @contextlib.contextmanager
    def connected(self, server: Server) -> Iterator[Connection]:
        """A connection for one thread; given back if the block ends well. Waits while as many as are allowed are taken."""
        with self._lock:
            places = self._places.setdefault(server, threading.Semaphore(self.access.parts))
        while not places.acquire(timeout=POLL):
            self.control.check()
        try:
            connection = self._idle_one(server)
            if connection is None:
                connection = Connection(server, self._dialer, self.access, self.control, self.side)
                try:
                    connection.begin()
                except BaseException:
                    connection.end()
                    raise
            try:
                yield connection
            except BaseException:
                # Whatever it was, the conversation may be in the middle of something.
                connection.end()
                raise
            with self._lock:
                self._idle.setdefault(server, []).append((time.monotonic(), connection))
        finally:
            places.release()

    def _idle_one(self, server: Server) -> Connection | None:
        while True:
            with self._lock:
                waiting = self._idle.get(server)
                if not waiting:
                    return None
                since, connection = waiting.pop()
            if time.monotonic() - since < STALE or connection.alive():
                return connection
            connection.end()


class _Pending(NamedTuple):
    """A directory still to be listed; `above` identifies it and those above it, where the server tells one from another."""

    name: str
    path: str
    above: frozenset[str]


class FtpFile:
    """One file of a server (schemes.File)."""

    def __init__(self, ftp: Ftp, server: Server, path: str, item: Item) -> None:
        self.name = item.name
        self.size = item.size
        self.executable = item.executable
        self._ftp = ftp
        self._server = server
        self._path = path

    def fill(self, fd: int, control: Control) -> int:
        """Download into `fd`; returns the size. See schemes.File."""
        patience = Patience(self._ftp.access, control, self._ftp.side.error)
        way = _Download(self._path, fd, self.size, control)
        while True:
            try:
                with self._ftp.connected(self._server) as connection:
                    way.go(connection)
            except Passing as met:
                if not way.whole:
                    patience.failed(met, way.position)
                    continue
            return way.position


class _Download:
    """How far one download came, over all its tries."""

    def __init__(self, path: str, fd: int, size: int, control: Control) -> None:
        self.position = 0
        self._path = path
        self._fd = fd
        self._size = size
        self._stamp = ""
        self._control = control

    @property
    def whole(self) -> bool:
        """All bytes are there, whether or not the server found the words for it."""
        return self.position == self._size > 0

    def go(self, connection: Connection) -> None:
        """Fetch what is missing. Raises as `Connection` does."""
        if self.position or not 0 <= self._size <= SMALL:
            self._compare(connection)
        limit = self._size if self._size >= 0 else None
        try:
            connection.retrieve(self._path, self._fd, self.position, limit, self._moved)
        except NoResume:
            self._again()
            raise
        if limit is not None and self.position != limit:
            # It ended with all good words, and another length: the file is another one now.
            self._size = connection.size_of(self._path)
            raise Passing(f"the server sent {self.position} bytes of a file of {limit}")

    def _compare(self, connection: Connection) -> None:
        """Go on from where we are only in the file that we began with."""
        size, stamp = connection.size_of(self._path), connection.stamp_of(self._path)
        if self.position and (size < 0 or (size, stamp) != (self._size, self._stamp)):
            self._again()
        self._size, self._stamp = size, stamp

    def _again(self) -> None:
        os.ftruncate(self._fd, 0)
        self.position = 0

    def _moved(self, position: int) -> None:
        self._control.moved(position - self.position)
        self.position = position
        self._control.check()


class FtpTarget:
    """A directory of a server (schemes.Target)."""

    def __init__(self, ftp: Ftp, server: Server, path: str) -> None:
        self._ftp = ftp
        self._server = server
        self._path = path
        self._made: set[str] = set()

    def directory(self, name: str) -> None:
        """See schemes.Target."""
        self._ftp.tried(self._server, lambda connection: self._folder(connection, name))

    def link(self, link: Link) -> None:
        """See schemes.Target."""
        raise StagingError(f"{wording.printable(link.name)} is a link, and FTP has none", self._ftp.side.error)

    def put(self, name: str, file: LocalFile) -> int:
        """See schemes.Target."""
        folder, _, leaf = name.rpartition("/")
        fd = file.open()
        try:
            size = os.fstat(fd).st_size
            way = _Upload(self, folder, leaf, fd, size)
            patience = Patience(self._ftp.access, self._ftp.control, self._ftp.side.error)
            while True:
                try:
                    with self._ftp.connected(self._server) as connection:
                        way.go(connection)
                        return size
                except Passing as met:
                    patience.failed(met, way.position)
        except BaseException:
            self._remove(folder, leaf)
            raise
        finally:
            os.close(fd)

    def place(self, connection: Connection, folder: str, leaf: str) -> tuple[str, str]:
        """Where a file goes, and under which name it is made: the same for the same attempt, so that nothing is left over."""
        base = self._folder(connection, folder)
        digest = hashlib.blake2b(f"{self._ftp.attempt}\0{leaf}".encode("utf-8", "surrogateescape"), digest_size=12).hexdigest()
        return posixpath.join(base, leaf), posixpath.join(base, f".tes-{digest}")

    def _folder(self, connection: Connection, name: str) -> str:
        """The directory `name`, made if missing."""
        path = connection.absolute(posixpath.join(self._path, name))
        here = "/"
        for part in path.strip("/").split("/") if path not in self._made else ():
            here = posixpath.join(here, part)
            if part and here not in self._made and not connection.home.startswith(here.rstrip("/") + "/"):
                connection.make(here)
                self._made.add(here)
        return path

    def _remove(self, folder: str, leaf: str) -> None:
        """Take away a half of a file, if that can be done at once."""
        with contextlib.suppress(Passing, StagingError, Canceled), self._ftp.connected(self._server) as connection:
            connection.remove(self.place(connection, folder, leaf)[1])


class _Upload:
    """How far one upload came, over all its tries."""

    def __init__(self, target: FtpTarget, folder: str, leaf: str, fd: int, size: int) -> None:
        self.position = 0
        self._target = target
        self._folder = folder
        self._leaf = leaf
        self._fd = fd
        self._size = size

    def go(self, connection: Connection) -> None:
        """Send what is missing, and give it its name. Raises as `Connection` does."""
        path, temporary = self._target.place(connection, self._folder, self._leaf)
        if self.position:
            # What has really arrived. Sending bytes twice to the same place does no harm if a lost connection still writes.
            arrived = connection.size_of(temporary)
            self.position = arrived if 0 <= arrived <= self._size else 0
        try:
            connection.store(temporary, self._fd, self.position, self._moved)
        except NoResume:
            self.position = 0
            raise
        except Canceled:
            connection.abandon(temporary)
            raise
        arrived = connection.size_of(temporary)
        if arrived not in (-1, self._size):
            self.position = 0
            raise Passing(f"the server has {arrived} of {self._size} bytes after all were sent")
        connection.move(temporary, path)

    def _moved(self, position: int) -> None:
        self.position = position
