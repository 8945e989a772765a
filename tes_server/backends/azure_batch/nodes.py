"""Whether a node that ran something still lives. A node that was taken back returns under its own id, with nothing on it. Pure."""

from __future__ import annotations

import datetime
import enum

from tes_server.backends.azure_batch.objects import NodeDetail


class Fate(enum.Enum):
    """What became of it."""

    GONE = "gone"
    """nothing of what ran there runs any more"""
    LIVES = "lives"
    """it has not been away since, as far as Azure Batch knows"""
    DOUBTFUL = "doubtful"
    """Azure Batch cannot reach it: it may run on"""


DEAD = frozenset({"preempted", "deallocated", "deallocating", "reimaging", "rebooting", "creating", "starting", "waitingforstarttask", "starttaskfailed"})
"""States of nodes on which no task runs."""

SILENT = frozenset({"unusable", "unknown", "offline"})


def fate(detail: NodeDetail | None, since: datetime.datetime | None) -> Fate:
    """Of a node where something ran at `since`. `detail` None: there is no such node any more."""
    if detail is None:
        return Fate.GONE
    if detail.state in DEAD:
        return Fate.GONE
    if since is not None and detail.last_boot_time is not None and detail.last_boot_time > since:
        return Fate.GONE
    return Fate.DOUBTFUL if detail.state in SILENT else Fate.LIVES
