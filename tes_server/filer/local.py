"""Files of this machine: the `file` scheme, and the directories that files are put into (the volume, a file:// target).

What others may write is only reached through `rooted`. A file is made under a temporary name in its directory and
renamed, so that nobody ever sees half of one. This module must never hard-link: a task could change the source.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import urllib.parse
from collections.abc import Iterator

from tes_server.filer import copying, rooted, schemes, tree, wording
from tes_server.filer.allowance import Allowance
from tes_server.filer.control import Control
from tes_server.filer.durable import Written
from tes_server.filer.manifest import Access
from tes_server.filer.rooted import Descriptor, Realm
from tes_server.filer.schemes import Link
from tes_server.filer.wording import INPUT

CACHED = 64
"""Open directories kept for the next file: the files of one directory come one after the other."""


class Folder:
    """A directory that files are put into (schemes.Target). Below it no link is followed.

    Without `written` it is in a volume: everything may be read and written by any user of the task's images, whatever our
    umask. With it, in the site: the umask holds, a file that already has the same bytes is left alone (clients.md row 23),
    and `written` is told what to sync. Nothing is put into a directory that `realm` hides. `attempt`: see schemes.Maker.
    """

    def __init__(self, base: Descriptor, control: Control, attempt: str, written: Written | None = None, realm: Realm | None = None) -> None:
        self._base = base
        self._realm = realm
        self._control = control
        self._key = hashlib.blake2b(attempt.encode("utf-8", "surrogateescape"), digest_size=16).digest()
        self._written = written
        self._folders: dict[str, Descriptor] = {}

    def directory(self, name: str) -> None:
        """Make a directory with its parents; an existing one keeps what it holds."""
        self._folder(name)

    def link(self, link: Link) -> None:
        """Make a symbolic link, in place of a file or link."""
        folder, leaf, temporary = self._slot(link.name)
        with _replacing(folder, temporary, leaf):
            try:
                os.symlink(link.target, temporary, dir_fd=folder.fd)
            except FileExistsError:
                os.unlink(temporary, dir_fd=folder.fd)
                os.symlink(link.target, temporary, dir_fd=folder.fd)
        if self._written is not None:
            self._written.add(folder)

    def put(self, name: str, file: schemes.File) -> int:
        """Put a file there, whole or not at all; returns its size in bytes."""
        folder, leaf, temporary = self._slot(name)
        if self._written is not None and (size := self._unchanged(folder, leaf, file)) is not None:
            return size
        with _replacing(folder, temporary, leaf):
            fd = _create(folder, temporary, 0o777 if file.executable else 0o666)
            try:
                size = file.fill(fd, self._control)
                if self._written is None:
                    os.fchmod(fd, 0o777 if file.executable else 0o666)
            finally:
                os.close(fd)
        if self._written is not None:
            self._written.add(folder, leaf)
        return size

    def _slot(self, name: str) -> tuple[Descriptor, str, str]:
        """The directory of `name`, its last part, and the temporary name.

        The same attempt takes the same temporary name again after a crash: what it left half done is replaced, not left.
        """
        parent, _, leaf = name.rpartition("/")
        digest = hashlib.blake2b(leaf.encode("utf-8", "surrogateescape"), digest_size=8, key=self._key).hexdigest()
        return self._folder(parent), leaf, f".tes-{digest}"

    def _unchanged(self, folder: Descriptor, leaf: str, file: schemes.File) -> int | None:
        """The size of a target that already holds the bytes of `file`, else None. IsADirectoryError if a directory is there."""
        try:
            status = os.lstat(leaf, dir_fd=folder.fd)
        except FileNotFoundError:
            return None
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, "the target is a directory, and what the task made is a file")
        if not isinstance(file, tree.TreeFile) or not stat.S_ISREG(status.st_mode) or status.st_size != file.size:
            return None
        with contextlib.ExitStack() as opened:
            try:
                target = rooted.open_file(folder, leaf)
            except PermissionError:
                return None  # may be written, not read
            opened.callback(os.close, target)
            source = file.open()
            opened.callback(os.close, source)
            return status.st_size if copying.same(source, target, self._control) else None

    def _folder(self, name: str) -> Descriptor:
        if not name:
            return self._base
        known = self._folders.get(name)
        if known is not None:
            return known
        parent, _, leaf = name.rpartition("/")
        above = self._folder(parent)
        made = _enter(above, leaf, self._written)
        if self._realm is not None and self._realm.hides(made.fd):
            raise rooted.Outside
        if len(self._folders) >= CACHED:
            self._folders.clear()
        self._folders[name] = made
        return made


@contextlib.contextmanager
def _replacing(folder: Descriptor, temporary: str, leaf: str) -> Iterator[None]:
    """Rename `temporary` to `leaf` after the block, or remove it if the block fails."""
    try:
        yield
        os.rename(temporary, leaf, src_dir_fd=folder.fd, dst_dir_fd=folder.fd)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=folder.fd)
        raise


def _create(folder: Descriptor, name: str, mode: int) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(name, flags, mode, dir_fd=folder.fd)
    except FileExistsError:
        # Left by a run that crashed, or put there by somebody who guessed it: never written through.
        os.unlink(name, dir_fd=folder.fd)
        return os.open(name, flags, mode, dir_fd=folder.fd)


def _enter(folder: Descriptor, name: str, written: Written | None) -> Descriptor:
    inner, made = rooted.make(folder, name)
    if written is None:
        _open_up(inner)
    elif made:
        written.add(folder)
        written.add(inner)
    return inner


def _open_up(folder: Descriptor) -> None:
    """Mode 0777, where it is ours to set. Not only on directories just made: a crash may have come between mkdir and this."""
    status = os.fstat(folder.fd)
    if stat.S_IMODE(status.st_mode) & 0o777 != 0o777 and status.st_uid == os.geteuid():
        os.fchmod(folder.fd, 0o777)


def folder_at(realm: Realm, path: str, written: Written | None = None) -> Descriptor:
    """The directory at `path` of a realm, made with its parents where missing. Links on the way are followed within the realm.

    `written` as in `Folder`.
    """
    place = realm.place(path)
    if place.status is not None and place.rest:
        raise NotADirectoryError(errno.ENOTDIR, "a file is there, and a directory is needed")
    inner = rooted.listable(place.folder)
    for name in place.rest:
        inner = _enter(inner, name, written)
    if written is None and not place.rest:
        _open_up(inner)
    return inner


class Files:
    """The scheme `file`: paths of this machine under the allowed roots, all links followed (schemes.Reader and schemes.Writer)."""

    keeps_links = True

    def __init__(self, access: Access, control: Control, attempt: str) -> None:
        # A root may itself be reached through links; what counts is where it really is.
        roots = {root: os.path.realpath(root) for root in access.roots}
        reach = access.reach
        allowed = roots.values() if reach is None else [place for root, real in roots.items() for place in reach.within(root, real)]
        self._realm = Realm("/", allowed, access.hidden)
        self._control = control
        self._attempt = attempt
        self._allowance = Allowance(access, INPUT)
        self._written = Written()
        self._targets: dict[str, Folder] = {}

    def source(self, url: str, directory: bool = False) -> Iterator[tree.TreeFile | schemes.Entry]:  # noqa: ARG002 - a path is never both
        """See schemes.Reader. Links are kept where they stay in the source; one that leads out of the roots is Failed."""
        return tree.walk(self._realm, _path(url), keep_links=True, count=self._allowance.count)

    def split(self, url: str) -> tuple[str, str]:
        """See schemes.Writer."""
        head, slash, name = url.rpartition("/")
        return head + slash, wording.unquoted(name)

    def target(self, url: str) -> Folder:
        """See schemes.Writer."""
        path = _path(url)
        if path not in self._targets:
            if len(self._targets) >= CACHED:
                self._targets.clear()
            base = folder_at(self._realm, path, self._written)
            self._targets[path] = Folder(base, self._control, self._attempt, self._written, self._realm)
        return self._targets[path]

    def finish(self) -> None:
        """See schemes.Writer."""
        self._written.sync()

    def close(self) -> None:
        """See schemes.Writer."""
        self._targets.clear()


def _path(url: str) -> str:
    return wording.unquoted(urllib.parse.urlsplit(url).path)
