"""One look-up of a name: its digest at the registry, then the manifest for the architecture, or what the engine of this machine has.

It waits for answers, in bounded time; `resolver` keeps that from everybody else. This module must never fetch a layer.
"""

from __future__ import annotations

import collections
import contextlib
import threading
import time
from collections.abc import Collection, Mapping

import msgspec

from tes_server import errors
from tes_server.digests import kept
from tes_server.digests.base import Answer, Resolved, Unresolved
from tes_server.digests.kept import When
from tes_server.filer.control import Control
from tes_server.model import image_names
from tes_server.model.image_names import Name
from tes_server.runner import image_connections, image_manifest
from tes_server.runner.image_connections import Passing
from tes_server.runner.image_registry import Pace, Registry
from tes_server.telemetry import Code

PACE = Pace(connect_timeout=5, read_timeout=10, tries=2, first_delay=0.5, longest_delay=2, longest_wait=2)
"""Patience with a registry in one look-up; tasks wait and ask again."""

LONGEST = 30.0
"""Seconds after which a look-up is cut off, however slowly the registry goes on answering."""

HELD = 300.0
"""Most seconds for which a registry is left alone that says it is asked too often."""

MOST = 4096
"""Indexes remembered: what is in one never changes, so that a tag costs one request that counts nowhere (HEAD)."""

HOST = "host"
"""The sandbox's name for this machine's own programs."""


_SHOWN = image_names.LONGEST + 80
"""Letters of a name in our words: registry and repository, and a digest."""


class _NoName(errors.EngineError):
    """Its words already say of which image they are."""


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where tasks of one backend run."""

    architecture: str = ""
    """as `uname -m` or images have it; "" = this machine's"""
    here: bool = False
    """on this machine: a registry on loopback is ours"""
    look: kept.Look = kept.nothing
    """what the engine of this machine has for them"""
    host: bool = False
    """the image `host` is this machine's own programs"""


class Lookup:
    """Thread-safe. `places` by the name of their backend; any other is elsewhere, with this machine's architecture.

    `addresses`: the registries for which `registry` has an address. `longest`: seconds after which a look-up is cut off.
    """

    def __init__(self, registry: Registry, places: Mapping[str, Place], addresses: Collection[str] = (), longest: float = LONGEST) -> None:
        self._registry = registry
        self._places = places
        self._addresses = addresses
        self._longest = longest
        self._closed = False
        self._lock = threading.Lock()
        self._manifests: collections.OrderedDict[tuple[Name, str], str] = collections.OrderedDict()
        self._held: dict[str, tuple[float, Passing]] = {}

    def close(self) -> None:
        """Break off what is being looked up. Idempotent."""
        self._closed = True

    def __call__(self, image: str, backend: str) -> Answer:
        """The answer, after some seconds at most."""
        place = self._places.get(backend, Place())
        found: kept.Kept | None = None
        try:
            if place.host and image == HOST:
                raise image_manifest.unusable("it stands for this machine's own programs, which have no digest; scan.exempt lets them run unscanned")
            found = place.look(image)
            if found is not None and found.when is When.FIRST:
                return Resolved(image, found.digest, found.pinned, local=True)
            if image_names.is_digest(image):
                raise errors.EngineError("it is an image's id, which only an engine that has the image understands", Code.IMAGE_NOT_FOUND)
            name = _parsed(image)
            if not place.here and image_connections.is_loopback(name.registry) and name.registry not in self._addresses:
                raise image_manifest.unusable(f"{name.registry} is another registry on each machine; scan.registries says where this server reaches it")
            digest = self._look(name, place)
        except errors.EngineError as cause:
            if found is not None and (cause.transient or found.when is When.WITHOUT):
                return Resolved(image, found.digest, found.pinned, local=True)
            after = cause.after if isinstance(cause, Passing) else 0.0
            words = cause.public if isinstance(cause, _NoName) else f"{image_manifest.shown(image, _SHOWN)}: {cause.public}"
            return Unresolved(cause.code, words, cause.transient, min(after, HELD))
        return Resolved(image, digest, str(name.at(digest)))

    def _look(self, name: Name, place: Place) -> str:
        with self._lock:
            until, refusal = self._held.get(name.registry, (0.0, None))
        left = until - time.monotonic()
        if refusal is not None and left > 0:
            raise Passing(refusal.public, left)
        end = time.monotonic() + self._longest
        control = Control(lambda: self._closed or time.monotonic() > end)
        try:
            with self._registry.within(control) as registry:
                return self._manifest(registry, name.at(name.digest or registry.digest(name)), place.architecture)
        except errors.EngineError as cause:
            if control.stopped():  # whatever the cut connection looked like
                raise Passing(f"{name.registry} did not answer within {self._longest:g} seconds") from cause
            if isinstance(cause, Passing) and cause.after > 0:
                self._hold(name.registry, cause)
            raise

    def _manifest(self, registry: Registry, name: Name, architecture: str) -> str:
        """The digest of the manifest for `architecture` that `name`, by digest, is or leads to."""
        with self._lock, contextlib.suppress(KeyError):
            self._manifests.move_to_end((name, architecture))
            return self._manifests[name, architecture]
        found, chosen = image_manifest.decode(*registry.manifest(name)), name
        if isinstance(found, image_manifest.Manifest):
            self._check_platform(registry, name, found.config.digest, architecture)
        else:
            chosen = name.at(image_manifest.choose(found, architecture).digest)
            try:
                inner = image_manifest.decode(*registry.manifest(chosen))
            except errors.EngineError as cause:
                if cause.code == Code.IMAGE_NOT_FOUND:
                    raise errors.EngineError(f"its index promises {chosen.digest}, and {cause.public}", cause.code) from cause
                raise
            if not isinstance(inner, image_manifest.Manifest):
                raise image_manifest.unusable("its index leads to another index")
        with self._lock:
            self._manifests[name, architecture] = chosen.digest
            while len(self._manifests) > MOST:
                self._manifests.popitem(last=False)
        return chosen.digest

    def _check_platform(self, registry: Registry, name: Name, config: str, architecture: str) -> None:
        """Of an image without an index only its config says for which machines it is. Where that cannot be had here, whoever runs it will see."""
        try:
            with registry.blob(name, config) as response:
                data = image_connections.read(response, image_manifest.LARGEST)
            told = image_manifest.decoded(data, image_manifest.Config, "config")
        except errors.EngineError:  # blobs may be elsewhere, where this server does not reach
            return
        if image_manifest.digest_of(data) == config:
            image_manifest.check_platform(told, architecture)

    def _hold(self, registry: str, cause: Passing) -> None:
        now = time.monotonic()
        with self._lock:
            self._held = {name: (until, words) for name, (until, words) in self._held.items() if until > now}
            self._held[registry] = (now + min(cause.after, HELD), cause)


def _parsed(image: str) -> Name:
    try:
        return image_names.parse(image)
    except errors.EngineError as cause:
        raise _NoName(cause.public, cause.code) from cause
