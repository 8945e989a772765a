"""Attempts that are looked after here, looked at one by one: from what their jobs show, the spool, and, where that leaves doubt, Azure Batch itself.

It must never conclude from silence: a task that its job does not show is asked for by its name before it is told to be gone, and a node that is silent
may still run what it had.
"""

from __future__ import annotations

import collections
import datetime
import logging
import time
from collections.abc import Callable, Collection

import msgspec

from tes_server import errors, telemetry
from tes_server.backends.azure_batch import definition, names, nodes, objects
from tes_server.backends.azure_batch.board import Board, Entry
from tes_server.backends.azure_batch.calls import Calls, Refused
from tes_server.backends.azure_batch.classify import Bounds, Look, Seen, classify
from tes_server.backends.azure_batch.jobs import CLOSED
from tes_server.backends.azure_batch.looks import Looks
from tes_server.backends.azure_batch.nodes import Fate
from tes_server.backends.azure_batch.objects import NodeDetail, Task
from tes_server.backends.azure_batch.site import Site
from tes_server.backends.azure_batch.submit import Submitted
from tes_server.filer.spool import Attempt, Spool, Started
from tes_server.model import run
from tes_server.model.run import Handle, Observation, Phase

logger = logging.getLogger(__name__)

YOUNG = 120.0
"""Seconds in which a task that its job has not shown is not asked for by its name."""

RELEASED = 50_000
"""Attempts that were released last: late looks at them are known for what they are."""

FRESH = 15.0
"""Seconds for which a node is taken to be as it was."""

OVER = frozenset({"TaskCompleted", "TaskNotFound", *CLOSED} - {"JobDisabled"})
"""Codes of a task that need not be ended. In a job that somebody has disabled it may begin yet."""


class Attempts:
    """Thread-safe. `now`: the time by the clock of Azure Batch."""

    def __init__(self, server: Calls, site: Site, kept: Spool, board: Board, looks: Looks, bounds: Bounds, now: Callable[[], datetime.datetime]) -> None:
        self._calls = server
        self._site = site
        self._spool = kept
        self._board = board
        self._looks = looks
        self._bounds = bounds
        self._now = now
        self._pool_of = {series.name: series.pool for series in definition.every(site)}
        self._moved: dict[str, str] = {}
        self._canceled: set[str] = set()
        self._released: collections.OrderedDict[str, None] = collections.OrderedDict()
        self._nodes: dict[tuple[str, str], tuple[float, NodeDetail | None]] = {}
        self.faults: dict[str, str] = {}
        """Why pools have no node for the tasks that wait there."""

    # -- which --------------------------------------------------------------------------------------------------------

    def added(self, name: str, submitted: Submitted, *, soon: bool) -> None:
        """An attempt whose task is in a job now. `soon`: it was added just now, and so cannot have changed before the last look at that job."""
        self._released.pop(name, None)
        self._board.expect(name, submitted.job, time.monotonic(), submitted.pool)
        if submitted.new:
            self._board.put(submitted.job, Task(id=name, creation_time=self._now()))
        if not (submitted.new and soon):
            self._looks.whole(submitted.job)

    def expect(self, name: str, job: str) -> None:
        """An attempt that somebody else added, or that we did before we were started anew. Its job's next look shows it, whenever it changed last."""
        self._expect(name, job)
        self._looks.whole(job)

    def ask(self, handle: Handle) -> None:
        """The same, without a look at the whole of its job."""
        job = self.job_of(handle)
        self._expect(handle.name, job)
        try:
            task = self.task(job, handle.name)
        except errors.Unavailable:
            self._looks.whole(job)
            return
        if task is not None:
            self._board.put(job, task)
        else:
            self._board.drop(handle.name)

    def _expect(self, name: str, job: str) -> None:
        parsed = names.parsed(self._site.server, job)
        self._board.expect(name, job, time.monotonic(), self._pool_of.get(parsed[0], "") if parsed else "")

    def new(self, handle: Handle) -> bool:
        """True if nothing is known here of an attempt."""
        return handle.name not in self._released and self._board.get(handle.name) is None

    def silent(self, handle: Handle) -> errors.Unavailable | None:
        """Why nothing can be said of an attempt: the last look at its job failed, and it had not ended before."""
        entry = self._board.get(handle.name)
        return None if entry is not None and entry.detail is not None and entry.detail.over else self._looks.error(self.job_of(handle))

    def release(self, names: Collection[str]) -> None:
        """Attempts that are over and done with."""
        for name in names:
            self._released[name] = None
            self._board.drop(name)
            self._moved.pop(name, None)
            self._canceled.discard(name)
        while len(self._released) > RELEASED:
            self._released.popitem(last=False)

    def job_of(self, handle: Handle) -> str:
        """The job of the task that counts for an attempt, as far as is known."""
        return self._moved.get(handle.name, handle.ref)

    # -- looks --------------------------------------------------------------------------------------------------------

    def look(self, handle: Handle) -> Look | None:
        """One look at an attempt. None: no news, since Azure or the spool does not answer, or it was not looked at yet."""
        try:
            return self._looked(handle)
        except errors.TesServerError as cause:
            telemetry.log(logger, logging.WARNING, "azure.look.failed", attempt=handle.name, error=str(cause))
            return None

    def _looked(self, handle: Handle) -> Look | None:
        entry = self._board.get(handle.name)
        if entry is None:
            return self._unknown(handle)
        task = entry.detail
        if task is None:
            if time.monotonic() - entry.added < YOUNG and not self._looks.shown(entry.job, entry.added):
                return Look(observation=Observation(phase=Phase.UNKNOWN))
            task = None if self._looks.gone(entry.job) else self.task(entry.job, handle.name)
            if task is not None:
                self._board.put(entry.job, task)
        moved = bool(entry.was_on) or (task is not None and task.unsettled)
        report = self._spool.report(attempt(handle.name)) if task is None or task.over or moved else None
        started = self._spool.started(attempt(handle.name)) if report is None and task is not None and (task.over or moved) else None
        seen = Seen(
            detail=task,
            report=report,
            taken=started is not None,
            faults=self.faults.get(entry.pool, ""),
            where=self._where(entry, task),
            spot=self._on_spot(entry.pool),
            tails=None if started is None else self._spool.tail(attempt(handle.name)),
            canceled=handle.name in self._canceled,
        )
        if task is not None and started is not None and moved:
            holder = self._holder(handle, entry, task, started)
            if holder is None:
                return None
            seen = msgspec.structs.replace(seen, holder=holder[0], fate=holder[1])
        look = classify(seen, self._now(), self._bounds)
        if look.stop and task is not None and not task.over:
            self.terminate(entry.job, handle.name)
        return look

    def _unknown(self, handle: Handle) -> Look:
        """An attempt that was released, or that Azure Batch denies: only a report may be left of it."""
        report = None if handle.name in self._released else self._spool.report(attempt(handle.name))
        return classify(Seen(report=report), self._now(), self._bounds)

    def _holder(self, handle: Handle, entry: Entry, task: Task, started: Started) -> tuple[str, Fate | None] | None:
        """The node that has the attempt, and what became of it; ("", None) if that is the task's own. None: another task has it, which counts now."""
        job, _, rest = started.run.partition("/")
        if job != entry.job:
            self._moved[handle.name] = job
            self._board.drop(handle.name)
            self.expect(handle.name, job)
            return None
        holder = rest.split("/")[1] if rest.count("/") else ""
        if task.placed and holder == task.node_info.node_id and holder != entry.was_on:
            return "", None
        pool = task.node_info.pool_id or entry.pool
        return holder, nodes.fate(self._node(pool, holder), entry.was_at if holder == entry.was_on else None)

    def _where(self, entry: Entry, task: Task | None) -> dict[str, str]:
        """For whoever looks for it in the portal. All of it at once: each bit that is new would be a write of the task's record."""
        if task is None or not task.node_info.node_id or not task.execution_info.start_time:
            return {}
        size = next((pool.vm_size for pool in self._site.pools if pool.id == entry.pool), "")
        found = {"job": entry.job, "pool": entry.pool, "node": task.node_info.node_id, "capacity": "spot" if self._on_spot(entry.pool) else "dedicated"}
        return {**found, **({"vm_size": size} if size else {})}

    def _on_spot(self, pool: str) -> bool:
        return any(known.spot for known in self._site.pools if known.id == pool)

    # -- calls --------------------------------------------------------------------------------------------------------

    def task(self, job: str, name: str) -> Task | None:
        """A task as it is; None if its job, or Azure Batch, does not know it."""
        if names.parsed(self._site.server, job) is None:
            return None  # no job of ours
        try:
            return objects.task(self._calls.read("get_task", job, name, select=objects.TASK))
        except Refused as cause:
            if cause.code in ("TaskNotFound", "JobNotFound"):
                return None
            raise

    def _node(self, pool: str, name: str) -> NodeDetail | None:
        """A node as it was a moment ago; None if there is none of that name."""
        at, found = self._nodes.get((pool, name), (float("-inf"), None))
        if time.monotonic() - at < FRESH:
            return found
        try:
            found = objects.node(self._calls.read("get_node", pool, name, select=objects.NODE))
        except Refused as cause:
            if cause.code not in ("NodeNotFound", "PoolNotFound"):
                raise
            found = None
        self._nodes[pool, name] = (time.monotonic(), found)
        return found

    def cancel(self, handle: Handle) -> None:
        """No run of it begins any more; what runs is ended."""
        self._canceled.add(handle.name)
        self._spool.withdraw(attempt(handle.name))
        for job in {handle.ref, self.job_of(handle)}:
            entry = self._board.get(handle.name)
            if entry is None or entry.job != job or entry.detail is None or not entry.detail.over:
                self.terminate(job, handle.name)

    def terminate(self, job: str, name: str) -> None:
        """End a task; one that has ended, is not there, or is none of ours, is fine."""
        if names.parsed(self._site.server, job) is None:
            return
        try:
            self._calls.ask("terminate_task", job, name)
        except Refused as cause:
            if cause.code not in OVER:
                raise


def attempt(name: str) -> Attempt:
    """The attempt of that name."""
    return Attempt(run.task_of(name), int(name.rpartition("-")[2]))
