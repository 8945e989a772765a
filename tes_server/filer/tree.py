"""Reading a local directory tree that somebody else made: the site's, or what a task left in its volume.

Symbolic links are kept where they are relative and stay inside the tree, else given as what they lead to within the
realm; FIFOs, sockets and devices are left out, never opened. This module must never write, nor follow a link except by
`rooted`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from typing import NamedTuple

from tes_server.filer import copying, rooted
from tes_server.filer.control import Control
from tes_server.filer.rooted import Descriptor, Realm
from tes_server.filer.schemes import Directory, Entry, Failed, Left, Link

DEPTH = 200
"""Nested directories read: each may cost a descriptor, of which a process often has 1024."""
DETOURS = 8
"""Links to directories followed one inside the other: without a bound a small tree of them unfolds to terabytes."""


class TreeFile:
    """A regular file found in a tree (schemes.LocalFile)."""

    __slots__ = ("_folder", "_leaf", "executable", "name", "size")

    def __init__(self, name: str, folder: Descriptor, leaf: str, status: os.stat_result) -> None:
        self.name = name
        self.size = status.st_size
        self.executable = bool(status.st_mode & 0o111)
        self._folder = folder
        self._leaf = leaf

    def open(self) -> int:
        """A new descriptor for reading. OSError if it is no regular file any more."""
        return rooted.open_file(self._folder, self._leaf)

    def fill(self, fd: int, control: Control) -> int:
        """Copy the file into `fd`; returns its size."""
        source = self.open()
        try:
            return copying.copy(source, fd, control)
        finally:
            os.close(source)


class _Pending(NamedTuple):
    """A directory still to be read, and how we came to it."""

    name: str
    folder: Descriptor
    leaf: str
    real: str
    depth: int
    """directories above it in the tree, or since the last detour: how far up a kept link may lead"""
    detours: int
    above: _Above | None


class _Above(NamedTuple):
    """The directories being read above one, as device and inode: a link back to one of them would lead round in circles."""

    key: tuple[int, int]
    above: _Above | None


def walk(realm: Realm, path: str, *, keep_links: bool, count: Callable[[int], None] = lambda _: None) -> Iterator[TreeFile | Entry]:
    """The file at `path`, or the directory and everything below it (names relative to it, directories before contents).

    `count` is told how many directories wait to be read, and may refuse. Raises OSError if `path` itself cannot be
    found or is a FIFO or the like; what is wrong below it becomes Left or Failed.
    """
    place = realm.find(path)
    if place.rest:
        (leaf,) = place.rest
        if place.status is None or not stat.S_ISREG(place.status.st_mode):
            yield Left("", f"is {_kind(place.status)}")
            return
        yield TreeFile("", place.folder, leaf, place.status)
        return
    waiting = [_Pending("", place.folder, ".", place.real, 0, 0, None)]
    while waiting:
        pending = waiting.pop()
        try:
            folder = rooted.listable(pending.folder, pending.leaf)
        except OSError as cause:
            yield Failed(pending.name, cause)
            continue
        if realm.hides(folder.fd):
            yield Left(pending.name, "is not for tasks")
            continue
        yield Directory(pending.name)
        for entry in _Level(realm, pending, folder, keep_links).entries():
            if isinstance(entry, _Pending):
                waiting.append(entry)
                count(len(waiting))
            else:
                yield entry


class _Level:
    """One directory of the walk."""

    def __init__(self, realm: Realm, pending: _Pending, folder: Descriptor, keep_links: bool) -> None:
        status = os.fstat(folder.fd)
        self._realm = realm
        self._here = pending
        self._folder = folder
        self._keep_links = keep_links
        self._above = _Above((status.st_dev, status.st_ino), pending.above)

    def entries(self) -> Iterator[TreeFile | Entry | _Pending]:
        """What is in it; directories as what is still to be read."""
        with os.scandir(self._folder.fd) as found:
            for item in found:
                name = f"{self._here.name}/{item.name}" if self._here.name else item.name
                try:
                    entry = self._entry(name, item.name, item.stat(follow_symlinks=False))
                except OSError as cause:
                    entry = Failed(name, cause)
                yield entry

    def _entry(self, name: str, leaf: str, status: os.stat_result) -> TreeFile | Entry | _Pending:
        if stat.S_ISREG(status.st_mode):
            return TreeFile(name, self._folder, leaf, status)
        if stat.S_ISDIR(status.st_mode):
            if name.count("/") >= DEPTH:
                return Left(name, f"is nested deeper than {DEPTH} directories")
            here = self._here
            return _Pending(name, self._folder, leaf, f"{here.real.rstrip('/')}/{leaf}", here.depth + 1, here.detours, self._above)
        if stat.S_ISLNK(status.st_mode):
            return self._link(name, os.readlink(leaf, dir_fd=self._folder.fd))
        return Left(name, f"is {_kind(status)}")

    def _link(self, name: str, target: str) -> TreeFile | Entry | _Pending:
        if self._keep_links and stays(target, self._here.depth):
            return Link(name, target)
        shown = f"is a link to {target!r}"
        try:
            # From the real directory, not through the path that led here: that may have changed.
            place = self._realm.find(target if target.startswith("/") else f"{self._here.real}/{target}")
        except rooted.Outside:
            raise
        except OSError as cause:
            return Left(name, f"{shown}, which cannot be followed ({cause.strerror})")
        if place.status is None or stat.S_ISDIR(place.status.st_mode):
            return self._detour(name, shown, place)
        if not stat.S_ISREG(place.status.st_mode):
            return Left(name, f"{shown}, which is {_kind(place.status)}")
        return TreeFile(name, place.folder, place.rest[0], place.status)

    def _detour(self, name: str, shown: str, place: rooted.Place) -> Entry | _Pending:
        key = (place.status.st_dev, place.status.st_ino) if place.status else None
        above: _Above | None = self._above
        while above is not None:
            if above.key == key:
                return Left(name, f"{shown}, a directory above it")
            above = above.above
        if self._here.detours >= DETOURS or name.count("/") >= DEPTH:
            return Left(name, f"{shown}, behind more than {DETOURS} such links")
        return _Pending(name, place.folder, ".", place.real, 0, self._here.detours + 1, self._above)


def stays(target: str, depth: int) -> bool:
    """True if a link in a directory `depth` levels below the top of a tree surely leads to a place inside of the tree.

    `..` counts only at the front: behind another name it may start from wherever a link of that name leads.
    """
    parts = [part for part in target.split("/") if part not in ("", ".")]
    rise = 0
    while rise < len(parts) and parts[rise] == "..":
        rise += 1
    return not target.startswith("/") and rise <= depth and ".." not in parts[rise:]


def _kind(status: os.stat_result | None) -> str:
    mode = status.st_mode if status else 0
    if stat.S_ISFIFO(mode):
        return "a FIFO"
    if stat.S_ISSOCK(mode):
        return "a socket"
    return "a device"
