"""Waiting for the ends of many tasks: each asked by itself, ever more rarely while nothing changes.

TES has no call that takes many ids. Must never decide what an end means, nor print.
"""

from __future__ import annotations

import concurrent.futures
import heapq
import time
from collections.abc import Callable, Iterator, Sequence

from tes_server.client.answers import Task

FIRST_DELAY = 0.1
"""Seconds to the second look: short tasks should not feel slow."""

LONGEST_DELAY = 5.0
"""Seconds between looks at a task that goes on and on: 1,000 of them are then 200 small requests a second."""

_GROWTH = 1.5


class Pace:
    """How long until the next look: grows while nothing happens, starts anew when something did."""

    def __init__(self, first: float = FIRST_DELAY, longest: float = LONGEST_DELAY) -> None:
        self._first = first
        self._longest = longest
        self._next = first

    def delay(self, changed: bool) -> float:
        """Seconds to wait after a look that did or did not show something new."""
        if changed:
            self._next = self._first
        now = self._next
        self._next = min(now * _GROWTH, self._longest)
        return now


def changes(
    look: Callable[[str], Task],
    ids: Sequence[str],
    timeout: float | None = None,
    workers: int = 8,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[tuple[str, Task]]:
    """Each task of `ids` as it is seen first, and again whenever its state has changed; ends when all have ended.

    Ends early, without a word, when `timeout` seconds are over. `look` is called from `workers` threads; its errors are raised here.
    """
    deadline = None if timeout is None else clock() + timeout
    paces = {task_id: Pace() for task_id in ids}
    states: dict[str, str | None] = {}
    queue = [(0.0, task_id) for task_id in paces]
    pool = concurrent.futures.ThreadPoolExecutor(workers)
    try:
        while queue:
            now = clock()
            if deadline is not None and now >= deadline:
                return
            if queue[0][0] > now:
                sleep(min(queue[0][0], deadline or queue[0][0]) - now)
                continue
            # Few at a time, so that the first end is told before the last look has been taken.
            batch: list[str] = []
            while queue and queue[0][0] <= now and len(batch) < workers:
                batch.append(heapq.heappop(queue)[1])
            for task_id, task in zip(batch, pool.map(look, batch), strict=True):
                is_new = task_id not in states or states[task_id] != task.state
                states[task_id] = task.state
                if not task.ended:
                    heapq.heappush(queue, (clock() + paces[task_id].delay(is_new), task_id))
                if is_new:
                    yield task_id, task
    finally:
        # Not waited for: after Ctrl-C nobody wants to sit through the patience of looks that are under way.
        pool.shutdown(wait=False, cancel_futures=True)
