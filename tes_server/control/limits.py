"""What one owner may have at a time and ask for: beyond it creates and lists are refused, never a look at a task or a cancel.

The store is counted at most every `LOOK` seconds for an owner that creates; what this process lets in since is added. So one
process never lets in too much; several may, by what the others let in since the last count. Must never be asked on an event
loop: a count reads the store.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import msgspec

from tes_server import errors
from tes_server.control.rates import Rates
from tes_server.model.principal import Scope
from tes_server.model.record import Query, Record, StateFilter, View
from tes_server.model.states import LIVE, State
from tes_server.model.task import Task
from tes_server.store.base import Store

LOOK = 5.0
"""Seconds between two counts of one owner's tasks."""

PAUSE = 30.0
"""Seconds after which a client may try again whose owner has too many tasks."""

PAGE = 1000

MOST = 10_000
"""Owners whose count is remembered."""


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """What one owner may have and ask for; 0 = any. `default_cores` are those of a task that names none."""

    queued: int = 0
    tasks: int = 0
    cores: float = 0.0
    creates_per_minute: int = 0
    lists_per_minute: int = 0
    default_cores: float = 1.0

    @property
    def counts(self) -> bool:
        """Tasks have to be counted."""
        return bool(self.queued or self.tasks or self.cores)


class _Count:
    """One owner's tasks that have not ended. `begun` are the cores of those that are admitted here and not known to be stored yet."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.begin = threading.Lock()  # of `begun` alone: the store's writer takes it, and must not wait for a count
        self.at = float("-inf")
        self.queued = 0
        self.tasks = 0
        self.cores = 0.0
        self.begun: list[float] = []


class Limits:
    """The limits of all owners in one process."""

    def __init__(self, store: Store, bounds: Bounds, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._bounds = bounds
        self._monotonic = monotonic
        self._counts: dict[str, _Count] = {}
        self._creates = Rates(bounds.creates_per_minute) if bounds.creates_per_minute else None
        self._lists = Rates(bounds.lists_per_minute) if bounds.lists_per_minute else None

    def asks_for_list(self, owner: str) -> None:
        """Raise TooMany where the owner lists too often."""
        self._asks(self._lists, owner, "lists", self._bounds.lists_per_minute)

    def asks_for_create(self, owner: str) -> None:
        """Raise TooMany where the owner creates too often."""
        self._asks(self._creates, owner, "new tasks", self._bounds.creates_per_minute)

    def _asks(self, rates: Rates | None, owner: str, what: str, most: int) -> None:
        if rates is not None and (wait := rates.take(owner, self._monotonic())):
            raise errors.TooMany(f"you may ask for {most} {what} a minute", wait)

    def admit(self, owner: str, task: Task) -> Callable[[], None]:
        """Count a new task in, or raise TooMany. What is returned is called once it is stored, or is known not to be."""
        if not self._bounds.counts:
            return lambda: None
        if len(self._counts) > MOST:
            self._counts.clear()
        count, cores = self._counts.setdefault(owner, _Count()), self._cores(task)
        with count.lock:
            if self._monotonic() - count.at >= LOOK:
                self._look(owner, count)
            self._check(count, cores)
            count.queued, count.tasks, count.cores = count.queued + 1, count.tasks + 1, count.cores + cores
            with count.begin:
                count.begun.append(cores)

        def settled() -> None:
            with count.begin:
                count.begun.remove(cores)

        return settled

    def _check(self, count: _Count, cores: float) -> None:
        bounds = self._bounds
        if bounds.queued and count.queued >= bounds.queued:
            raise errors.TooMany(f"you have {bounds.queued} tasks that wait, as many as you may", PAUSE)
        if bounds.tasks and count.tasks >= bounds.tasks:
            raise errors.TooMany(f"you have {bounds.tasks} tasks that have not ended, as many as you may", PAUSE)
        if bounds.cores and count.cores + cores > bounds.cores + 1e-9:
            raise errors.TooMany(f"your tasks that have not ended would ask for more than {bounds.cores:g} cores", PAUSE)

    def _look(self, owner: str, count: _Count) -> None:
        """Count what is stored; what is begun may be among it already, and then counts twice until the next look: rather too few than too many."""
        with count.begin:
            queued = tasks = len(count.begun)
            cores, at = sum(count.begun), self._monotonic()
        query = Query(scope=Scope(owner), view=View.BASIC if self._bounds.cores else View.MINIMAL, size=PAGE, state=StateFilter(LIVE))
        while True:
            page = self._store.page(query)
            tasks += len(page.tasks)
            queued += sum(task.state is State.QUEUED for task in page.tasks)
            cores += sum(self._cores(task.task) for task in page.tasks if isinstance(task, Record) and task.task is not None)
            if page.after is None or self._is_full(queued, tasks, cores):
                break
            query = msgspec.structs.replace(query, after=page.after)
        count.queued, count.tasks, count.cores, count.at = queued, tasks, cores, at

    def _is_full(self, queued: int, tasks: int, cores: float) -> bool:
        """One limit is reached: the others need not be known any more."""
        bounds = self._bounds
        return bool((bounds.queued and queued >= bounds.queued) or (bounds.tasks and tasks >= bounds.tasks) or (bounds.cores and cores >= bounds.cores))

    def _cores(self, task: Task) -> float:
        asked = task.resources.cpu_cores if task.resources is not None else None
        return asked or self._bounds.default_cores
