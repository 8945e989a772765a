"""What the reconciler does beside moving tasks: live output for those who read it, counts, the search for orphans, and old tasks."""

from __future__ import annotations

import collections
import datetime
import logging
from collections.abc import Mapping, Sequence

from tes_server import errors, telemetry
from tes_server.backends.base import Backend
from tes_server.control.old_scans import OldScans
from tes_server.control.retention import Retention
from tes_server.model import record as model
from tes_server.model import run
from tes_server.model.principal import SCANS
from tes_server.model.record import Record
from tes_server.model.run import Handle
from tes_server.model.states import ENDS
from tes_server.store.base import Store

logger = logging.getLogger(__name__)

CENSUS_INTERVAL = datetime.timedelta(seconds=15)
"""Counting reads the index of all live tasks; nobody scrapes more often."""

CENSUS_INTERVAL_PAID = datetime.timedelta(minutes=1)
"""The same where the store is a database away, which may charge for each entry that it reads."""

WATCH_INTERVAL = datetime.timedelta(seconds=1)
"""Between two looks for readers of live output, while there are none; a busy reconciler makes many passes a second."""

SURVEY_INTERVAL = datetime.timedelta(minutes=10)
"""Orphans cost money but no correctness: they are looked for rarely."""

SURVEY_AGAIN = datetime.timedelta(seconds=15)
"""After orphans were ended, for what still ran could not be cleaned up yet; and after a platform could not tell."""

REMIND = datetime.timedelta(minutes=1)
"""After which the log has again that live output cannot be had."""

EPOCH = datetime.datetime.min.replace(tzinfo=datetime.UTC)


class Upkeep:
    """Called at each pass; keeps its own, slower pace. A clock that is set back does not hold it up."""

    def __init__(self, store: Store, backends: Mapping[str, Backend], retention: Retention | None = None) -> None:
        self._store = store
        self._backends = backends
        self._retention = retention
        self._counted = self._surveyed = self._watched = EPOCH
        self._census_interval = CENSUS_INTERVAL_PAID if store.blocking else CENSUS_INTERVAL
        self._untold: dict[str, datetime.datetime] = {}
        self._told = True
        self._old_scans = OldScans(store)
        self._none_live = False
        self._again = False
        self.watching = False
        """somebody reads the output of a running task of ours"""

    @property
    def idle(self) -> bool:
        """There was no live task at the last count, and no word of one since; nor are there more old ones to remove."""
        return self._none_live and not self._told and not (self._retention is not None and self._retention.busy)

    def told(self) -> None:
        """There is news of a task, or a new one. Called from any thread."""
        self._told = True

    def turn(self, shards: frozenset[int], now: datetime.datetime, *, away: bool = False) -> None:
        """All of it, as far as it is time for it; `shards` are ours. `away`: as for `survey`."""
        self.watch(now, shards)
        if shards:
            self.count(now)
        self.survey(now, shards, away=away)
        if self._retention is not None and shards:
            self._retention.turn(shards, now)
        if shards:
            self._old_scans.turn(shards, now)

    def watch(self, now: datetime.datetime, shards: frozenset[int]) -> None:
        """Fetch the live output of tasks that somebody reads."""
        if self.idle or (not self.watching and abs(now - self._watched) < WATCH_INTERVAL):
            return
        self._watched = now
        watched = self._store.watched(now)
        by_backend: dict[str, list[Handle]] = collections.defaultdict(list)
        for record in self._store.load(watched) if watched else ():
            handle, backend = record.status.handle, self._backends.get(record.status.backend)
            if handle is not None and record.state not in ENDS and (backend is None or _ours(handle, backend, shards)):
                by_backend[record.status.backend].append(handle)
        self.watching = bool(by_backend)
        for name, handles in by_backend.items():
            backend = self._backends.get(name)
            if backend is None:
                continue
            try:
                tails = backend.tail(handles)
            except errors.TesServerError as cause:
                self._say_untold(name, str(cause), len(handles), now)
                continue
            for handle, tail in tails.items():
                self._store.tail(run.task_of(handle.name), tail)

    def _say_untold(self, name: str, error: str, tasks: int, now: datetime.datetime) -> None:
        """Not at each look, of which there are several a second while somebody reads."""
        if abs(now - self._untold.get(name, EPOCH)) < REMIND:
            return
        self._untold[name] = now
        telemetry.log(logger, logging.WARNING, "backend.call.failed", backend=name, call="tail", tasks=tasks, error=error)

    def count(self, now: datetime.datetime) -> None:
        """Publish how many tasks there are in each live state, scans of images apart: those are nobody's tasks."""
        if abs(now - self._counted) < self._census_interval:
            return
        self._counted = now
        self._told = False  # before the count: what is told meanwhile may be missing in it
        census = self._store.census()
        self._none_live = not any(census.values())
        scans = self._store.census(SCANS.scope) if any(census.values()) else {}
        for state, number in census.items():
            telemetry.TASKS.labels(state).set(max(0, number - scans.get(state, 0)))

    def survey(self, now: datetime.datetime, shards: frozenset[int], *, away: bool = False) -> None:
        """End compute that no record owns. At once if this process was `away` for so long that others may have given up what it has."""
        if abs(now - self._surveyed) < (SURVEY_AGAIN if self._again else SURVEY_INTERVAL) and not away:
            return
        self._surveyed, self._again = now, False
        for backend in self._backends.values():
            try:
                self.end_orphans(backend, [handle for handle in backend.survey() if _ours(handle, backend, shards)])
            except errors.TesServerError as cause:
                self._again = True
                telemetry.log(logger, logging.WARNING, "backend.call.failed", backend=backend.name, call="survey", error=str(cause))

    def end_orphans(self, backend: Backend, there: Sequence[Handle]) -> None:
        """End those that are neither their record's live attempt nor still to be released."""
        if not there:
            return
        records = {record.id: record for record in self._store.load({run.task_of(handle.name) for handle in there})}
        orphans = [handle for handle in there if not _owned(handle, records.get(run.task_of(handle.name)))]
        if orphans:
            telemetry.log(logger, logging.WARNING, "orphans.ended", backend=backend.name, names=[handle.name for handle in orphans[:20]], count=len(orphans))
            self._again = True
            backend.cancel(orphans)
            backend.release(orphans)

    def close(self) -> None:
        """Nothing is begun any more."""
        if self._retention is not None:
            self._retention.close()


def _ours(handle: Handle, backend: Backend, shards: frozenset[int]) -> bool:
    """True for what is at the backend's own place; what every reconciler reaches is for the one that has its shard."""
    return handle.place == backend.place if handle.place else model.shard_of(run.task_of(handle.name)) in shards


def _owned(handle: Handle, record: Record | None) -> bool:
    if record is None:
        return False
    if any(handle.name == old.name for old in record.status.release):
        return True
    # A live attempt with an intent but no handle yet is owned as well; but not what is left of one that now is at another place.
    there = model.place_of(record.status)
    here = not there or not handle.place or there == handle.place
    return here and record.state not in ENDS and handle.name == run.job_name(record.id, record.status.attempt)
