"""What the reconciler does beside moving tasks: live output for those who read it, counts, the search for orphans, and old tasks."""

from __future__ import annotations

import collections
import datetime
import logging
from collections.abc import Mapping

from tes_server import errors, telemetry
from tes_server.backends.base import Backend
from tes_server.control.retention import Retention
from tes_server.model import run
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

EPOCH = datetime.datetime.min.replace(tzinfo=datetime.UTC)


class Upkeep:
    """Called at each pass; keeps its own, slower pace. A clock that is set back does not hold it up."""

    def __init__(self, store: Store, backends: Mapping[str, Backend], retention: Retention | None = None) -> None:
        self._store = store
        self._backends = backends
        self._retention = retention
        self._counted = self._surveyed = self._watched = EPOCH
        self._census_interval = CENSUS_INTERVAL_PAID if store.blocking else CENSUS_INTERVAL
        self._told = True
        self._none_live = False
        self.watching = False
        """somebody reads the output of a running task"""

    @property
    def idle(self) -> bool:
        """There was no live task at the last count, and no word of one since; nor are there more old ones to remove."""
        return self._none_live and not self._told and not (self._retention is not None and self._retention.busy)

    def told(self) -> None:
        """There is news of a task, or a new one. Called from any thread."""
        self._told = True

    def turn(self, shards: frozenset[int], now: datetime.datetime) -> None:
        """All of it, as far as it is time for it; `shards` are ours."""
        self.watch(now)
        self.count(now)
        self.survey(now)
        if self._retention is not None:
            self._retention.turn(shards, now)

    def watch(self, now: datetime.datetime) -> None:
        """Fetch the live output of tasks that somebody reads."""
        if self.idle or (not self.watching and abs(now - self._watched) < WATCH_INTERVAL):
            return
        self._watched = now
        watched = self._store.watched(now)
        self.watching = bool(watched)
        if not watched:
            return
        by_backend: dict[str, list[Handle]] = collections.defaultdict(list)
        for record in self._store.load(watched):
            if record.status.handle is not None and record.state not in ENDS:
                by_backend[record.status.backend].append(record.status.handle)
        for name, handles in by_backend.items():
            backend = self._backends.get(name)
            if backend is None:
                continue
            try:
                tails = backend.tail(handles)
            except errors.TesServerError as cause:
                telemetry.log(logger, logging.WARNING, "backend.call.failed", backend=name, call="tail", tasks=len(handles), error=str(cause))
                continue
            for handle, tail in tails.items():
                self._store.tail(run.task_of(handle.name), tail)

    def count(self, now: datetime.datetime) -> None:
        """Publish how many tasks there are in each live state."""
        if abs(now - self._counted) < self._census_interval:
            return
        self._counted = now
        self._told = False  # before the count: what is told meanwhile may be missing in it
        census = self._store.census()
        self._none_live = not any(census.values())
        for state, number in census.items():
            telemetry.TASKS.labels(state).set(number)

    def survey(self, now: datetime.datetime) -> None:
        """End compute that no record owns: an attempt that is neither its record's live one nor still to be released."""
        if abs(now - self._surveyed) < SURVEY_INTERVAL:
            return
        self._surveyed = now
        for backend in self._backends.values():
            try:
                there = list(backend.survey())
                records = {record.id: record for record in self._store.load({run.task_of(handle.name) for handle in there})}
                orphans = [handle for handle in there if not _owned(handle, records.get(run.task_of(handle.name)))]
                if orphans:
                    telemetry.log(
                        logger, logging.WARNING, "orphans.ended", backend=backend.name, names=[handle.name for handle in orphans[:20]], count=len(orphans)
                    )
                    backend.cancel(orphans)
                    backend.release(orphans)
            except errors.TesServerError as cause:
                telemetry.log(logger, logging.WARNING, "backend.call.failed", backend=backend.name, call="survey", error=str(cause))

    def close(self) -> None:
        """Nothing is begun any more."""
        if self._retention is not None:
            self._retention.close()


def _owned(handle: Handle, record: Record | None) -> bool:
    if record is None:
        return False
    if any(handle.name == old.name for old in record.status.release):
        return True
    # A live attempt with an intent but no handle yet is owned as well.
    return record.state not in ENDS and handle.name == run.job_name(record.id, record.status.attempt)
