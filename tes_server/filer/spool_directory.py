"""A spool's objects as files of a directory, which several machines may share (NFS, a parallel file system).

A file is written under another name, synced, and then gets its name by a rename, or by a hard link where only one may have it:
both are atomic on every file system worth sharing. This module must never write into a file that has its name already.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import secrets
from collections.abc import Collection, Iterator

from tes_server import errors

TEMPORARY = ".tes-"
"""How names begin that are no objects yet."""


class SpoolDirectory:
    """A directory as spool.Shelf; made if missing."""

    def __init__(self, directory: pathlib.Path, *, called: str = "spool", private: bool = False) -> None:
        """`called`: how errors name it. `private`: what is made here is for its owner alone; else the umask says for whom."""
        self._directory = directory
        self._called = called
        self._mask = 0o077 if private else 0

    def read(self, name: str, limit: int) -> bytes | None:
        """See spool.Shelf."""
        with self._translated(), contextlib.suppress(FileNotFoundError), (self._directory / name).open("rb") as file:
            data = file.read(limit + 1)
            return data if len(data) <= limit else None
        return None

    def write(self, name: str, data: bytes) -> None:
        """See spool.Shelf."""
        with self._translated(), self._written(name, data) as temporary:
            temporary.rename(self._directory / name)

    def create(self, name: str, data: bytes) -> bool:
        """See spool.Shelf. On NFS a link that was made may be told as one that was there."""
        with self._translated(), self._written(name, data) as temporary:
            try:
                os.link(temporary, self._directory / name)
            except FileExistsError:
                return False
        return True

    def names(self, prefix: str) -> Iterator[str]:
        """See spool.Shelf."""
        with self._translated():
            for folder, _, files in os.walk(self._directory / prefix, onerror=_unless_gone):
                for file in files:
                    if not file.startswith(TEMPORARY):
                        yield (pathlib.Path(folder) / file).relative_to(self._directory).as_posix()

    def remove(self, names: Collection[str]) -> None:
        """See spool.Shelf. Directories go with the last file, and so does what a crash left half written."""
        with self._translated():
            for name in names:
                (self._directory / name).unlink(missing_ok=True)
            for folder in dict.fromkeys((self._directory / name).parent for name in names):
                self._tidy(folder)

    def _tidy(self, folder: pathlib.Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            left = list(folder.iterdir())
            if any(not path.name.startswith(TEMPORARY) for path in left):
                return
            for path in left:
                path.unlink(missing_ok=True)
        while folder != self._directory:
            try:
                folder.rmdir()
            except OSError:  # somebody else has just put something there, or taken it away
                return
            folder = folder.parent

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as cause:
            raise errors.Unavailable(f"the {self._called} directory cannot be used: {os.strerror(cause.errno or 0)}") from cause

    @contextlib.contextmanager
    def _written(self, name: str, data: bytes) -> Iterator[pathlib.Path]:
        """A synced file beside `name`, gone after the block; what the block did to the directory is durable then."""
        folder = (self._directory / name).parent
        temporary = folder / f"{TEMPORARY}{secrets.token_hex(8)}"
        fd = self._open(temporary)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            yield temporary
            _sync(folder)
        finally:
            temporary.unlink(missing_ok=True)

    def _open(self, temporary: pathlib.Path) -> int:
        while True:
            self._make(temporary.parent)
            try:
                return os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666 & ~self._mask)
            except FileNotFoundError:
                continue  # a sweep took the directory that was just made

    def _make(self, folder: pathlib.Path) -> None:
        """A directory with its parents, each durable in the one above it."""
        if folder.is_dir():
            return
        self._make(folder.parent)
        with contextlib.suppress(FileExistsError, FileNotFoundError):
            folder.mkdir(0o777 & ~self._mask)
        with contextlib.suppress(FileNotFoundError):
            _sync(folder.parent)


def _sync(folder: pathlib.Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _unless_gone(cause: OSError) -> None:
    if not isinstance(cause, FileNotFoundError):
        raise cause
