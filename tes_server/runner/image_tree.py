"""An image's tree while it is made: entries are put into it by a stranger's names, and none may land outside.

Every path is walked from the tree's root with `filer.rooted`, so that links mean what they mean inside the image (`/x` is
TREE/x, `..` stops at TREE) and the kernel follows none. Nothing else may write to the tree meanwhile. Directories get
their modes, owners and times at the end: until then they are open to us and closed to all others.

Left out: set-id bits, extended attributes, devices (the sandbox has its own /dev).
"""

from __future__ import annotations

import os
import pathlib
import stat
from collections.abc import Iterable

import msgspec

from tes_server.filer import rooted
from tes_server.filer.rooted import Descriptor, Realm
from tes_server.runner import image_manifest

DEEPEST = 180
"""Directories inside of one another: tes-step, which deletes trees, goes down 200."""
LONGEST = 4096
"""Bytes of a path: PATH_MAX."""
MOST = 2_000_000
"""Entries of one image. Large conda images have a few hundred thousand; names of one layer are kept in memory."""

_BITS = 0o1777
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_LATEST = 2**33
"""Seconds, in the year 2242: a time beyond it is a slip, which not every file system takes."""


class Owners(msgspec.Struct, frozen=True):
    """`ids` (first, count): an image's user U owns as first + U, and one beyond count as nobody. None: all is the server's own."""

    ids: tuple[int, int] | None

    def real(self, number: int) -> int:
        """The id on this machine; -1 = leave it."""
        if self.ids is None:
            return -1
        first, count = self.ids
        return first + (number if 0 <= number < count else min(65534, count - 1))


class Meta(msgspec.Struct, frozen=True):
    """What an entry has beside its content. `time`: nanoseconds."""

    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    time: int = 0


def meta(mode: int, uid: int, gid: int, seconds: float) -> Meta:
    """As an archive has it, within what a file system takes."""
    return Meta(mode & _BITS, uid, gid, int(min(max(seconds, 0), _LATEST) * 1_000_000_000))


class _Parent(msgspec.Struct, frozen=True):
    folder: Descriptor
    real: str
    """with links followed, "" for the root"""


class Tree:
    """A tree at `root`, an empty directory of ours. Not thread-safe. `errors.EngineError` for what cannot be, `OSError` of the disk."""

    def __init__(self, root: pathlib.Path, owners: Owners) -> None:
        self._realm = Realm(str(root))
        self._owners = owners
        self._directories: dict[str, Meta] = {"": Meta()}
        self._written: set[str] = set()
        self._count = 0
        self._last: tuple[str, _Parent] | None = None

    def begin_layer(self) -> None:
        """What was put so far is below the layer that follows."""
        self._written = set()

    def directory(self, path: str, found: Meta) -> None:
        """A directory; one that is there keeps what is in it."""
        if not path:
            self._directories[""] = found
            return
        parent, name, real = self._enter(path)
        try:
            status = os.lstat(name, dir_fd=parent.folder.fd)
        except FileNotFoundError:
            os.mkdir(name, 0o700, dir_fd=parent.folder.fd)
        else:
            if not stat.S_ISDIR(status.st_mode):
                self._remove(parent, name)
                os.mkdir(name, 0o700, dir_fd=parent.folder.fd)
        self._directories[real] = found

    def file(self, path: str, found: Meta, content: Iterable[memoryview], size: int) -> None:
        """A regular file of `size` bytes."""
        parent, name, _ = self._enter(path)
        try:
            fd = os.open(name, _NEW, 0o600, dir_fd=parent.folder.fd)
        except FileExistsError:
            self._remove(parent, name)
            fd = os.open(name, _NEW, 0o600, dir_fd=parent.folder.fd)
        try:
            for piece in content:
                size -= len(piece)
                while piece:
                    piece = piece[os.write(fd, piece) :]  # noqa: PLW2901 - what is left of it
            if size:
                raise image_manifest.unusable("a layer's archive ends in the middle of a file")
            if self._owners.ids is not None:
                os.fchown(fd, self._owners.real(found.uid), self._owners.real(found.gid))
            os.fchmod(fd, found.mode)
            os.utime(fd, ns=(found.time, found.time))
        finally:
            os.close(fd)

    def link(self, path: str, found: Meta, target: str) -> None:
        """A symbolic link, to anywhere: what follows it is inside of the image by then."""
        if not target or "\0" in target or len(os.fsencode(target)) >= LONGEST:
            raise image_manifest.unusable(f"{_shown(path)} is a link to nothing that could be")
        parent, name, _ = self._make_way(path)
        os.symlink(target, name, dir_fd=parent.folder.fd)
        self._finish_special(parent, name, found)

    def pipe(self, path: str, found: Meta) -> None:
        """A named pipe."""
        parent, name, _ = self._make_way(path)
        os.mkfifo(name, found.mode & 0o777, dir_fd=parent.folder.fd)
        self._finish_special(parent, name, found)

    def hard_link(self, path: str, target: str) -> None:
        """Another name for the file `target`, which must be there."""
        above, _, other = target.rpartition("/")
        there = self._look(above)
        try:
            status = os.lstat(other, dir_fd=there.folder.fd) if there is not None and other else None
        except FileNotFoundError:
            status = None
        if there is None or status is None or stat.S_ISDIR(status.st_mode):
            raise image_manifest.unusable(f"{_shown(path)} is a hard link to {_shown(target)}, which is not there or no file")
        parent, name, _ = self._make_way(path)
        try:
            os.link(other, name, src_dir_fd=there.folder.fd, dst_dir_fd=parent.folder.fd, follow_symlinks=False)
        except FileNotFoundError as cause:  # it was itself, or in what made way
            raise image_manifest.unusable(f"{_shown(path)} is a hard link to itself") from cause

    def white_out(self, path: str) -> None:
        """Take away what lower layers have at `path`."""
        above, _, name = path.rpartition("/")
        parent = self._look(above)
        if parent is not None:
            self._clear(parent, name)

    def make_opaque(self, path: str) -> None:
        """Take away what lower layers have in the directory `path`."""
        parent = self._look(path)
        if parent is not None:
            for name in rooted.names(parent.folder):
                self._clear(parent, name)

    def finish(self) -> None:
        """Give directories their modes, owners and times, the innermost first."""
        self._last = None
        for real, found in sorted(self._directories.items(), key=lambda item: item[0].count("/"), reverse=True):
            try:
                folder = rooted.listable(self._walk(real))
            except (FileNotFoundError, NotADirectoryError):  # a later layer has something else there, or nothing
                continue
            if self._owners.ids is not None:
                os.fchown(folder.fd, self._owners.real(found.uid), self._owners.real(found.gid))
            os.utime(folder.fd, ns=(found.time, found.time))
            os.fchmod(folder.fd, found.mode)

    def _walk(self, real: str) -> Descriptor:
        here = self._realm.root
        for name in real.split("/")[1:]:
            here = _below(here, name)
        return here

    def _enter(self, path: str) -> tuple[_Parent, str, str]:
        """The directory of an entry, its name, and its real path, which is noted as this layer's."""
        if not path:
            raise image_manifest.unusable("its root is something else than a directory")
        above, _, name = path.rpartition("/")
        parent = self._parent(above)
        real = f"{parent.real}/{name}"
        self._count += 1
        if self._count > MOST:
            raise image_manifest.unusable(f"it has more than {MOST} files")
        self._note(real)
        return parent, name, real

    def _note(self, real: str) -> None:
        """It is this layer's, and so are the directories that it is in."""
        while real and real not in self._written:
            self._written.add(real)
            real = real.rpartition("/")[0]

    def _make_way(self, path: str) -> tuple[_Parent, str, str]:
        """As `_enter`, and nothing is there any more."""
        parent, name, real = self._enter(path)
        self._remove(parent, name)
        return parent, name, real

    def _finish_special(self, parent: _Parent, name: str, found: Meta) -> None:
        where = parent.folder.fd
        if self._owners.ids is not None:
            os.chown(name, self._owners.real(found.uid), self._owners.real(found.gid), dir_fd=where, follow_symlinks=False)
        os.utime(name, ns=(found.time, found.time), dir_fd=where, follow_symlinks=False)

    def _parent(self, path: str) -> _Parent:
        """The directory `path`, links followed inside of the tree; what is missing is made. The last one is remembered."""
        if self._last is not None and self._last[0] == path:
            return self._last[1]
        place = self._place(path)
        folder, real = place.folder, place.real.rstrip("/").removesuffix("".join(f"/{name}" for name in place.rest))
        for name in place.rest:
            real = f"{real}/{name}"
            os.mkdir(name, 0o700, dir_fd=folder.fd)
            folder = _below(folder, name)
            self._directories[real] = Meta()
        parent = _Parent(folder, real)
        self._last = (path, parent)
        return parent

    def _look(self, path: str) -> _Parent | None:
        """The directory `path`, if it is there."""
        place = self._place(path)
        return None if place.rest else _Parent(place.folder, place.real.rstrip("/"))

    def _place(self, path: str) -> rooted.Place:
        try:
            place = self._realm.place(path)
        except OSError as cause:
            raise image_manifest.unusable(f"{_shown(path)} leads nowhere: {cause.strerror}") from cause
        if place.status is not None and not stat.S_ISDIR(place.status.st_mode):
            raise image_manifest.unusable(f"{_shown(path)} is no directory, but has files in it")
        if place.real.count("/") > DEEPEST or len(os.fsencode(place.real)) >= LONGEST:
            raise image_manifest.unusable(f"{_shown(path)} is too long or too deep")
        return place

    def _clear(self, parent: _Parent, name: str) -> None:
        """Remove `name`, but for what this layer put there itself: a whiteout is about lower layers only."""
        todo = [(parent, name)]
        while todo:
            above, inner = todo.pop()
            real = f"{above.real}/{inner}"
            if real not in self._written:
                self._remove(above, inner)
                continue
            try:
                below = _Parent(_below(above.folder, inner), real)
            except (FileNotFoundError, NotADirectoryError):
                continue
            todo += [(below, child) for child in rooted.names(below.folder)]

    def _remove(self, parent: _Parent, name: str) -> None:
        """Remove whatever is at `name`, if anything is."""
        try:
            os.unlink(name, dir_fd=parent.folder.fd)
        except FileNotFoundError:
            return
        except IsADirectoryError:
            _remove_directory(parent.folder, name)
        self._last = None  # it may have led through what is gone


def _below(folder: Descriptor, name: str) -> Descriptor:
    """The directory `name` in `folder`, not through a link."""
    return Descriptor(os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder.fd))


def _remove_directory(folder: Descriptor, name: str) -> None:
    """A directory and all that is in it, without recursion."""
    chain = [(folder, name, _emptied(_below(folder, name)))]
    while chain:
        above, inner, (own, left) = chain[-1]
        if left:
            child = left.pop()
            chain.append((own, child, _emptied(_below(own, child))))
        else:
            os.rmdir(inner, dir_fd=above.fd)
            chain.pop()


def _emptied(folder: Descriptor) -> tuple[Descriptor, list[str]]:
    """The directory without its files, and the names of its directories."""
    left = []
    for name in rooted.names(folder):
        try:
            os.unlink(name, dir_fd=folder.fd)
        except IsADirectoryError:
            left.append(name)
    return folder, left


def _shown(path: str) -> str:
    return repr(path if len(path) <= 100 else f"{path[:97]}...")
