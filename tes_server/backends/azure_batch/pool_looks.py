"""What pools say of themselves: what their nodes are, why they do not grow; and the word that makes one grow at once. Asks seldom.

Azure Batch evaluates the formula of a pool every five minutes at the soonest; enabling it again evaluates it at once. That is done after tasks have
come, with the pool's own formula, and at most every half a minute (Azure Batch refuses more: TooManyEnableAutoScaleRequests).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Sequence

import msgspec

from tes_server import errors, telemetry
from tes_server.backends.azure_batch import objects, pool_status, pools
from tes_server.backends.azure_batch.calls import Calls, Refused
from tes_server.backends.azure_batch.objects import PoolDetail
from tes_server.backends.azure_batch.site import Pool, Shape
from tes_server.plan.compiler import GB

logger = logging.getLogger(__name__)

SOON = 60.0
"""Seconds between two looks at a pool on which tasks wait."""

SELDOM = 600.0
"""Seconds for which the shape of a pool is taken to be as it was."""

APART = 35.0
"""Seconds between two words to a pool to grow."""


ACTIVE = "active"
"""State of a pool that is not being deleted."""

COUNTS = 10
"""Pools on one page of their node counts: the most that Azure Batch gives."""


class _Known(msgspec.Struct):
    detail: PoolDetail | None = None
    """None: there is no such pool"""
    looked: float = 0.0
    told: float = float("-inf")
    came: bool = False
    counted: float = 0.0
    """the look after which its nodes were counted"""
    failing: list[str] = []


class Pools:
    """The pools of a site. Thread-safe."""

    def __init__(self, server: Calls, pools: Sequence[Pool]) -> None:
        self._calls = server
        self._pools = {pool.id: pool for pool in pools}
        self._known: dict[str, _Known] = {}
        self._lock = threading.Lock()

    def shapes(self) -> dict[str, Shape]:
        """Of the pools that are there and whose nodes are known. Raises what `Calls` does where one was never seen."""
        found: dict[str, Shape] = {}
        for pool in self._pools.values():
            detail = self._look(pool.id, SELDOM if self._there(pool.id) else SOON)
            shape = None if detail is None or detail.state != ACTIVE else shape_of(pool, detail)
            if shape is not None:
                found[pool.id] = shape
        return found

    def missing(self) -> list[str]:
        """Each pool that takes no tasks, in words."""
        with self._lock:
            known = {name: known.detail for name, known in self._known.items()}
        absent = [f"there is no pool {name}: `tes-server pools apply` makes it" for name in self._pools if known.get(name) is None]
        dim = [
            f"nothing tells what the nodes of pool {name} have: `tes-server pools apply` notes it, or azure_batch.pools.{name}.cpus and .ram_gb do"
            for name, pool in self._pools.items()
            if (detail := known.get(name)) is not None and shape_of(pool, detail) is None
        ]
        going = [f"pool {name} is being deleted" for name in self._pools if (detail := known.get(name)) is not None and detail.state != ACTIVE]
        return absent + dim + going

    def came(self, pool: str) -> None:
        """Tasks have come for a pool: if they wait there, it is to grow at once."""
        with self._lock:
            self._known.setdefault(pool, _Known()).came = True

    def grow(self, waiting: Collection[str]) -> None:
        """Tell pools to evaluate their formulas now, of those on which tasks wait, for which more have come since they were told last.

        What cannot be told now is told later, or the pool finds out by itself.
        """
        now = time.monotonic()
        with self._lock:
            due = [name for name, known in self._known.items() if name in waiting and known.came and now - known.told >= APART]
            for name in due:
                self._known[name].came, self._known[name].told = False, now
        for name in due:
            try:
                self._grow(name)
            except Refused as cause:
                self.came(name)
                telemetry.log(logger, logging.INFO, "azure.pool.not_told", pool=name, error=str(cause))

    def faults(self, pool: str) -> str:
        """Why a pool on which tasks wait has no node for them, in words; "" if it does not say."""
        detail = self._look(pool, SOON)
        if detail is None:
            return f"there is no pool {pool}: `tes-server pools apply` makes it"
        if detail.state != ACTIVE:
            return f"pool {pool} is being deleted"
        said = [*detail.faults, *self._failing(pool)]
        return f"pool {pool}: {'; '.join(said)}" if said else ""

    def _failing(self, pool: str) -> list[str]:
        """Why the nodes that it has take no tasks, where not one of them does; as it was when the pool was looked at."""
        with self._lock:
            known = self._known[pool]
            if known.counted == known.looked:
                return known.failing
        try:
            found = failing(self._calls, pool)
        except errors.Unavailable:
            return known.failing
        with self._lock:
            known.failing, known.counted = found, known.looked
        return found

    def _grow(self, name: str) -> None:
        detail = self._look(name, 0.0)
        if detail is None or not detail.enable_auto_scale:
            return  # one of the site's own size
        self._calls.ask("enable_pool_auto_scale", name, {"autoScaleFormula": detail.auto_scale_formula})
        telemetry.log(logger, logging.INFO, "azure.pool.told", pool=name)

    def _there(self, name: str) -> bool:
        with self._lock:
            return (known := self._known.get(name)) is not None and known.detail is not None

    def _look(self, name: str, age: float) -> PoolDetail | None:
        """As it was at most `age` seconds ago; None if there is none. Raises what `Calls` does, but never where it was seen before."""
        now = time.monotonic()
        with self._lock:
            known = self._known.setdefault(name, _Known())
            if known.looked and now - known.looked < age:
                return known.detail
        try:
            detail: PoolDetail | None = objects.pool(self._calls.read("get_pool", name, select=objects.POOL))
        except Refused as cause:
            if cause.code != "PoolNotFound":
                if known.looked:
                    return known.detail
                raise
            detail = None
        except errors.Unavailable:
            if known.looked:
                return known.detail
            raise
        with self._lock:
            known.detail, known.looked = detail, now
        return detail


def failing(server: Calls, pool: str) -> list[str]:
    """Why no node of a pool takes tasks, in words; empty where one does, or may yet, or there is none. Raises what `Calls` does."""
    counts = server.listed("list_pool_node_counts", filter=f"poolId eq '{pool}'", max_results=COUNTS).items
    nodes = pool_status.nodes(counts[0]) if counts else {}
    if set(nodes) - set(pool_status.NODES):
        return []
    return [f"{count} nodes are {state}: {pool_status.NODES[state]}" for state, count in sorted(nodes.items())]


def shape_of(pool: Pool, detail: PoolDetail) -> Shape | None:
    """What one node has, by the settings, else by the pool's notes; None where neither tells of cores and memory."""
    notes, given = detail.notes, pool.shape

    def noted(name: str) -> float:
        try:
            return float(notes.get(name, "0"))
        except ValueError:
            return 0.0

    shape = Shape(
        cpus=given.cpus or noted(pools.CPUS),
        ram_bytes=given.ram_bytes or int(noted(pools.RAM) * GB),
        disk_bytes=given.disk_bytes or int(noted(pools.DISK) * GB),
        gpus=given.gpus or int(noted(pools.GPUS)),
        slots=max(1, detail.task_slots_per_node),  # as it is, whatever the settings wish
    )
    return shape if shape.cpus and shape.ram_bytes else None
