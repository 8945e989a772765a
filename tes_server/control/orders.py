"""The verdict about one image, asked for by a person: looked up, a scan begun where there is none, and waited for.

The scan is moved by the reconcilers of the store, wherever they run; what has ended is judged here as they would judge it.
Must never be used by a reconciler, nor by who answers requests: it waits.
"""

from __future__ import annotations

import datetime
import threading
from collections.abc import Callable

import msgspec

from tes_server import telemetry
from tes_server.control.scans import Scanning, Scans, Wanted
from tes_server.digests.base import Resolved, Resolver, Unresolved
from tes_server.model.record import Record
from tes_server.model.verdict import Verdict
from tes_server.scan import policy
from tes_server.scan.policy import Entry
from tes_server.store.base import Store

LOOK = 1.0
"""Seconds between two looks at a scan."""


class Answer(msgspec.Struct, frozen=True):
    """What came of it: a verdict that holds; or what the image's name alone settles; or else why there is no verdict."""

    verdict: Verdict | None = None
    named: policy.Admission | None = None
    failed: str = ""


class Clocks(msgspec.Struct, frozen=True):
    """`monotonic` counts the patience. `wait`: for so many seconds, or until the event is set."""

    now: Callable[[], datetime.datetime]
    monotonic: Callable[[], float]
    wait: Callable[[threading.Event, float], object] = threading.Event.wait


class Orders:
    """`tell` hears each step that is waited for, once, in words."""

    def __init__(self, store: Store, resolver: Resolver, scanning: Scanning, tell: Callable[[str], None], clocks: Clocks) -> None:
        self._store = store
        self._resolver = resolver
        self._scanning = scanning
        self._scans = Scans(store, scanning)
        self._tell = tell
        self._clocks = clocks
        self._said: set[str] = set()
        self._news = threading.Event()
        resolver.listen(self._news.set)

    def ask(self, image: str, backend: str, patience: float, *, anew: bool = False) -> Answer:
        """The answer about an image for tasks on `backend`, within `patience` seconds. `anew`: a verdict that holds is taken back first.

        Raises `errors.Unavailable` where the store does not answer; what was begun by then goes on.
        """
        named = policy.admissible(image, self._scanning.policy)
        if named.entry is not Entry.SCAN:
            return Answer(named=named)
        until = self._clocks.monotonic() + patience
        found = self._resolved(image, backend, until)
        return self._judged(found, backend, until, anew) if isinstance(found, Resolved) else Answer(failed=found)

    def _resolved(self, image: str, backend: str, until: float) -> Resolved | str:
        """What the name leads to, or why it leads nowhere."""
        while True:
            self._news.clear()
            found = self._resolver.ask([image], backend).get(image)
            if isinstance(found, Resolved):
                self._say(f"{image} is {found.digest}")
                return found
            said = found.message if found is not None else f"the digest of {image} is being looked up"
            if (isinstance(found, Unresolved) and not found.passing) or not self._waited(said, until):
                return said

    def _judged(self, image: Resolved, backend: str, until: float, anew: bool) -> Answer:
        key = policy.key(image.digest, image.name, self._scanning.policy)
        while True:
            self._news.clear()
            now = self._clocks.now()
            kept = self._store.verdicts([key]).get(key)
            if kept is not None and kept.fresh(now):
                if not anew:
                    return Answer(verdict=kept)
                self._store.keep(kept.taken_back(now))
                kept = self._store.verdicts([key]).get(key)
            anew = False
            settled, begun = self._scans.settle({key: Wanted(key, image, backend, kept)}, now)
            state = settled.get(key)
            if isinstance(state, Verdict) and state.fresh(now):
                return Answer(verdict=state)
            if begun:
                self._say(f"the scan {begun[0].id} is begun on {backend}: a running server, or `tes-server reconcile`, makes it")
            said = _words(state) if isinstance(state, Record) else "the scan is begun by somebody else"
            if not self._waited(said, until):
                return Answer(failed=f"no verdict yet: {said}")

    def _waited(self, said: str, until: float) -> bool:
        """False if patience is over."""
        self._say(said)
        left = until - self._clocks.monotonic()
        if left <= 0:
            return False
        self._clocks.wait(self._news, min(LOOK, left))
        return True

    def _say(self, said: str) -> None:
        if said not in self._said:
            self._said.add(said)
            self._tell(said)


def _words(record: Record) -> str:
    """How far a scan is."""
    why = telemetry.message(record.status.waiting)
    return f"the scan {record.id} is {record.state} on {record.status.backend}" + (f" ({why})" if why else "")
