"""Ended tasks that are old enough leave the store, after an archive has them if there is one.

Slow on purpose: a batch at a time, in a thread of its own, at rest for most of the time, so that no task waits for it. A
batch is removed only once its object is durable; a crash between leads to tasks that are archived twice, never to lost ones.
Must never touch a task that has something left to release.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import secrets
import threading
import time
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from tes_server import errors, telemetry
from tes_server.model import views
from tes_server.model.record import Record
from tes_server.store.base import Store

logger = logging.getLogger(__name__)

BATCH = 100
"""Records looked at, archived and removed at once: on a database that is paid for by the operation a burst holds up others."""

PAUSE = 1.0
REST = 4.0
"""Seconds between two batches, at least, and for how many times as long as one took it rests after it."""

ROUND = 600.0
"""Seconds between two walks over what may be old enough."""

SULK = 60.0
"""Seconds after a batch that failed."""

FAREWELL = 5.0
"""Seconds that a process which is asked to end waits for a batch: one that is cut off does no harm."""

ASTRAY = datetime.timedelta(days=1)
"""A clock that has gone so much further than the machine since this process began is not believed: what is removed does not come back."""

CHECK = "check.jsonl"
"""The object that tries whether an archive can be written to."""


class Archive(Protocol):
    """Where old tasks go. Every method raises `errors.TesServerError` if the place does not answer or refuses."""

    def write(self, name: str, data: bytes) -> None:
        """Put an object there; durable when it returns."""

    def remove(self, names: Collection[str]) -> None:
        """Delete objects; one that is missing is fine."""


Open = Callable[[], Archive]
"""Opens the archive, or raises `errors.TesServerError`: asked for at each batch, so that what was mended is used at once."""


def check(opened: Open) -> None:
    """Try whether the archive can be written to. Raises `errors.TesServerError` if it cannot."""
    archive = opened()
    archive.write(CHECK, b"")
    with contextlib.suppress(errors.TesServerError):  # who may only write there leaves an empty object
        archive.remove([CHECK])


def _steady() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)  # it goes on while the machine sleeps


class Retention:
    """`keep`: how long a task stays after its end. `opened`: the archive; None = there is none. `steady`: seconds of a clock that nobody sets."""

    def __init__(self, store: Store, keep: datetime.timedelta, opened: Open | None = None, steady: Callable[[], float] = _steady) -> None:
        self._store = store
        self._keep = keep
        self._open = opened
        self._steady = steady
        self._start: tuple[datetime.datetime, float] | None = None
        self._checked = opened is None
        self._after = ""
        self._begun: datetime.datetime | None = None
        self._pause = 0.0
        self._closing = False
        self._thread: threading.Thread | None = None

    @property
    def busy(self) -> bool:
        """In the midst of a walk: there may be more to remove."""
        return bool(self._after)

    def turn(self, shards: frozenset[int], now: datetime.datetime) -> None:
        """Called at each pass: begins a batch among `shards` if it is time for one. Returns at once."""
        # A clock that is set back does not hold it up.
        if self._closing or (self._begun is not None and abs(now - self._begun).total_seconds() < self._pause):
            return
        if self._thread is not None and self._thread.is_alive():
            return
        self._begun = now
        if self._astray(now):
            telemetry.log(logger, logging.ERROR, "retention.held", clock=now.isoformat(timespec="seconds"))
            telemetry.RETENTION_FAILED.inc()
            self._pause = ROUND
            return
        self._thread = threading.Thread(target=self._run, args=(shards, now), name="retention", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Begin no other batch, and wait a little for the one under way."""
        self._closing = True
        if self._thread is not None:
            self._thread.join(FAREWELL)

    def _astray(self, now: datetime.datetime) -> bool:
        if self._start is None:
            self._start = (now, self._steady())
        return now - self._start[0] - datetime.timedelta(seconds=self._steady() - self._start[1]) > ASTRAY

    def _run(self, shards: frozenset[int], now: datetime.datetime) -> None:
        began = time.monotonic()
        pause = SULK
        try:
            self.batch(shards, now)
            pause = max(PAUSE, REST * (time.monotonic() - began)) if self._after else ROUND
        except errors.TesServerError as cause:
            self._failed(str(cause))
        except Exception:
            if not self._closing:
                logger.exception("retention.failed")
                telemetry.RETENTION_FAILED.inc()
        # Counted from its begin, as `turn` does.
        self._pause = pause + time.monotonic() - began

    def _failed(self, why: str) -> None:
        if not self._closing:  # the store was closed under it: nothing to tell
            telemetry.log(logger, logging.ERROR, "retention.failed", error=why)
            telemetry.RETENTION_FAILED.inc()

    def batch(self, shards: frozenset[int], now: datetime.datetime) -> int:
        """Archive and remove the next ones that are old enough; how many went. Raises what the store and the archive raise."""
        if not self._checked and self._open is not None:
            check(self._open)
            self._checked = True
        before = now - self._keep
        page, after = self._store.at_rest(shards, before, self._after, BATCH)
        old = [record for record in page if ended(record) < before]
        gone = self._archived(old, now) if self._open is not None else self._removed(old, "")
        # Not before: what failed is tried again.
        self._after = after
        return gone

    def _archived(self, old: Sequence[Record], now: datetime.datetime) -> int:
        gone = 0
        for portion in self._store.whole([record.id for record in old]):
            if self._closing or self._open is None:
                break
            name = object_name(now)
            self._open().write(name, b"".join(views.archived_json(record) + b"\n" for record in portion))
            gone += self._removed(portion, name)
        return gone

    def _removed(self, records: Sequence[Record], name: str) -> int:
        if not records:
            return 0
        gone = self._store.expire(records)
        telemetry.TASKS_REMOVED.inc(gone)
        telemetry.log(logger, logging.INFO, "retention.removed", tasks=gone, archive=name)
        return gone


def ended(record: Record) -> datetime.datetime:
    """When a task ended; no clock of a node makes that earlier than its creation."""
    return max(record.created, record.status.end_time or record.created)


def object_name(now: datetime.datetime) -> str:
    """A name that sorts by time, in a directory for each day, and that nobody else ever takes."""
    return f"{now:%Y-%m-%d}/{now:%Y%m%dT%H%M%S.%f}Z-{secrets.token_hex(8)}.jsonl"
