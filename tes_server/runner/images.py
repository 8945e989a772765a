"""Images without a daemon: resolved to a digest, pulled from their registry, unpacked once, kept until others need the room.

A tag is asked for again after a while (`Options.fresh`). Where its registry does not answer, what the tag led to before is
used: an outage elsewhere must not stop a site that has the image. This module must never run anything of an image.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
import pathlib
import shutil
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import msgspec

from tes_server import errors, telemetry
from tes_server.filer.wording import FULL
from tes_server.model import image_names
from tes_server.model.image_names import Name
from tes_server.runner import image_archive, image_blobs, image_layers, image_manifest
from tes_server.runner.image_blobs import Source
from tes_server.runner.image_cache import Cache, Image, Listed
from tes_server.runner.image_connections import Passing
from tes_server.runner.image_registry import Mirror, Pace, Registry
from tes_server.runner.image_stream import TooLarge
from tes_server.runner.image_tree import Owners, Tree
from tes_server.telemetry import Code

__all__ = ["Image", "Images", "Listed", "Mirror", "Options", "Pace"]

logger = logging.getLogger(__name__)

_NEVER = frozenset({errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL, errno.ELOOP})
"""What the file system of the data directory says of names that it does not take: it will not the next time."""

_RESERVE = 20
"""One part in so many of the disk, but at most 10^9 bytes, is left free by a pull: the store is on it too."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How images are had."""

    limit: int = 0
    """bytes that all images may take together, and one by itself; 0 = a third of the disk"""
    mirrors: tuple[Mirror, ...] = ()
    plain_http: frozenset[str] = frozenset()
    """registries (host[:port]) asked without TLS, beside those on this machine"""
    docker_config: pathlib.Path | None = None
    """Docker's config.json, which has the logins"""
    fresh: float = 60.0
    """seconds for which the answer to what a tag leads to is good"""
    pace: Pace = Pace()
    brief: Pace = Pace(connect_timeout=5, read_timeout=5, tries=1)
    """for what a tag leads to now, where what it led to before is there: all tasks that name it wait for the answer"""


class Images:
    """The images of one data directory. Thread-safe; several processes may use the directory at the same time.

    `directory` is made, for this user only. `ids`: (first, count) of a root server's range: files are owned by first + the
    image's uid, as a user namespace that maps the range sees them. None: files are owned by this user.
    """

    def __init__(self, directory: pathlib.Path, options: Options, *, ids: tuple[int, int] | None) -> None:
        self._cache = Cache(directory)
        self._options = options
        self._owners = Owners(ids)
        registry = functools.partial(Registry, mirrors=options.mirrors, plain_http=options.plain_http, docker_config=options.docker_config)
        self._registry = registry(pace=options.pace)
        self._briefly = registry(pace=options.brief)
        self._lock = threading.Lock()
        self._turns: weakref.WeakValueDictionary[Name, threading.Lock] = weakref.WeakValueDictionary()
        self._fresh: dict[Name, float] = {}
        self._cache.sweep()

    @property
    def directory(self) -> pathlib.Path:
        """Where they are, and room for what must be written before it is one of them."""
        return self._cache.directory

    @property
    def limit(self) -> int:
        """Bytes that all images may take together."""
        return self._options.limit or shutil.disk_usage(self._cache.directory).total // 3

    def prepare(self, name: str) -> Image:
        """The image, pulled if it is not there.

        EngineError IMAGE_NOT_FOUND, IMAGE_DENIED, IMAGE_ERROR, DISK_FULL; `transient` where it may pass.
        """
        if image_names.is_digest(name):  # of one that was loaded from a file: no registry has it
            image = self.find(name)
            if image is None:
                raise errors.EngineError(f"{name}: the image with this digest is not here any more", Code.IMAGE_NOT_FOUND, transient=True)
            self._cache.touch(image)
            return image
        wanted = image_names.parse(name)
        with self._turn(wanted), _about(name):
            return self._look(wanted) or self._resolve(wanted)

    def pull(self, name: str) -> Image:
        """As `prepare`, but asks the registry even for a name that is fresh or was loaded from a file."""
        wanted = image_names.parse(name)
        with self._turn(wanted), _about(name):
            return self._fetch(wanted, self._registry.digest(wanted))

    def find(self, name: str) -> Image | None:
        """The image that `name`, or a digest, led to the last time, if it is still there. Asks nobody."""
        if image_names.is_digest(name):
            return self._cache.find(name)
        wanted = image_names.parse(name)
        known = self._cache.known(wanted)
        return self._cache.find(known.digest if known is not None else wanted.digest) if known or wanted.digest else None

    def loaded(self, name: str) -> bool:
        """Whether `name` stands for an image from a file, so that its registry is not asked."""
        known = self._cache.known(image_names.parse(name))
        return known is not None and known.loaded

    def hold(self, image: Image) -> int:
        """A descriptor; while anybody has it open, also after a fork, the image stays. EngineError, transient, if it is gone."""
        return self._cache.hold(image)

    def list(self) -> Sequence[Listed]:
        """What is in the cache, the one used last first."""
        return self._cache.images()

    def remove(self, name: str) -> None:
        """Forget a name; with its last name the image goes, and with its digest at once. EngineError if it is not there or in use."""
        image = self.find(name)
        if image is None:
            raise errors.EngineError(f"{name}: there is no such image here", Code.IMAGE_NOT_FOUND)
        if not image_names.is_digest(name):
            wanted = str(image_names.parse(name))
            others = {known.name for known in self._cache.names() if known.digest == image.digest and "@" not in known.name} - {wanted}
            if others:
                self._cache.forget(wanted)
                return
        if not self._cache.remove(image.digest):
            raise errors.EngineError(f"{name}: a task uses it", Code.IMAGE_ERROR, transient=True)

    def load(self, archive: BinaryIO, title: str = "archive", name: str = "") -> Sequence[tuple[str, Image]]:
        """The images of a seekable file made by `docker save` or in OCI's layout, each with a name it has there, or is given, or "".

        `title` is what errors call the file.
        """
        given = image_names.parse(name) if name else None
        found: list[tuple[str, Image]] = []
        with _about(title), image_archive.opened(archive, self._cache.directory) as packed:
            if given is not None and len(packed) != 1:
                raise image_manifest.unusable(f"a name can be given to one image, but there are {len(packed)}")
            for one in packed:
                image = self._make(one)
                names = (given,) if given is not None else tuple(map(image_names.parse, one.names))
                for each in names:
                    self._cache.learn(each, image.digest, loaded=True)
                found += [(str(each), image) for each in names] or [("", image)]
        return found

    # -- from a name to a digest -------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _turn(self, name: Name) -> Iterator[None]:
        """Of many threads that want one name, one asks."""
        with self._lock:
            turn = self._turns.setdefault(name, threading.Lock())
        with turn:
            yield

    def _look(self, name: Name) -> Image | None:
        """What is there and need not be asked for."""
        known = self._cache.known(name)
        image = self.find(str(name))
        if image is None or not (name.digest or (known and known.loaded) or time.monotonic() < self._fresh.get(name, 0)):
            return None
        self._cache.touch(image)
        return image

    def _resolve(self, name: Name) -> Image:
        before = self.find(str(name))
        try:
            digest = name.digest or (self._registry if before is None else self._briefly).digest(name)
        except Passing as cause:
            if before is None:
                raise
            telemetry.log(logger, logging.WARNING, "image.registry.silent", image=str(name), used=before.digest, error=cause.public)
            self._note(name)
            self._cache.touch(before)
            return before
        return self._fetch(name, digest)

    def _note(self, name: Name) -> None:
        self._fresh[name] = time.monotonic() + self._options.fresh

    def _fetch(self, name: Name, digest: str) -> Image:
        """The image `digest`, that of an index maybe, which `name` leads to now."""
        exact = name.at(digest)
        image = self.find(str(exact)) or self._pull(exact)
        self._cache.learn(exact, image.digest)
        self._cache.learn(name, image.digest)
        self._note(name)
        self._cache.touch(image)
        return image

    # -- from a digest to a tree -------------------------------------------------------------------------------------

    def _pull(self, name: Name) -> Image:
        begun = time.monotonic()
        found = image_manifest.decode(*self._registry.manifest(name))
        if not isinstance(found, image_manifest.Manifest):
            name = name.at(image_manifest.choose(found).digest)
            if (image := self._cache.find(name.digest)) is not None:
                return image
            found = image_manifest.decode(*self._registry.manifest(name))
            if not isinstance(found, image_manifest.Manifest):
                raise image_manifest.unusable("its index leads to another index")
        source = image_blobs.Remote(self._registry, name, found)
        image = self._make(source)
        seconds = round(time.monotonic() - begun, 3)
        telemetry.log(logger, logging.INFO, "image.pulled", image=str(name), bytes=source.compressed, unpacked=image.size, seconds=seconds)
        return image

    def _make(self, source: Source) -> Image:
        """Unpack an image. Where the disk is full, others make way first."""
        self._cache.sweep()
        try:
            image = self._unpack(source)
        except errors.EngineError as cause:
            if cause.code != Code.DISK_FULL or not self._make_room(0, source.digest):
                raise
            image = self._unpack(source)
        self._make_room(self.limit, source.digest)
        return image

    def _unpack(self, source: Source) -> Image:
        with self._cache.claim(source.digest) as work:
            if work is None:
                return self._present(source.digest)
            disk = shutil.disk_usage(work)
            room = disk.free - min(disk.total // _RESERVE, 10**9) - source.compressed
            largest = min(self.limit, room)
            try:
                return self._cache.publish(work, self._build(source, work, largest))
            except TooLarge as cause:
                if room > self.limit:
                    raise
                raise errors.EngineError("the disk of the data directory has no room for it", Code.DISK_FULL, transient=True) from cause
            except OSError as cause:
                code = Code.DISK_FULL if cause.errno in FULL else Code.IMAGE_ERROR
                raise errors.EngineError(f"it cannot be unpacked: {os.strerror(cause.errno or errno.EIO)}", code, cause.errno not in _NEVER) from cause

    def _build(self, source: Source, work: pathlib.Path, largest: int) -> Image:
        """The image as a tree of at most `largest` bytes in the directory `work`."""
        root, size = work / "root", 0
        root.mkdir(mode=0o700)
        tree = Tree(root, self._owners)
        config = source.config(work)
        with source.layers(work) as layers:
            for layer, diff_id in zip(layers, config.rootfs.diff_ids, strict=True):
                size += image_layers.unpack(layer, diff_id, tree, largest - size)
        tree.finish()
        return Image(digest=source.digest, root=root, env=config.env, workdir=config.workdir, user=config.user, size=size)

    def _present(self, digest: str) -> Image:
        image = self._cache.find(digest)
        if image is None:
            raise errors.EngineError("it has just made way for others", Code.IMAGE_ERROR, transient=True)
        return image

    # -- room --------------------------------------------------------------------------------------------------------

    def _make_room(self, limit: int, keep: str) -> bool:
        """Delete what was not used for longest and nobody holds, until all images together are within `limit`. True if any was."""
        images = self._cache.images()
        total = sum(listed.image.size for listed in images)
        freed = False
        for listed in reversed(images):
            if total <= limit:
                break
            if listed.image.digest != keep and not listed.held and self._cache.remove(listed.image.digest):
                total -= listed.image.size
                freed = True
                telemetry.log(logger, logging.INFO, "image.evicted", image=listed.image.digest, names=listed.names, bytes=listed.image.size)
        return freed


@contextlib.contextmanager
def _about(name: str) -> Iterator[None]:
    """Errors say of which image they are."""
    try:
        yield
    except errors.EngineError as cause:
        raise errors.EngineError(f"{name}: {cause.public}", cause.code, cause.transient) from cause
