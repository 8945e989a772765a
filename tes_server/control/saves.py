"""How what was decided is saved: the loser of a race decides again on the newer revision. Counts, and tells of each step once.

Must never decide anything by itself.
"""

from __future__ import annotations

import datetime
import logging
from collections.abc import Callable, Sequence

import msgspec

from tes_server import telemetry
from tes_server.model.principal import SCANS
from tes_server.model.record import Change, Record
from tes_server.model.states import ENDS
from tes_server.store.base import Store
from tes_server.telemetry import Code

logger = logging.getLogger(__name__)

Settle = Callable[[Record], Change | None]
"""Turns an answer into a Change of a record; called again on a newer revision if the save loses."""


class Saves:
    """`clock` tells what is due, `again` is called with each change of what is due at once."""

    def __init__(self, store: Store, clock: Callable[[], datetime.datetime], again: Callable[[Change], None]) -> None:
        self._store = store
        self._clock = clock
        self._again = again

    def commit(self, pairs: Sequence[tuple[Record, Settle]]) -> set[str]:
        """Save what `settle` makes of each record; where a save loses, settle the newer revision. Returns the ids changed."""
        changed: set[str] = set()
        left = list(pairs)
        while left:
            changes = {record.id: change for record, settle in left if (change := settle(record)) is not None}
            if not changes:
                break
            lost = self.once(list(changes.values()))
            for record, _ in left:
                if record.id in changes and record.id not in lost:
                    changed.add(record.id)
                    self._tell(record, changes[record.id])
            if not lost:
                break
            fresh = {record.id: record for record in self._store.load(lost)}
            left = [(fresh[record.id], settle) for record, settle in left if record.id in fresh]
        return changed

    def once(self, changes: Sequence[Change]) -> set[str]:
        """Save what nobody minds if it loses; the ids that lost."""
        if not changes:
            return set()
        lost = self._store.save(changes)
        telemetry.SAVES.inc(len(changes))
        telemetry.SAVES_LOST.inc(len(lost))
        return lost

    def _tell(self, record: Record, change: Change) -> None:
        if change.state is not record.state:
            telemetry.log(logger, logging.INFO, "task.state", task=record.id, state=change.state, attempt=change.status.attempt, backend=change.status.backend)
        if change.state in ENDS and record.state not in ENDS and record.owner != SCANS.owner:
            lines = change.detail.system_logs if change.detail else ()
            reason = lines[-1].partition(":")[0] if lines and change.state != "COMPLETE" else ""
            telemetry.TASKS_ENDED.labels(change.state, reason if reason in Code.__members__ else "").inc()
        if change.due is not None and change.due <= self._clock():
            self._again(change)


def after(record: Record, change: Change) -> Record:
    """The record as it is in the store after `change` was saved."""
    return msgspec.structs.replace(
        record, revision=change.revision + 1, state=change.state, canceling=change.canceling, lane=change.lane, due=change.due, status=change.status
    )
