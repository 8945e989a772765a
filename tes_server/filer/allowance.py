"""How much one stage step may move: files and bytes by the site's settings, and never the last of a disk.

Sources and tasks are strangers: a directory may hold millions of files, an answer may never end. Counted is what there is,
not what passed, so that repeats cost nothing. This module must never move a byte itself.
"""

from __future__ import annotations

import os
import threading
from typing import Generic, TypeVar

from tes_server.errors import StagingError
from tes_server.filer.control import Control
from tes_server.filer.crew import SMALL
from tes_server.filer.manifest import Access
from tes_server.filer.schemes import File
from tes_server.filer.wording import INPUT, Side
from tes_server.telemetry import Code

SPARE = 100_000_000
"""Bytes of a disk that inputs leave free, or a hundredth of it if that is less: stores and logs may be on it, and other tasks."""

F = TypeVar("F", bound=File)


class Exceeded(StagingError):
    """More than a task may move. Whatever is moved next would be more still."""


class Allowance:
    """That of one stage step, for all its threads."""

    def __init__(self, access: Access, side: Side) -> None:
        self._access = access
        self._code = Code.INPUT_TOO_LARGE if side is INPUT else Code.OUTPUT_TOO_LARGE
        self._what = "inputs" if side is INPUT else "outputs"
        self._lock = threading.Lock()
        self._entries = 0
        self._bytes = 0

    def entry(self) -> None:
        """One more file, directory or link. Raises Exceeded."""
        with self._lock:
            self._entries += 1
        self.count(self._entries)

    def count(self, entries: int) -> None:
        """Raises Exceeded if so many are too many. For what is listed before it is moved."""
        most = self._access.most_files
        if most and entries > most:
            raise Exceeded(f"the {self._what} are more than {most} files and directories (the setting `tasks.max_staged_files`)", self._code)

    def size(self, more: int) -> None:
        """`more` bytes to be moved. Raises Exceeded."""
        with self._lock:
            self._bytes += more
            total = self._bytes
        most = self._access.most_bytes
        if most and total > most:
            raise Exceeded(f"the {self._what} are more than {most / 1e9:g} GB (the setting `tasks.max_staged_gb`)", self._code)


class Measured(Generic[F]):
    """A file that counts while it comes (schemes.File): by its size if that is known, else by how far it has grown."""

    __slots__ = ("_allowance", "_file", "executable", "name", "size")

    def __init__(self, file: F, allowance: Allowance) -> None:
        self.name = file.name
        self.size = file.size
        self.executable = file.executable
        self._file = file
        self._allowance = allowance

    def fill(self, fd: int, control: Control) -> int:
        """See schemes.File. Raises Exceeded, or StagingError DISK_FULL before the disk is."""
        counted = max(self.size, 0)
        self._allowance.size(counted)
        _check_disk(fd)
        if 0 <= self.size <= SMALL:  # a look at each piece would cost as much as to copy it
            size = self._file.fill(fd, control)
            self._allowance.size(max(size - counted, 0))
            return size
        lock = threading.Lock()

        def grown(size: int) -> None:
            nonlocal counted
            with lock:
                more = max(size - counted, 0)
                counted += more
            if more:
                self._allowance.size(more)

        def moved(count: int) -> None:
            control.moved(count)
            grown(os.fstat(fd).st_size)
            _check_disk(fd)

        size = self._file.fill(fd, Control(control.stopped, moved))
        grown(size)
        return size


def _check_disk(fd: int) -> None:
    disk = os.fstatvfs(fd)
    if disk.f_bavail * disk.f_frsize < min(SPARE, disk.f_blocks * disk.f_frsize // 100):
        raise StagingError("the disk is all but full: the rest of it is kept for others", Code.DISK_FULL)
