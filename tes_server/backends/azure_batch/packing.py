"""Which pool an attempt goes to, and how many slots of a node it takes. Pure.

Azure Batch knows no cores or memory of a task, only slots: a task takes as many as hold its share of whatever it needs most of. It must never give a
task less than it asks for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from tes_server.backends.azure_batch.site import Pool, Shape
from tes_server.plan.compiler import GB

SYSTEM = 0.05
"""Part of a node's memory that stays with its system, Docker and Batch's own agent."""

SLACK = 1e-9
"""Of a slot: what sums of floats may be wrong by."""


class Needs(msgspec.Struct, frozen=True, kw_only=True):
    """What an attempt asks for; `ram_bytes` with its runner's. `vm_size` "" = any."""

    cpus: float
    ram_bytes: int
    disk_bytes: int = 0
    gpus: int = 0
    spot: bool = False
    vm_size: str = ""


class Place(NamedTuple):
    """A pool, and the slots that an attempt takes there."""

    pool: str
    slots: int


def slots(needs: Needs, shape: Shape) -> int:
    """Slots of one node; 0 if it does not fit. `shape` is a known one."""
    parts = [needs.cpus / shape.cpus, needs.ram_bytes / (shape.ram_bytes * (1 - SYSTEM))]
    if needs.disk_bytes:
        parts.append(needs.disk_bytes / shape.disk_bytes if shape.disk_bytes else math.inf)
    if needs.gpus:  # alone: nothing on a node deals its GPUs out to several runners
        parts.append(1.0 if needs.gpus <= shape.gpus else math.inf)
    part = max(parts)
    return 0 if part > 1 + SLACK else max(1, math.ceil(part * shape.slots - SLACK))


def choose(needs: Needs, pools: Sequence[Pool], shapes: Mapping[str, Shape]) -> Place | str:
    """The pool of the smallest nodes in which it fits, Spot before others for who may be interrupted; or why there is none, in words.

    `shapes`: of the pools that are there.
    """
    allowed = [pool for pool in pools if needs.spot or not pool.spot]
    if not allowed:
        return "all pools are of Spot nodes, and the task may not be interrupted (any more): no other takes it"
    fitting = [pool for pool in allowed if not needs.vm_size or pool.vm_size.lower() == needs.vm_size.lower()]
    if not fitting:
        return f"no pool of size {needs.vm_size} takes tasks that may not be interrupted (any more)"
    there = [(pool, shapes[pool.id]) for pool in fitting if pool.id in shapes]
    # The order of tables is no one's wish: Helm sorts them. GPUs are kept for those who ask for some.
    for pool, shape in sorted(there, key=lambda each: (not each[0].spot, bool(each[1].gpus) and not needs.gpus, each[1].cpus, each[1].ram_bytes)):
        taken = slots(needs, shape)
        if taken:
            return Place(pool.id, taken)
    largest = "; ".join(f"{pool.id} ({_words(shape)})" for pool, shape in there)
    disk = f", {needs.disk_bytes / GB:.3g} GB of disk" if needs.disk_bytes else ""
    gpus = f", {needs.gpus} GPUs" if needs.gpus else ""
    return f"no node is large enough for {needs.cpus:g} cores, {needs.ram_bytes / GB:.3g} GB of memory{disk}{gpus}: {largest or 'no pool is there'}"


def _words(shape: Shape) -> str:
    return f"{shape.cpus:g} cores, {shape.ram_bytes * (1 - SYSTEM) / GB:.3g} GB of memory for tasks, {shape.disk_bytes / GB:.3g} GB of disk, {shape.gpus} GPUs"
