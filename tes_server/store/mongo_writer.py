"""Creates in groups: what comes while others are under way shares their next call, so that one commit serves many callers.

Must never know what an insert means (`mongo_changes`), and never die of an exception.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

from tes_server import errors

THREADS = 4
"""Groups under way at once: while one waits for the network another is made ready."""

GROUP = 128
"""Inserts in one group at most: what is throttled is sent again as a whole."""

Op = TypeVar("Op")
_Job = tuple[Op, "concurrent.futures.Future[Any]"]


class Writer(Generic[Op]):
    """`apply(ops)` makes the changes and returns one outcome for each; an outcome that is an exception fails that op alone."""

    def __init__(self, apply: Callable[[Sequence[Op]], Sequence[BaseException | None]]) -> None:
        self._apply = apply
        self._jobs: queue.SimpleQueue[_Job[Op] | None] = queue.SimpleQueue()
        self._gate = threading.Lock()
        self._closed = False
        self._threads = [threading.Thread(target=self._run, name=f"store-writer-{number}", daemon=True) for number in range(THREADS)]
        for thread in self._threads:
            thread.start()

    def submit(self, op: Op) -> concurrent.futures.Future[None]:
        """Have `op` written. The future fails with the op's own error, or with `errors.Unavailable`."""
        future: concurrent.futures.Future[None] = concurrent.futures.Future()
        with self._gate:
            if self._closed:
                raise errors.Unavailable("the store is closed")
            self._jobs.put((op, future))
        return future

    def close(self) -> None:
        """Write what waits, then stop. Idempotent."""
        with self._gate:
            if not self._closed:
                self._closed = True
                self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            group = [each for each in (job, *self._waiting()) if each[1].set_running_or_notify_cancel()]
            if not group:
                continue
            for (_, future), outcome in zip(group, self._outcomes([op for op, _ in group]), strict=True):
                if outcome is None:
                    future.set_result(None)
                else:
                    future.set_exception(outcome)
        self._jobs.put(None)  # for the next thread

    def _waiting(self) -> Iterator[_Job[Op]]:
        with contextlib.suppress(queue.Empty):
            for _ in range(GROUP - 1):
                job = self._jobs.get_nowait()
                if job is None:
                    self._jobs.put(None)  # the end: nothing comes behind it
                    return
                yield job

    def _outcomes(self, ops: Sequence[Op]) -> Sequence[BaseException | None]:
        try:
            return self._apply(ops)
        except errors.Unavailable as cause:  # the store, not the data
            return [cause] * len(ops)
        except Exception as cause:  # noqa: BLE001 - it is handed to the callers; one op that breaks a group must not fail the others
            if len(ops) == 1:
                return [cause]
            return [outcome for op in ops for outcome in self._outcomes([op])]
