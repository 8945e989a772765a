"""The pools of the settings, looked at and made so. A pool is changed as a whole, or, while nodes of it forbid a part, not at all.

Nothing here ends a task: a pool that must be empty first is told to let its nodes finish. No pool is ever deleted.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import NamedTuple

from tes_server.backends.azure_batch import formula, pool_changes, pool_status, pools
from tes_server.backends.azure_batch.arm import Manager
from tes_server.backends.azure_batch.calls import Calls, Refused
from tes_server.backends.azure_batch.pool_changes import Change, When
from tes_server.backends.azure_batch.pool_status import Status, Tasks
from tes_server.backends.azure_batch.pools import Json, Pool

PAUSES = (0.5, 1.0, 2.0, *(3.0,) * 14)
"""Seconds between tries to give a pool a formula: together longer than the half minute in which Azure Batch takes no second one."""

COUNTS = 10
"""Pools on one page of their node counts: the most that Azure Batch gives."""


class Found(NamedTuple):
    """A pool as it is to be, and what there is of it. `there`: as `get_pool` tells; None: nothing."""

    pool: Pool
    there: Json | None
    changes: tuple[Change, ...] = ()
    asks: int | None = None
    """Nodes that its formula comes to now; None: nobody can tell before the pool has one."""
    wrong: str = ""
    """Why its formula cannot be evaluated."""

    @property
    def nodes(self) -> int:
        """Nodes of the pool that is there."""
        return pool_changes.nodes(self.there or {})

    @property
    def going(self) -> bool:
        """True while it is being deleted."""
        return self.there is not None and self.there.get("state") == "deleting"

    def some(self, *when: When) -> list[Change]:
        """Differences of these kinds."""
        return [change for change in self.changes if change.when in when]

    @property
    def blocked(self) -> list[Change]:
        """Differences that its nodes keep from being removed."""
        return self.some(When.EMPTY) if self.nodes else []

    @property
    def due(self) -> list[Change]:
        """Differences that can be removed now."""
        if self.blocked or self.going:
            return []
        return list(self.changes) if not self.nodes else self.some(When.NOW)

    @property
    def later(self) -> list[Change]:
        """Differences that are removed once it has no nodes, and do no harm until then."""
        return self.some(When.CHANCE) if self.nodes else []


class Done(NamedTuple):
    """What was done with a pool, what could not be, and what need not be now."""

    did: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    later: tuple[str, ...] = ()


class Fleet:
    """`manager`: None where only the Batch service can be asked, which gives pools no identities."""

    def __init__(self, calls: Calls, manager: Manager | None) -> None:
        self._calls = calls
        self._manager = manager

    def there(self, pool: str) -> Json | None:
        """The pool of that id, as `get_pool` tells of it. Raises as `Calls` do."""
        try:
            return self._calls.read("get_pool", pool)
        except Refused as cause:
            if cause.code == "PoolNotFound":
                return None
            raise

    def look(self, pool: Pool) -> Found:
        """What there is of a pool. Changes nothing."""
        there = self.there(pool.id)
        if there is None:
            return Found(pool, None)
        # Without Resource Manager nobody here can give or take identities: those of somebody else's pool are left alone.
        changes = [change for change in pool_changes.changes(there, pool) if change.what != "identities" or self._manager is not None]
        found = Found(pool, there, tuple(changes))
        # Azure evaluates formulas for pools that have one already.
        return self._evaluated(found) if there.get("enableAutoScale") and not found.going else found

    def statuses(self, ids: Collection[str]) -> list[Status | None]:
        """How these pools are, in their order; None for one that is not there. Two lists, and a call for each pool and each active job on one."""
        counts = {str(one.get("poolId")).lower(): one for one in self._calls.listed("list_pool_node_counts", max_results=COUNTS).items}
        tasks = self._tasks({one.lower() for one in ids})
        found = [(one.lower(), self.there(one)) for one in ids]
        return [None if pool is None else pool_status.status(pool, counts.get(name, {}), tasks.get(name, Tasks())) for name, pool in found]

    def _tasks(self, ids: Collection[str]) -> dict[str, Tasks]:
        """By pool."""
        found: dict[str, Tasks] = {}
        for job in self._calls.listed("list_jobs", filter="state eq 'active'", select=["id", "poolInfo"]).items:
            name = str((job.get("poolInfo") or {}).get("poolId")).lower()
            if name in ids:
                found[name] = found.get(name, Tasks()).plus(self._calls.read("get_job_task_counts", str(job["id"])))
        return found

    def others(self, server: str, ids: Collection[str]) -> list[str]:
        """Pools that bear this server's id, and are none of these."""
        own = {one.lower() for one in ids}
        told = self._calls.listed("list_pools", select=["id", "metadata"]).items
        return [str(pool["id"]) for pool in told if pool_changes.owner(pool) == server and str(pool["id"]).lower() not in own]

    def _evaluated(self, found: Found) -> Found:
        try:
            run = self._calls.read("evaluate_pool_auto_scale", found.pool.id, {"autoScaleFormula": found.pool.formula})
        except Refused as cause:
            if cause.denied or cause.throttled:
                raise
            return found._replace(wrong=cause.public)
        if error := run.get("error"):
            return found._replace(wrong=f"{error.get('code')}: {error.get('message')}")
        return found._replace(asks=sum(formula.targets(str(run.get("results") or ""))))

    def apply(self, found: Found, *, drain: bool = False) -> Done:
        """Make it as it is to be. `drain`: if its nodes forbid that, let them finish their tasks and go. Raises as `Calls` do."""
        pool = found.pool
        if found.there is None:
            return self._make(pool)
        if found.going:
            return Done(left=("is being deleted: the same command makes it anew when it is gone",))
        if found.wrong:
            return Done(left=(f"nothing was changed, as Azure Batch cannot evaluate its formula: {found.wrong}",))
        if found.blocked:
            return self._drain(found) if drain else Done(left=(_blocked(found),))
        if found.due:
            self._change(found)
        return Done(did=tuple(f"changed {change}" for change in found.due), later=tuple(str(change) for change in found.later))

    def _make(self, pool: Pool) -> Done:
        if self._manager is not None:
            self._manager.create(pool.id, pools.managed(pool))
        else:
            try:
                self._calls.ask("create_pool", pools.created(pool))
            except Refused as cause:
                if cause.code != "PoolExists":  # by a try before, whose answer was lost
                    raise
        wrong = self._evaluated(Found(pool, {})).wrong
        return Done(("made",), (f"Azure Batch cannot evaluate its formula: {wrong}",) if wrong else ())

    def _change(self, found: Found) -> None:
        pool, what = found.pool, {change.what for change in found.due}
        if "identities" in what and self._manager is not None:
            self._manager.update(pool.id, pools.identified(pool))
        body: Json = pools.fixed(pool) if found.due != found.some(When.NOW) else {}
        if "start task" in what:
            body["startTask"] = pools.start_task(pool)
        if items := pool_changes.metadata(found.there or {}, pool):
            body["metadata"] = items
        if body:
            self._calls.ask("update_pool", pool.id, body)
        if "formula" in what:
            self._scale(pool, pool.formula)

    def _drain(self, found: Found) -> Done:
        words = f"{_nodes(found.nodes)} of it finish their tasks; the same command changes it when they have gone"
        if pool_changes.drains(found.there or {}):
            return Done(left=(words,))
        self._scale(found.pool, formula.DRAIN)
        return Done(("told its nodes to go",), (words,))

    def _scale(self, pool: Pool, script: str) -> None:
        """Azure Batch takes one formula in half a minute for a pool, and the server itself makes such calls when tasks have come."""
        body = {"autoScaleFormula": script, "autoScaleEvaluationInterval": formula.INTERVAL}
        for pause in PAUSES:
            try:
                self._calls.ask("enable_pool_auto_scale", pool.id, body)
            except Refused as cause:
                if cause.code != "TooManyEnableAutoScaleRequests":
                    raise
                time.sleep(pause)
            else:
                return
        self._calls.ask("enable_pool_auto_scale", pool.id, body)


def _blocked(found: Found) -> str:
    listed = "; ".join(str(change) for change in found.blocked)
    return (
        f"nothing was changed, as Azure Batch changes this only while a pool has no nodes, and it has {_nodes(found.nodes)}: {listed}. "
        f"`tes-server pools apply --drain {found.pool.id}` lets them finish their tasks and go; "
        "or name another pool in the settings, in place of this one when nothing runs there"
    )


def _nodes(count: int) -> str:
    return f"{count} node" if count == 1 else f"{count} nodes"
