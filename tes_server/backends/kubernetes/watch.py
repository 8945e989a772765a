"""One list and watch for each kind of object, for all attempts together: keeps a `Board` as the cluster has it.

A watch is resumed at the last version seen, bookmarks included; where that is too old (410) all is listed anew. The server ends each watch after
`LASTS` seconds with a bookmark, and one that says nothing for longer than that is dead. This module must never decide what an object means.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Generic, TypeVar

import msgspec

from tes_server import errors, telemetry
from tes_server.backends.kubernetes import calls
from tes_server.backends.kubernetes.calls import Answer, Calls, Raw
from tes_server.backends.kubernetes.objects import EventObject, JobObject, Metadata, PodObject

logger = logging.getLogger(__name__)

LASTS = 45
"""Seconds after which the server is asked to end a watch; its bookmark two seconds before keeps our version young."""

SILENCE = 50.0
"""Seconds without a byte after which a watch is dead: beyond `LASTS`, and within a minute."""

STALE = 60.0
"""Seconds without a word from the server after which nothing is concluded from the board."""

PAGE = 500
"""Objects of one page of a list."""

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 5.0
"""Seconds between two tries while the server does not answer, doubled each time, with jitter."""

CHUNK = 1 << 16

Kind = TypeVar("Kind", JobObject, PodObject, EventObject)


class _ListMetadata(msgspec.Struct, frozen=True, rename="camel"):
    resource_version: str = ""
    continue_: str = msgspec.field(default="", name="continue")


class _Page(msgspec.Struct, frozen=True):
    metadata: _ListMetadata
    items: list[msgspec.Raw] | None = None


class _Change(msgspec.Struct, frozen=True):
    type: str
    object: msgspec.Raw


class _Bookmark(msgspec.Struct, frozen=True):
    metadata: Metadata


SHOWN = 300
"""Bytes of a spoiled object that the log gets: its name is among the first."""


class Expired(Exception):
    """The version that we know is too old to go on from."""


class Watch(Generic[Kind]):
    """One kind of object below `path` that `query` selects, in a thread of its own. `put`, `drop` and `replace` are told what there is."""

    def __init__(
        self,
        server: Calls,
        path: str,
        kind: type[Kind],
        put: Callable[[Kind], None],
        drop: Callable[[Kind], None],
        replace: Callable[[Iterable[Kind]], None],
        *,
        lasts: float = LASTS,
        silence: float = SILENCE,
        **query: str,
    ) -> None:
        self._calls = server
        self._path = path
        self._query = query
        self._kind: type[Kind] = kind
        self._put: Callable[[Kind], None] = put
        self._drop: Callable[[Kind], None] = drop
        self._replace: Callable[[Iterable[Kind]], None] = replace
        self._lasts, self._silence = lasts, silence
        self._stopped = threading.Event()
        self._listed = threading.Event()
        self._heard = float("-inf")
        self._version = ""
        self._response: Raw | None = None
        self._guard = threading.Lock()
        self._thread = threading.Thread(target=self._loop, name=f"watch {path.rpartition('/')[2]}", daemon=True)

    def start(self) -> None:
        """Begin. Returns at once."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread, also where it waits for a word from the server."""
        self._stopped.set()
        with self._guard:
            if self._response is not None:
                self._response.shutdown()
        if self._thread.ident is not None:
            self._thread.join()

    def wait(self, seconds: float) -> bool:
        """Wait for the first whole list; True if it is there."""
        return self._listed.wait(seconds)

    def ask(self, selector: str = "") -> None:
        """Ask now, for all or for what `selector`, of labels, selects as well: `put` is told before the watch shows it. Unavailable if nobody answers."""
        query = {**self._query, "labelSelector": ",".join(filter(None, (self._query.get("labelSelector"), selector)))}
        try:
            found, _ = self._all(query)
        except Expired as cause:
            raise errors.Unavailable(f"{self._path} cannot be listed") from cause
        for each in found:
            self._put(each)

    @property
    def fresh(self) -> bool:
        """True if what was told can be relied upon: all was listed, and the server was heard of within the last minute."""
        return self._listed.is_set() and time.monotonic() - self._heard < STALE

    # -- the thread -------------------------------------------------------------------------------------------------

    def _loop(self) -> None:
        pause = FIRST_PAUSE
        while not self._stopped.is_set():
            try:
                if not self._version:
                    self._list()
                if self._follow():
                    pause = FIRST_PAUSE
                continue
            except Expired:
                self._version = ""
                telemetry.log(logger, logging.INFO, "kubernetes.watch.expired", path=self._path)
                continue
            except errors.TesServerError as cause:
                if self._stopped.is_set():
                    return
                telemetry.log(logger, logging.WARNING, "kubernetes.watch.failed", path=self._path, error=str(cause))
            except Exception:  # a fault of ours: this thread is all that hears of the cluster
                logger.exception("kubernetes.watch.broken", extra={"fields": {"path": self._path}})
                self._version = ""
            self._stopped.wait(pause * (0.5 + random.random() / 2))  # noqa: S311 - jitter
            pause = min(2 * pause, LONGEST_PAUSE)

    def _list(self) -> None:
        found, version = self._all(self._query)
        self._replace(found)
        self._version = version
        self._heard = time.monotonic()
        self._listed.set()

    def _all(self, query: Mapping[str, str]) -> tuple[list[Kind], str]:
        """All that `query` selects, and the version of that list. Raises Expired and Unavailable."""
        found: list[Kind] = []
        query = {**query, "limit": str(PAGE)}
        while True:
            answer = self._calls.get(self._path, **query)
            if answer.status == 410:  # the list took so long that its version is gone
                raise Expired
            if answer.status != 200:
                calls.refuse(answer, f"{self._path} cannot be listed")
            page = calls.decoded(answer, _Page)
            found += (each for item in page.items or () if (each := self._read(item)) is not None)
            if not page.metadata.continue_:
                return found, page.metadata.resource_version
            query["continue"] = page.metadata.continue_

    def _follow(self) -> bool:
        """One watch, to its end; True if anything was heard. Raises Expired and Unavailable."""
        query = {
            **self._query,
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(max(1, int(self._lasts))),
        }
        began = time.monotonic()
        with self._calls.stream(self._path, self._silence, **query) as response:
            if response.status == 410:
                raise Expired
            if response.status != 200:
                calls.refuse(Answer(response.status, response.data), f"{self._path} cannot be watched")
            with self._guard:
                if self._stopped.is_set():
                    return True
                self._response = response
            try:
                self._heard = time.monotonic()
                heard = False
                for line in _lines(response):
                    if self._stopped.is_set():  # what a TLS connection yields after its shutdown is not what was said
                        return True
                    self._heard = time.monotonic()
                    heard = True
                    self._take(line)
            finally:
                with self._guard:
                    self._response = None
        # A server, or what stands between us, that ends each watch at once must not be asked without a pause.
        if not heard and time.monotonic() - began < 1.0:
            self._stopped.wait(1.0)
        return heard

    def _take(self, line: bytes) -> None:
        change = msgspec.json.decode(line, type=_Change)
        if change.type == "ERROR":
            answer = Answer(_code(change.object), bytes(change.object))
            if answer.status == 410:
                raise Expired
            calls.refuse(answer, f"{self._path} cannot be watched")
        if change.type == "BOOKMARK":
            self._version = msgspec.json.decode(change.object, type=_Bookmark).metadata.resource_version or self._version
            return
        found = self._read(change.object)
        if found is not None:
            (self._drop if change.type == "DELETED" else self._put)(found)
        self._version = msgspec.json.decode(change.object, type=_Bookmark).metadata.resource_version or self._version

    def _read(self, raw: msgspec.Raw) -> Kind | None:
        """An object; None for one that is not as it should be: one alone must not hide all others."""
        try:
            return msgspec.json.decode(raw, type=self._kind)
        except (msgspec.MsgspecError, UnicodeDecodeError) as cause:
            telemetry.log(
                logger, logging.ERROR, "kubernetes.object.spoiled", path=self._path, error=str(cause), object=bytes(raw)[:SHOWN].decode(errors="replace")
            )
            return None


class _Failure(msgspec.Struct, frozen=True):
    code: int = 0


def _code(raw: msgspec.Raw) -> int:
    return msgspec.json.decode(raw, type=_Failure).code


def _lines(response: Raw) -> Iterator[bytes]:
    """Whole lines as they come; what a cut connection leaves of the last one is dropped."""
    rest = b""
    while piece := response.read1(CHUNK):
        *whole, rest = (rest + piece).split(b"\n")
        yield from (line for line in whole if line.strip())
