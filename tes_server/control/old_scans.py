"""Records of image scans that ended long ago leave the store, also where tasks stay for good: each holds a report, and nobody has use for it.

A few at a time, so that no other write waits for long. Must never touch what is not a scan.
"""

from __future__ import annotations

import datetime
import logging

from tes_server import telemetry
from tes_server.model.principal import SCANS
from tes_server.model.record import Query, shard_of
from tes_server.model.states import ENDS
from tes_server.store.base import VERDICTS_KEPT, Store

logger = logging.getLogger(__name__)

BATCH = 20
"""Records looked at and removed in one turn: a report is up to some hundred kB."""

ROUND = datetime.timedelta(hours=1)
"""Time between two walks over what may be old enough."""

PAUSE = datetime.timedelta(seconds=1)
"""Time between two turns of one walk."""


class OldScans:
    """One reconciler's."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._after: tuple[datetime.datetime, str] | None = None
        self._began: datetime.datetime | None = None

    def turn(self, shards: frozenset[int], now: datetime.datetime) -> int:
        """Called at each pass: removes some of those in `shards` that are as old as a verdict may get, if it is time for that; how many."""
        if self._began is not None and abs(now - self._began) < (ROUND if self._after is None else PAUSE):  # the clock may be set back
            return 0
        self._began = now
        page = self._store.page(Query(scope=SCANS.scope, size=BATCH, after=self._after or (now - VERDICTS_KEPT, "")))
        self._after = page.after
        mine = [task.id for task in page.tasks if task.state in ENDS and shard_of(task.id) in shards]
        rested = [record for record in self._store.load(mine) if record.lane is None] if mine else []
        gone = self._store.expire(rested) if rested else 0
        if gone:
            telemetry.log(logger, logging.INFO, "scan.removed", scans=gone)
        return gone
