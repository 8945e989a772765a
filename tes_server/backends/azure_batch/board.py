"""What is known of the tasks of attempts that are looked after here, by the names of these. Knows no socket and no clock.

A task goes from active over preparing and running to completed, and back to active where Azure Batch queues it anew because its node went.
"""

from __future__ import annotations

import datetime
import threading
from collections.abc import Collection

import msgspec

from tes_server.backends.azure_batch.objects import Task


class Entry(msgspec.Struct):
    """One attempt. `detail` None: its job has not shown it yet. Times are by the monotonic clock of whoever puts them."""

    job: str
    pool: str = ""
    detail: Task | None = None
    added: float = 0.0
    """when it was added, or found to be looked after here"""
    was_on: str = ""
    """the node that it ran on before it was queued anew"""
    was_at: datetime.datetime | None = None
    """when it began there"""


class Board:
    """Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: dict[str, Entry] = {}

    def expect(self, name: str, job: str, now: float, pool: str = "") -> None:
        """The attempt is looked after here; its task is in this job. What is known of it stays."""
        with self._lock:
            known = self._entries.get(name)
            if known is None or known.job != job:
                self._entries[name] = Entry(job, pool, added=now)

    def put(self, job: str, task: Task) -> bool:
        """What a job shows. True if that is news of an attempt that is looked after here."""
        with self._lock:
            known = self._entries.get(task.id)
            if known is None or known.job != job:
                return False
            before = known.detail
            if before is not None and (before == task or _older(task, before)):
                return False
            if before is not None and before.placed and not task.over and not (task.placed and task.node_info.node_id == before.node_info.node_id):
                known.was_on = before.node_info.node_id
                known.was_at = before.execution_info.start_time or before.state_transition_time
            known.detail = task
            known.pool = task.node_info.pool_id or known.pool
            return True

    def missed(self, job: str, shown: Collection[str], before: float) -> list[str]:
        """A job has been looked at as a whole, from `before` on: of the attempts that are new to nobody, those that it does not show have to be asked for."""
        with self._lock:
            gone = [
                name
                for name, entry in self._entries.items()
                if entry.job == job and entry.added < before and entry.detail is not None and not entry.detail.over and name not in shown
            ]
            for name in gone:
                self._entries[name].detail = None
            return gone

    def get(self, name: str) -> Entry | None:
        """What is known of an attempt; None if it is not looked after here."""
        with self._lock:
            known = self._entries.get(name)
            return None if known is None else msgspec.structs.replace(known)

    def jobs(self) -> set[str]:
        """The jobs with attempts that have not ended."""
        with self._lock:
            return {entry.job for entry in self._entries.values() if entry.detail is None or not entry.detail.over}

    def waiting(self, before: float) -> set[str]:
        """The pools on which attempts wait that were added before a time."""
        with self._lock:
            return {entry.pool for entry in self._entries.values() if entry.pool and entry.added <= before and entry.detail and entry.detail.state == "active"}

    def over(self) -> list[tuple[str, str]]:
        """Attempts that have ended and are not dropped, with their jobs."""
        with self._lock:
            return [(name, entry.job) for name, entry in self._entries.items() if entry.detail is not None and entry.detail.over]

    def drop(self, name: str) -> None:
        """The attempt is over and done with."""
        with self._lock:
            self._entries.pop(name, None)


def _older(task: Task, known: Task) -> bool:
    """A page that was made before what is known."""
    return bool(task.state_transition_time and known.state_transition_time and task.state_transition_time < known.state_transition_time)
