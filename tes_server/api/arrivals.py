"""Results of other threads, brought to the event loop: one wake-up for all that came since the last.

The store's writer ends the creates of one transaction together; asyncio's own bridge would wake the loop for each of them
by itself. Must never wait, nor serve more than one event loop.
"""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
from typing import Any, TypeVar

T = TypeVar("T")


class Arrivals:
    """The bridge to the loop that calls `of`."""

    def __init__(self) -> None:
        self._come: collections.deque[tuple[asyncio.Future[Any], concurrent.futures.Future[Any]]] = collections.deque()
        self._rung = False

    async def of(self, outcome: concurrent.futures.Future[T]) -> T:
        """The result of `outcome`, or its exception. Whoever gives up waiting does not stop the work."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()

        def come(done: concurrent.futures.Future[T]) -> None:
            # First there, then told: `_take` answers a ring before it looks, so what it does not see rings again.
            self._come.append((answer, done))
            if not self._rung:
                self._rung = True
                loop.call_soon_threadsafe(self._take)

        outcome.add_done_callback(come)
        return await answer

    def _take(self) -> None:
        self._rung = False
        while self._come:
            answer, done = self._come.popleft()
            if answer.cancelled():
                continue
            cause = done.exception()
            if cause is None:
                answer.set_result(done.result())
            else:
                answer.set_exception(cause)
