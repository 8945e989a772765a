"""Looking paths up below a root, following symbolic links ourselves, so that none leads out.

Inside a task's volume links mean what they mean in its containers: `/x` is VOLUME/x, and `..` stops at VOLUME. On the site
links mean what they always mean, and the place reached must lie under an allowed root. Both are the same walk, from
directory descriptor to directory descriptor with O_NOFOLLOW: what is checked is what is opened, whoever renames meanwhile.
This module must never hand a path with more than one component to the kernel, the root itself apart.
"""

from __future__ import annotations

import errno
import os
import pathlib
import stat
from collections.abc import Callable, Iterable
from typing import NamedTuple

LINKS = 40
"""Links followed in one look-up, as the Linux kernel has it."""
STEPS = 10_000
"""Directories entered in one look-up: a chain of links made for the purpose could else ask for millions."""

_ENTER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Without O_NONBLOCK a FIFO put in place of a file would hang us.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


class Outside(PermissionError):
    """The place lies under none of the allowed roots."""

    def __init__(self) -> None:
        super().__init__(errno.EACCES, "is outside of the directories that this server may use")


class Descriptor:
    """A file descriptor that closes when its last user lets go: the files of one directory are moved by several threads."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        close(self.fd)


class Place(NamedTuple):
    """Where a path leads. `rest` are the names that do not exist (then `status` is None), or the one of a file in `folder`."""

    folder: Descriptor
    rest: tuple[str, ...]
    status: os.stat_result | None
    real: str
    """the path with all links followed, from the realm's root"""


class Realm:
    """A root, and the directories below it that may be used. Thread-safe."""

    def __init__(self, root: str | Descriptor, allowed: Iterable[str] = ("/",), hidden: Iterable[str] = ()) -> None:
        """`allowed` are real absolute paths as seen from `root`.

        `hidden` are directories of this machine that are outside, though they lie below one of `allowed`: known by what they
        are, not by their names, so that no other mount of them is a way in. One above an allowed directory closes nothing of that.
        """
        self.root = root if isinstance(root, Descriptor) else Descriptor(os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        self._allowed = tuple(allowed)
        self._hidden = frozenset(key for path in hidden if (key := _identity(path)) is not None)

    def hides(self, folder: int) -> bool:
        """True if the directory that is open as `folder` is one of `hidden`."""
        if not self._hidden:
            return False
        status = os.fstat(folder)
        return (status.st_dev, status.st_ino) in self._hidden

    def inner(self, path: str) -> Realm:
        """The directory at `path` as a realm of its own, all of which may be used. OSError as in `find`."""
        place = self.find(path)
        if place.rest:
            raise NotADirectoryError(errno.ENOTDIR, "is not a directory")
        return Realm(place.folder)

    def find(self, path: str) -> Place:
        """What is at `path`. Raises FileNotFoundError, `Outside` (whether or not anything is there), or another OSError."""
        place = self.place(path)
        if place.status is None:
            raise FileNotFoundError(errno.ENOENT, "does not exist")
        return place

    def place(self, path: str) -> Place:
        """As `find`, but a path that does not exist is a Place too."""
        place = self._walk(path)
        self._check(place.real)
        return place

    def _check(self, real: str) -> None:
        if not self._allows(real):
            raise Outside

    def _allows(self, real: str) -> bool:
        return any(real == root or real.startswith(root.rstrip("/") + "/") for root in self._allowed)

    def _walk(self, path: str) -> Place:
        here, names = self.root, list[str]()
        todo = path.split("/")[::-1]
        links = steps = 0
        while todo:
            name = todo.pop()
            if name in ("", "."):
                continue
            steps += 1
            if name == "..":
                # The kernel's own `..` could leave the root if the directory was moved: go down again by name instead.
                names = names[:-1]
                here = self.root
                for passed in names:
                    here = Descriptor(os.open(passed, _ENTER, dir_fd=here.fd))
                steps += len(names)
            else:
                try:
                    status = os.lstat(name, dir_fd=here.fd)
                except FileNotFoundError:
                    if ".." in todo:
                        self._check("/" + "/".join([*names, name]))
                    return _missing(here, names, [name, *reversed(todo)])
                if stat.S_ISLNK(status.st_mode):
                    links += 1
                    target = os.readlink(name, dir_fd=here.fd)
                    if target.startswith("/"):
                        here, names = self.root, []
                    todo.extend(target.split("/")[::-1])
                elif stat.S_ISDIR(status.st_mode):
                    here = Descriptor(os.open(name, _ENTER, dir_fd=here.fd))
                    names.append(name)
                    if self.hides(here.fd) and self._allows("/" + "/".join(names)):
                        raise Outside
                elif any(part not in ("", ".") for part in todo):
                    self._check("/" + "/".join([*names, name]))  # what others have is nobody's to find out
                    raise NotADirectoryError(errno.ENOTDIR, "a part of the path is a file")
                else:
                    return Place(here, (name,), status, "/" + "/".join([*names, name]))
            if links > LINKS or steps > STEPS:
                raise OSError(errno.ELOOP, "too many links")
        return Place(here, (), os.fstat(here.fd), "/" + "/".join(names))


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = pathlib.Path(path).stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _missing(here: Descriptor, names: list[str], rest: list[str]) -> Place:
    parts = tuple(part for part in rest if part not in ("", "."))
    if ".." in parts:
        raise FileNotFoundError(errno.ENOENT, "does not exist")
    return Place(here, parts, None, "/" + "/".join([*names, *parts]))


def listable(folder: Descriptor, name: str = ".") -> Descriptor:
    """A directory in `folder` (or `folder` itself) opened for listing and syncing, not through a link."""
    return Descriptor(os.open(name, _LIST, dir_fd=folder.fd))


def names(folder: Descriptor) -> list[str]:
    """The names in a directory, in no order."""
    opened = listable(folder)
    with os.scandir(opened.fd) as found:
        return [item.name for item in found]


def make(folder: Descriptor, name: str) -> tuple[Descriptor, bool]:
    """The directory `name` in `folder`, made if there is none, opened as by `listable`; and whether it was made here."""
    try:
        return listable(folder, name), False
    except FileNotFoundError:
        made = True
        try:
            os.mkdir(name, 0o777, dir_fd=folder.fd)
        except FileExistsError:
            made = False
        return listable(folder, name), made


def open_file(folder: Descriptor, name: str) -> int:
    """A regular file in `folder` opened for reading. OSError if it is anything else; never waits, never follows a link."""
    if not stat.S_ISREG(os.lstat(name, dir_fd=folder.fd).st_mode):
        raise OSError(errno.EINVAL, "is not a regular file")
    fd = os.open(name, _READ, dir_fd=folder.fd)
    # Between the look and the open another thing may have been put there.
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "is not a regular file")
    return fd
