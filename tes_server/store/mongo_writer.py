"""Creates in groups: what comes while others are under way shares their next call, so that one commit serves many callers.

Each caller's patience counts from when it asked, also in the queue. A group waits for the store as long as its first caller
does; those that may wait longer go into the next one (inserts may be repeated).
Must never know what an insert means (`mongo_changes`), and never die of an exception.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

import msgspec

from tes_server import errors
from tes_server.store import base

THREADS = 4
"""Groups under way at once: while one waits for the network another is made ready."""

GROUP = 128
"""Inserts in one group at most: what is throttled is sent again as a whole."""

NEAR = 1.5
"""Seconds: a caller whose patience ends so soon has waited long enough (the store is not tried again so shortly before the end)."""

Op = TypeVar("Op")


class _Job(msgspec.Struct, Generic[Op], eq=False):
    op: Op
    future: concurrent.futures.Future[None]
    asked: float
    begun: bool = False

    def begins(self) -> bool:
        """False if the caller has gone before it was begun."""
        self.begun = self.begun or self.future.set_running_or_notify_cancel()
        return self.begun


class Writer(Generic[Op]):
    """`apply(ops)` makes the changes and returns one outcome for each; an outcome that is an exception fails that op alone.

    `until(asked)` is the moment at which the patience of one who asked then is over; `lost(ops)` hears of those that the store
    did not answer in that time, before their futures fail.
    """

    def __init__(
        self,
        apply: Callable[[Sequence[Op]], Sequence[BaseException | None]],
        until: Callable[[float], float],
        lost: Callable[[Sequence[Op]], None],
    ) -> None:
        self._apply = apply
        self._until = until
        self._lost = lost
        self._jobs: queue.SimpleQueue[_Job[Op] | None] = queue.SimpleQueue()
        self._gate = threading.Lock()
        self._closed = False
        self._threads = [threading.Thread(target=self._run, name=f"store-writer-{number}", daemon=True) for number in range(THREADS)]
        for thread in self._threads:
            thread.start()

    def submit(self, op: Op) -> concurrent.futures.Future[None]:
        """Have `op` written. The future fails with the op's own error, or with `errors.Unavailable`."""
        asked = base.asked.get()
        job = _Job(op, concurrent.futures.Future(), time.monotonic() if asked is None else asked)
        if not self._put([job]):
            raise errors.Unavailable("the store is closed")
        return job.future

    def close(self) -> None:
        """Write what waits, then stop. Idempotent."""
        with self._gate:
            if not self._closed:
                self._closed = True
                self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    def _put(self, jobs: Sequence[_Job[Op]]) -> bool:
        with self._gate:
            if not self._closed:
                for job in jobs:
                    self._jobs.put(job)
            return not self._closed

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            group = [each for each in (job, *self._waiting()) if each.begins()]
            if group:
                base.asked.set(min(each.asked for each in group))
                self._write(group)
        self._jobs.put(None)  # for the next thread

    def _waiting(self) -> Iterator[_Job[Op]]:
        with contextlib.suppress(queue.Empty):
            for _ in range(GROUP - 1):
                job = self._jobs.get_nowait()
                if job is None:
                    self._jobs.put(None)  # the end: nothing comes behind it
                    return
                yield job

    def _write(self, group: Sequence[_Job[Op]]) -> None:
        try:
            outcomes = self._apply([job.op for job in group])
        except errors.Unavailable as cause:  # the store, not the data
            self._unanswered(group, cause)
        except Exception as cause:  # noqa: BLE001 - it is handed to the callers; one op that breaks a group must not fail the others
            if len(group) == 1:
                group[0].future.set_exception(cause)
            else:
                for job in group:
                    self._write([job])
        else:
            for job, outcome in zip(group, outcomes, strict=True):
                if outcome is None:
                    job.future.set_result(None)
                else:
                    job.future.set_exception(outcome)

    def _unanswered(self, group: Sequence[_Job[Op]], cause: errors.Unavailable) -> None:
        over = time.monotonic() + NEAR
        patient = [job for job in group if self._until(job.asked) > over]
        if len(patient) == len(group):
            # Nobody's patience is over, so it was not time that ended it: another try would meet the same. It may be for one of them.
            if len(group) > 1:
                for job in group:
                    self._write([job])
                return
            patient = []
        elif not self._put(patient):
            patient = []
        failed = [job for job in group if job not in patient]
        self._lost([job.op for job in failed])
        for job in failed:
            job.future.set_exception(cause)
