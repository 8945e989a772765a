"""What a cell runs in: an image of a registry, or this machine as the image `host`, as layers and facts for one sandbox.

A source is held: while its descriptors are open, nothing of it is removed. This module starts nothing and must never let
a link of an image lead out of it.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import msgspec

from tes_server import errors
from tes_server.filer import rooted
from tes_server.runner import host, host_tree, image_user
from tes_server.runner.images import Image, Images
from tes_server.telemetry import Code


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """`layers`: (directory, short name), the lowest first. `user` None: as this server. `held`: descriptors for the supervisor."""

    layers: tuple[tuple[pathlib.Path, str], ...]
    user: image_user.User | None
    env: dict[str, str]
    workdir: str
    shows_host: bool
    held: tuple[int, ...]

    def realm(self) -> rooted.Realm:
        """The image's own files."""
        return rooted.Realm(str(self.layers[0][0]))


class Sources:
    """All that tasks may name. `ids`: how many ids a sandbox has, 1 = an ordinary user's server."""

    def __init__(self, images: Images, tree: host_tree.HostTree, *, allow_host: bool, ids: int) -> None:
        self._images = images
        self._tree = tree
        self._allow_host = allow_host
        self._ids = ids
        self._users: dict[str, image_user.User] = {}  # by digest

    def prepare(self, image: str) -> str:
        """See `Engine.prepare`."""
        if image == host.IMAGE:
            if not self._allow_host:
                raise errors.EngineError("the image `host` is not allowed here: sandbox.allow_host must be true", Code.IMAGE_DENIED)
            return image
        found = self._images.prepare(image)
        self._user(found, image)
        return found.digest

    @contextmanager
    def hold(self, image: str) -> Iterator[Source]:
        """The source of a cell, by name or by what `prepare` returned. Its descriptors are closed at the end."""
        with ExitStack() as held:
            tree, descriptor = self._tree.hold()
            held.callback(os.close, descriptor)
            if image == host.IMAGE:
                yield self._host(tree, descriptor)
                return
            found = self._images.find(image)
            if found is None:
                raise errors.EngineError(f"{image} is not in the cache of images any more", Code.IMAGE_ERROR, transient=True)
            lock = self._images.hold(found)
            held.callback(os.close, lock)
            # Over the image, since its own resolv.conf may be a link to nowhere, and a file over a link is simply the file.
            names = () if self._odd_etc(found) else ((tree / host_tree.NAMES, "names"),)
            user = self._user(found, image)
            yield Source(
                layers=((found.root, "image"), *names),
                user=user,
                env={"PATH": host.PATH, "HOSTNAME": host_tree.HOSTNAME, "HOME": user.home, **found.env},
                workdir=found.workdir or "/",
                shows_host=False,
                held=(descriptor, lock),
            )

    def _host(self, tree: pathlib.Path, descriptor: int) -> Source:
        return Source(
            layers=((tree / host_tree.HOST, "host"),),
            user=None,
            env={"PATH": host.PATH, "HOSTNAME": host_tree.HOSTNAME},
            workdir="/",
            shows_host=True,
            held=(descriptor,),
        )

    def _user(self, image: Image, name: str) -> image_user.User:
        if image.digest not in self._users:
            try:
                # One id can be called by any number.
                self._users[image.digest] = image_user.find(rooted.Realm(str(image.root)), image.user, self._ids if self._ids > 1 else 2**32 - 1)
            except errors.EngineError as cause:
                raise errors.EngineError(f"{name}: {cause.public}", cause.code) from cause
        return self._users[image.digest]

    def _odd_etc(self, image: Image) -> bool:
        """An /etc that is a link would be hidden by a directory laid over it."""
        return (image.root / "etc").is_symlink()
