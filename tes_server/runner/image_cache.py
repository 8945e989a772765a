"""The directory of images: unpacked trees by digest, the names that lead to them, and who may touch what when.

    <hex of digest>/         an image, whole and durable: root/, image.json, lock
    names/<hash>.json        a name and the digest it led to
    tmp-<hex of digest>/     an image in the making; whoever makes it holds a lock on the directory
    old-<hex>-*/             an image that was given up, while it is deleted

All of it is shared by several processes, by flock alone: a lock ends with its process, however that ends. An image in use
has its `lock` file held (shared) by its users. This module must never ask a registry.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import hashlib
import os
import pathlib
import subprocess
import uuid
from collections.abc import Iterator

import msgspec

from tes_server import errors, step
from tes_server.filer import durable
from tes_server.model.image_names import Name
from tes_server.runner import image_manifest
from tes_server.telemetry import Code


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """An image that is on this machine."""

    digest: str
    """of the manifest for this machine's architecture"""
    root: pathlib.Path
    """its file system, shared by all cells: never to be written to, nor a link in it followed"""
    env: dict[str, str]
    workdir: str
    user: str
    size: int = 0
    """bytes of its layers, uncompressed"""


class Known(msgspec.Struct, frozen=True):
    """A name in the cache. `loaded`: it came from a file, so that no registry is asked what it leads to."""

    name: str
    digest: str
    loaded: bool = False


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """An image of the cache for people to see."""

    image: Image
    names: tuple[str, ...]
    used: datetime.datetime
    held: bool


class Cache:
    """`directory` is made, for this user only. Thread-safe."""

    def __init__(self, directory: pathlib.Path) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if directory.stat().st_uid != os.geteuid():  # root could write to it, and the server could not read it then
            raise errors.SettingsError(f"{directory} belongs to user {directory.stat().st_uid}; run this as that user", "data")
        self.directory = directory.resolve()
        self._names = self.directory / "names"
        self._names.mkdir(mode=0o700, exist_ok=True)

    def find(self, digest: str) -> Image | None:
        """The image, if it is there and whole."""
        place = self._place(digest)
        try:
            image = msgspec.json.decode((place / "image.json").read_bytes(), type=Image, dec_hook=lambda kind, value: kind(value))
        except (FileNotFoundError, *image_manifest.UNDECODABLE):
            return None
        return msgspec.structs.replace(image, root=place / "root")  # the data directory may have been moved

    def known(self, name: Name) -> Known | None:
        """Where `name` led to, the last time."""
        with contextlib.suppress(FileNotFoundError, *image_manifest.UNDECODABLE):
            return msgspec.json.decode(self._file(str(name)).read_bytes(), type=Known)
        return None

    def learn(self, name: Name, digest: str, *, loaded: bool = False) -> None:
        """Keep where `name` leads to."""
        new = Known(str(name), digest, loaded)
        if self.known(name) != new:
            _write(self._file(str(name)), msgspec.json.encode(new))

    def forget(self, name: str) -> None:
        """Drop a name. Idempotent."""
        self._file(name).unlink(missing_ok=True)

    def names(self) -> list[Known]:
        """All of them."""
        found = []
        for file in self._names.glob("*.json"):
            with contextlib.suppress(FileNotFoundError, *image_manifest.UNDECODABLE):
                found.append(msgspec.json.decode(file.read_bytes(), type=Known))
        return found

    @contextlib.contextmanager
    def claim(self, digest: str) -> Iterator[pathlib.Path | None]:
        """An empty directory to make the image `digest` in, which nobody else has meanwhile; None where the image is there.

        Waits while somebody else makes it. What a dead process left of it is deleted.
        """
        place = self.directory / f"tmp-{_hex(digest)}"
        lock = _own(place)
        try:
            if self.find(digest) is not None:
                yield None
            else:
                for left in list(place.iterdir()):
                    wipe(left)
                self.remove(digest)  # one that is not whole
                yield place
        finally:
            wipe(place)
            os.close(lock)

    def publish(self, work: pathlib.Path, image: Image) -> Image:
        """Make the tree at `image.root`, in a claimed directory `work`, the image. Durable."""
        made = work / "image"
        made.mkdir(mode=0o700)
        image.root.rename(made / "root")
        (made / "lock").touch(mode=0o600)
        (made / "image.json").write_bytes(msgspec.json.encode(image, enc_hook=str))
        with _opened(self.directory) as directory:
            durable.sync_disk(directory)
            place = self._place(image.digest)
            made.rename(place)
            os.fsync(directory)
        return msgspec.structs.replace(image, root=place / "root")

    def hold(self, image: Image) -> int:
        """See `Images.hold`."""
        file = self._place(image.digest) / "lock"
        with contextlib.suppress(FileNotFoundError):
            fd = os.open(file, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(fd, fcntl.LOCK_SH)
                if _same(fd, file):
                    os.utime(fd)
                    return fd
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)
        raise errors.EngineError(f"the image {image.digest} has just made way for others", Code.IMAGE_ERROR, transient=True)

    def touch(self, image: Image) -> None:
        """Note that it is wanted now."""
        with contextlib.suppress(FileNotFoundError):
            os.utime(self._place(image.digest) / "lock")

    def images(self) -> list[Listed]:
        """All images, the one used last first."""
        names: dict[str, list[str]] = {}
        for known in self.names():
            names.setdefault(known.digest, []).append(known.name)
        found = []
        for place in self.directory.iterdir():
            image = self.find(f"sha256:{place.name}") if len(place.name) == 64 else None
            if image is None:
                continue
            with contextlib.suppress(FileNotFoundError):
                used = datetime.datetime.fromtimestamp((place / "lock").stat().st_mtime, datetime.UTC)
                found.append(Listed(image=image, names=tuple(sorted(names.get(image.digest, ()))), used=used, held=_is_held(place / "lock")))
        return sorted(found, key=lambda listed: listed.used, reverse=True)

    def remove(self, digest: str) -> bool:
        """Delete an image and its names. False if somebody holds it. Idempotent."""
        place, old = self._place(digest), self.directory / f"old-{_hex(digest)}-{uuid.uuid4().hex}"
        try:
            fd = os.open(place / "lock", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return True
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _same(fd, place / "lock"):
                place.rename(old)
        except BlockingIOError:
            return False
        finally:
            os.close(fd)
        for known in self.names():
            if known.digest == digest:
                self.forget(known.name)
        wipe(old)
        return True

    def sweep(self) -> None:
        """Delete what dead processes left."""
        for place in self.directory.glob("tmp-*"):
            with contextlib.suppress(FileNotFoundError, BlockingIOError), _opened(place) as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _same(lock, place):
                    wipe(place)
        for place in self.directory.glob("old-*"):
            wipe(place)

    def _place(self, digest: str) -> pathlib.Path:
        return self.directory / _hex(digest)

    def _file(self, name: str) -> pathlib.Path:
        # Names are longer than names of files may be.
        return self._names / f"{hashlib.sha256(name.encode()).hexdigest()}.json"


def wipe(path: pathlib.Path) -> None:
    """Delete a tree, whatever modes its directories have. Another process may be at it too; what is left after all is for `sweep`."""
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            subprocess.run([step.path(), "--wipe", path], check=False, capture_output=True)
            path.rmdir()
        else:
            path.unlink()


def _own(place: pathlib.Path) -> int:
    """`place` made and locked. Whoever is done with it deletes it, so that the lock may be one of a directory that is gone."""
    while True:
        place.mkdir(mode=0o700, exist_ok=True)
        try:
            fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        fcntl.flock(fd, fcntl.LOCK_EX)
        if _same(fd, place):
            return fd
        os.close(fd)


def _same(fd: int, path: pathlib.Path) -> bool:
    """Whether `fd` is what is at `path` now."""
    try:
        return os.path.samestat(os.fstat(fd), path.lstat())
    except FileNotFoundError:
        return False


def _is_held(file: pathlib.Path) -> bool:
    fd = os.open(file, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


@contextlib.contextmanager
def _opened(directory: pathlib.Path) -> Iterator[int]:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _write(file: pathlib.Path, data: bytes) -> None:
    """Whole or not at all."""
    new = file.with_suffix(f".{uuid.uuid4().hex}")
    try:
        with new.open("wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        new.rename(file)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")
