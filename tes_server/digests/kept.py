"""Images that the engine of this machine has: what it would run for a name, as far as that is not for a registry to say.

Asks only; this module must never pull, load or remove an image.
"""

from __future__ import annotations

import enum
from collections.abc import Callable

import msgspec

from tes_server import errors
from tes_server.model import image_names
from tes_server.runner import docker_images
from tes_server.runner.docker_client import Daemon
from tes_server.runner.images import Images

TIMEOUT = 10.0
"""Seconds for the engine's answer: tasks elsewhere must not wait for an engine that hangs."""


class When(enum.Enum):
    """When what the engine has counts."""

    FIRST = "it never was in a registry: none is asked"
    WITHOUT = "where no registry gives a digest"
    SILENT = "where the registry does not answer"


class Kept(msgspec.Struct, frozen=True):
    """An image that is here."""

    digest: str
    pinned: str
    """as in `base.Resolved`"""
    when: When


Look = Callable[[str], Kept | None]
"""From a name to what is here under it; None = nothing, or the engine does not say."""


def nothing(_image: str) -> None:
    """`Look` where there is no engine on this machine."""


def of_daemon(daemon: Daemon) -> Look:
    """Docker, or Podman's service: they run what they have, whatever the registry says."""

    def look(image: str) -> Kept | None:
        try:
            found = docker_images.find(daemon, image)
        except errors.EngineError:
            return None
        if found is None:
            return None
        digest = found.id if found.id.startswith("sha256:") else f"sha256:{found.id}"
        by_id = image_names.is_digest(image) or not found.digests
        return Kept(digest, digest, When.FIRST if by_id else When.WITHOUT)

    return look


def of_sandbox(images: Images) -> Look:
    """The sandbox's own images: those from a file are never asked for, others where their registry is silent."""

    def look(image: str) -> Kept | None:
        name = image_names.parse(image)
        found = images.find(str(name))
        if found is None:
            return None
        return Kept(found.digest, str(name.at(found.digest)), When.FIRST if images.loaded(image) else When.SILENT)

    return look
