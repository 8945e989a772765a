"""Azure Batch as the site's settings have it: what the renderer and the driver are told. Pure values."""

from __future__ import annotations

import msgspec

from tes_server.plan.steps import Plan
from tes_server.runner.node import NodeSite


class Mount(msgspec.Struct, frozen=True, kw_only=True):
    """A directory of the nodes that runners see at the same path."""

    path: str
    read_only: bool = True


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """One node of a pool, and in how many slots it is shared out. 0 = not known here: the pool itself tells."""

    cpus: float = 0.0
    ram_bytes: int = 0
    disk_bytes: int = 0
    gpus: int = 0
    slots: int = 0


class Pool(msgspec.Struct, frozen=True, kw_only=True):
    """A pool that tasks may go to."""

    id: str
    vm_size: str
    spot: bool = False
    shape: Shape = Shape()


class Site(msgspec.Struct, frozen=True, kw_only=True):
    """The account as the renderer has it. Times in seconds."""

    server: str
    """first part of the names of jobs"""
    pools: tuple[Pool, ...]
    node: NodeSite
    image: str
    """of the runner: this server's own"""
    registry: str = ""
    """the registry of `image`, where Azure Batch is to pull it with an identity"""
    registry_identity: str = ""
    environment: dict[str, str] = {}
    mounts: tuple[Mount, ...] = ()
    overhead_bytes: int = 256 * 1024 * 1024
    save_seconds: float = 3600.0
    priorities: dict[str, int] = {}
    """by the name that tasks give"""

    def pool(self, pool_id: str) -> Pool:
        """A pool by its id. KeyError for one that is not here."""
        return {pool.id: pool for pool in self.pools}[pool_id]

    def priority_of(self, plan: Plan, parameter: str) -> int:
        """Of the job that an attempt goes into."""
        return self.priorities.get(plan.placement.parameters.get(parameter, ""), 0)
