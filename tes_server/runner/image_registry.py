"""Requests to registries (OCI distribution 1.1, "Pulling"): mirrors first, sign-in, redirects, another try where that may help.

TLS, except to this machine itself and to the registries that the settings name. A redirect to another host gets none of
our secrets. What comes back is not believed here: digests and sizes are checked by whoever reads it.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import logging
import math
import pathlib
import random
import time
import types
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import msgspec
import urllib3

from tes_server import errors, telemetry
from tes_server.filer.control import Control
from tes_server.model import image_names
from tes_server.model.image_names import Name
from tes_server.runner import image_connections, image_credentials, image_manifest
from tes_server.runner.image_access import Access
from tes_server.runner.image_connections import Connections, Passing
from tes_server.runner.image_credentials import Login
from tes_server.telemetry import Code

logger = logging.getLogger(__name__)
T = TypeVar("T")

HOPS = 5
"""Redirects followed for one request: registries send blobs to one object store."""

_HUB_HOST = "registry-1.docker.io"
_ACCEPT = ", ".join((*image_manifest.INDEXES, *image_manifest.MANIFESTS))
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PASSING = frozenset({408, 425, 429})
_LONGEST_ANSWER = 1024 * 1024
"""Bytes read of an answer that is a token or an error."""
_ASIDE = 60.0
"""Seconds for which a mirror that does not answer is passed over: each blob would wait for its silence else."""


class Mirror(msgspec.Struct, frozen=True):
    """`url` stands for the registry or repositories `prefix` (`docker.io`, `ghcr.io/team`) and is asked first."""

    prefix: str
    url: str


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """Patience with registries, in seconds and tries."""

    connect_timeout: float = 10.0
    read_timeout: float = 60.0
    """of silence"""
    tries: int = 5
    """that bring nothing, one after another"""
    first_delay: float = 0.5
    """between two of them: doubled each time"""
    longest_delay: float = 30.0
    """also where a registry asks for more"""
    longest_wait: float = math.inf
    """where a registry asks for more than this, it is not asked again"""


class _Place(msgspec.Struct, frozen=True):
    """Where a repository may be had: `origin` (scheme://host[:port]), and its name there."""

    origin: str
    repository: str
    login: str
    """the registry whose login serves"""


class Registry:
    """All registries. Thread-safe.

    `addresses`: the url by which a registry is reached from here, where its name does not lead there; it is signed in to by its
    name. `identity`: a login for registries that `docker_config` has none for.
    """

    def __init__(
        self,
        *,
        mirrors: tuple[Mirror, ...] = (),
        plain_http: frozenset[str] = frozenset(),
        addresses: Mapping[str, str] = types.MappingProxyType({}),
        docker_config: pathlib.Path | None,
        identity: Callable[[str], Login | None] = lambda _registry: None,
        pace: Pace,
    ) -> None:
        self.pace = pace
        self._mirrors = mirrors
        self._plain_http = plain_http
        self._addresses = addresses
        self._login = functools.partial(image_credentials.find, docker_config)
        self._identity = identity
        self._access = Access()
        self.connections = Connections(pace.connect_timeout, pace.read_timeout)
        self._aside: dict[str, float] = {}

    @contextlib.contextmanager
    def within(self, control: Control) -> Iterator[Registry]:
        """The same, but what is asked of it in the block ends soon after `control` says so, with `Passing`."""
        twin = copy.copy(self)
        with control.watched():
            twin.connections = Connections(self.pace.connect_timeout, self.pace.read_timeout, control=control)
            with contextlib.closing(twin.connections):
                yield twin

    def reach(self, registry: str) -> None:
        """Ask whether it is a registry at all (OCI distribution 1.1, end-1). Raises EngineError if nobody answers as one."""
        (place,) = self._places(Name(registry=registry, repository="x"))[-1:]
        with contextlib.closing(self._follow("GET", f"{place.origin}/v2/", {}, "")) as response:
            if response.status not in (200, 401):
                raise _refusal(response.status, response.headers.get("Retry-After", ""), response)

    def digest(self, name: Name) -> str:
        """The digest of the index or manifest that `name` leads to now, without its text."""
        return self._ask(name, lambda place: self._digest(place, name), self.pace.tries)

    def manifest(self, name: Name) -> tuple[bytes, str]:
        """The text of a manifest or index, and its media type."""
        return self._ask(name, lambda place: self._manifest(place, name), self.pace.tries)

    @contextlib.contextmanager
    def blob(self, name: Name, digest: str, start: int = 0) -> Iterator[urllib3.BaseHTTPResponse]:
        """The answer to one request for a blob from byte `start` (200: from 0 nevertheless), its body still to be read.

        Not tried again here; raises `Passing` where that would help.
        """
        headers = {"Range": f"bytes={start}-"} if start else {}
        with contextlib.closing(self._ask(name, lambda place: self._get(place, f"blobs/{digest}", headers), tries=1)) as response:
            yield response

    def _digest(self, place: _Place, name: Name) -> str:
        try:
            with contextlib.closing(self._get(place, f"manifests/{name.reference}", {"Accept": _ACCEPT}, "HEAD")) as response:
                said = response.headers.get("Docker-Content-Digest", "")
        except errors.EngineError as cause:
            if cause.code != Code.IMAGE_ERROR or isinstance(cause, Passing):
                raise
            said = ""  # a registry without HEAD
        return said if image_names.is_digest(said) else image_manifest.digest_of(self._manifest(place, name)[0])

    def _manifest(self, place: _Place, name: Name) -> tuple[bytes, str]:
        with contextlib.closing(self._get(place, f"manifests/{name.reference}", {"Accept": _ACCEPT})) as response:
            data = image_connections.read(response, image_manifest.LARGEST)
            kind = response.headers.get("Content-Type", "").partition(";")[0].strip()
        if name.digest and image_manifest.digest_of(data) != name.digest:
            raise Passing("the registry sent another manifest than was asked for")
        return data, kind

    def _ask(self, name: Name, question: Callable[[_Place], T], tries: int) -> T:
        """The answer of the first place that has one. The last place is the registry itself: only it is asked again, and its word counts."""
        *mirrors, itself = self._places(name)
        for mirror in mirrors:
            if time.monotonic() < self._aside.get(mirror.origin, 0):
                continue
            try:
                return question(mirror)
            except errors.EngineError as cause:
                if isinstance(cause, Passing):
                    self._aside[mirror.origin] = time.monotonic() + _ASIDE
                telemetry.log(logger, logging.INFO, "image.mirror.failed", image=str(name), mirror=mirror.origin, error=cause.public)
        failures = 0
        while True:
            try:
                return question(itself)
            except Passing as cause:
                failures += 1
                if failures >= tries or cause.after > self.pace.longest_wait:
                    raise
                self.wait(failures, cause.after)

    def wait(self, failures: int, asked: float, pause: Callable[[float], None] = time.sleep) -> None:
        """Sleep after so many failures in a row: longer each time, or as long as the registry asks, within bounds."""
        delay = max(asked, self.pace.first_delay * 2 ** (failures - 1) * (1 + random.random()))  # noqa: S311 - jitter
        pause(min(delay, self.pace.longest_delay))

    def _places(self, name: Name) -> list[_Place]:
        whole = f"{name.registry}/{name.repository}"
        places = []
        for mirror in self._mirrors:
            prefix = mirror.prefix.rstrip("/")
            if whole == prefix or whole.startswith(prefix + "/"):
                places.append(_place(mirror.url, whole.removeprefix(prefix)))
        if name.registry in self._addresses:
            return [*places, _place(self._addresses[name.registry], name.repository, name.registry)]
        plain = name.registry in self._plain_http or image_connections.is_loopback(name.registry)
        host = _HUB_HOST if name.registry == image_names.HUB else name.registry
        return [*places, _Place(f"{'http' if plain else 'https'}://{host}", name.repository, name.registry)]

    def _get(self, place: _Place, path: str, headers: Mapping[str, str], method: str = "GET") -> urllib3.BaseHTTPResponse:
        """The answer (200 or 206) with its body to be read, after sign-in and redirects."""
        url = f"{place.origin}/v2/{place.repository}/{path}"
        known = self._access.header(place.origin, place.repository)
        response = self._follow(method, url, headers, known)
        if response.status == 401:
            challenges = response.headers.getlist("WWW-Authenticate")
            response.close()
            login = self._login(place.login) or self._identity(place.login)
            known = self._access.sign_in(place.origin, place.repository, ", ".join(challenges), login, functools.partial(self._send, sender=url))
            response = self._follow(method, url, headers, known)
        if response.status in (200, 206):
            return response
        with contextlib.closing(response):
            raise _refusal(response.status, response.headers.get("Retry-After", ""), response)

    def _follow(self, method: str, url: str, headers: Mapping[str, str], authorization: str) -> urllib3.BaseHTTPResponse:
        origin, sender = _origin(url), ""
        for _ in range(HOPS + 1):
            own = {"Authorization": authorization} if authorization and _origin(url) == origin else {}
            response = self.connections.open(method, url, {**headers, **own}, sender=sender)
            location = response.headers.get("Location")
            if response.status not in _REDIRECTS or not location:
                return response
            response.close()
            there = image_connections.split(location, url)
            if there.scheme != "https" and url.startswith("https:"):
                raise image_manifest.unusable("the registry redirects to an address without TLS")
            sender, url = url, there.geturl()
        raise image_manifest.unusable(f"the registry redirects more than {HOPS} times")

    def _send(self, method: str, url: str, **what: Any) -> urllib3.BaseHTTPResponse:
        """For `image_access`: the whole answer, without following redirects."""
        response = self.connections.open(method, url, **what)
        with contextlib.closing(response):
            if response.status in _PASSING or response.status >= 500:
                raise _refusal(response.status, response.headers.get("Retry-After", ""), None)
            data = image_connections.read(response, _LONGEST_ANSWER)
        return urllib3.HTTPResponse(data, response.headers, response.status)


def _place(address: str, path: str, login: str = "") -> _Place:
    """`path` below the url `address`."""
    url = urllib.parse.urlsplit(address)
    return _Place(f"{url.scheme}://{url.netloc}", f"{url.path.strip('/')}/{path.strip('/')}".strip("/"), login or url.netloc)


class _Complaint(msgspec.Struct):
    code: str = ""
    message: str = ""


class _Complaints(msgspec.Struct):
    errors: list[_Complaint] = []


def _refusal(status: int, retry_after: str, response: urllib3.BaseHTTPResponse | None) -> errors.EngineError:
    """A registry's answer as an error, with its own words where it has some."""
    said = ""
    with contextlib.suppress(*image_manifest.UNDECODABLE, errors.EngineError, IndexError):
        first = msgspec.json.decode(image_connections.read(response, _LONGEST_ANSWER) if response is not None else b"{}", type=_Complaints).errors[0]
        text = f"{first.code}: {first.message}" if first.message else first.code
        said = f" ({image_manifest.shown(text, 200)})"
    if status in (401, 403):
        return errors.EngineError(f"the registry denies it, or has no such repository{said}", Code.IMAGE_DENIED)
    if status == 404:
        return errors.EngineError(f"the registry does not have it{said}", Code.IMAGE_NOT_FOUND)
    if status == 416:
        return Passing("the registry has fewer bytes than its manifest promises")
    words = f"the registry answered {status}{said}"
    if status in _PASSING or status >= 500:
        return Passing(words, float(retry_after) if retry_after.isascii() and retry_after.isdigit() else 0.0)
    return image_manifest.unusable(words)


def _origin(url: str) -> tuple[str, str]:
    parts = urllib.parse.urlsplit(url)
    return parts.scheme, parts.netloc
