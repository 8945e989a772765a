"""The one thread of a process that writes: what waits is grouped into one transaction, so one sync serves many callers.

Futures are done only after COMMIT. Must never know what a change means (`sqlite_changes`), and never die of an exception.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar

from tes_server import errors, telemetry
from tes_server.store import sqlite_peers

_log = logging.getLogger(__name__)

GROUP = 512
"""Changes in one transaction at most: bounds how long other processes wait for their turn."""

CROWD = 4
"""Changes in the group before from which on it is worth waiting for more: a caller by itself must not wait."""

PAUSE = 0.0005
LONGEST_PAUSE = 0.005
"""Seconds between two looks whether more came, and in all. A transaction costs as much processor time as ten of its changes."""

Op = TypeVar("Op")
_Job = tuple[Op, "concurrent.futures.Future[Any]"]


def _claimed(jobs: Iterable[_Job[Op]]) -> list[_Job[Op]]:
    """The jobs whose callers have not given up; from here on these cannot."""
    return [job for job in jobs if job[1].set_running_or_notify_cancel()]


class Writer(Generic[Op]):
    """`apply(connection, ops)` makes the changes inside a transaction and returns one outcome for each op; an outcome that is an exception
    fails that op alone. If it raises, the whole group is rolled back. `committed(ops)` is called after the commit.
    """

    def __init__(
        self,
        connect: Callable[[], sqlite3.Connection],
        turn: sqlite_peers.Turn,
        apply: Callable[[sqlite3.Connection, Sequence[Op]], list[object]],
        committed: Callable[[Sequence[Op]], None],
    ) -> None:
        self._connect = connect
        self._turn = turn
        self._apply = apply
        self._committed = committed
        self._connection: sqlite3.Connection | None = None
        self._jobs: queue.SimpleQueue[_Job[Op] | None] = queue.SimpleQueue()
        self._gate = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    def submit(self, op: Op) -> concurrent.futures.Future[Any]:
        """Have `op` written. The future fails with the op's own error, or with `errors.Unavailable` if the disk refuses."""
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        with self._gate:
            if self._closed:
                raise errors.Unavailable("the store is closed")
            self._jobs.put((op, future))
        return future

    def close(self) -> None:
        """Write what waits, then stop."""
        with self._gate:
            if not self._closed:
                self._closed = True
                self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        crowded = False
        while (job := self._jobs.get()) is not None:
            if crowded:
                self._await_more()
            group = _claimed([job])
            try:
                with self._turn:
                    # Only now: what came while others had their turn joins this transaction.
                    group += _claimed(self._waiting_jobs())
                    outcomes = self._write([op for op, _ in group])
            except Exception as error:  # noqa: BLE001 - whatever it is, the callers get it and the thread goes on
                outcomes = [error] * len(group)
            crowded = len(group) >= CROWD
            for (_, future), outcome in zip(group, outcomes, strict=True):
                if isinstance(outcome, BaseException):
                    future.set_exception(outcome)
                else:
                    future.set_result(outcome)
        self._disconnect()

    def _await_more(self) -> None:
        """Wait as long as more changes come: many callers that wait for one commit send their next ones together."""
        seen = -1
        for _ in range(round(LONGEST_PAUSE / PAUSE)):
            waiting = self._jobs.qsize()
            if waiting == seen:
                return
            seen = waiting
            time.sleep(PAUSE)

    def _waiting_jobs(self) -> Iterator[_Job[Op]]:
        with contextlib.suppress(queue.Empty):
            for _ in range(GROUP - 1):
                job = self._jobs.get_nowait()
                if job is None:
                    self._jobs.put(None)  # the end: nothing comes behind it
                    return
                yield job

    def _write(self, ops: Sequence[Op]) -> list[object]:
        """One transaction for all of `ops`; if one of them breaks it, one transaction for each, so that it fails alone."""
        if not ops:
            return []
        try:
            return self._transact(ops)
        except (sqlite3.OperationalError, OSError) as error:  # the disk, not the data
            telemetry.log(_log, logging.ERROR, "store.write_failed", error=str(error), changes=len(ops))
            unavailable = errors.Unavailable(f"the store cannot write: {error}")
            unavailable.__cause__ = error
            return [unavailable] * len(ops)
        except Exception as error:  # noqa: BLE001 - it is handed to the caller of the one op that raised it
            if len(ops) == 1:
                telemetry.log(_log, logging.ERROR, "store.change_refused", error=repr(error))
                return [error]
            return [outcome for op in ops for outcome in self._write([op])]

    def _transact(self, ops: Sequence[Op]) -> list[object]:
        try:
            if self._connection is None:
                self._connection = self._connect()
            self._connection.execute("BEGIN IMMEDIATE")
            outcomes = self._apply(self._connection, ops)
            self._connection.execute("COMMIT")
        except BaseException:
            # After a failed write or sync the state of this connection is not worth reasoning about.
            self._disconnect()
            raise
        self._committed(ops)
        return outcomes

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()  # rolls back what is open
