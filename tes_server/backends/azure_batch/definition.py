"""The jobs of a pool: what all tasks of one have in common. Pure: same site, pool and priority, same job, and so the same name.

One serves many thousand tasks; what differs between them is in each task. It must never hold a credential or anything of a task.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, NamedTuple

from tes_server.backends.azure_batch import names
from tes_server.backends.azure_batch.site import Site
from tes_server.runner import node

Object = dict[str, Any]


class Series(NamedTuple):
    """Jobs with the same content, one after the other. `name`: what their ids begin with."""

    name: str
    pool: str
    body: Object

    def job(self, serial: int) -> Object:
        """The request that adds one of them (BatchJobCreateOptions)."""
        return {"id": names.job(self.name, serial), **self.body}


def series(site: Site, pool: str, priority: int) -> Series:
    """The jobs for a pool and a priority."""
    environment = sorted({**site.environment, node.SITE: node.encode(site.node)}.items())
    body: Object = {
        "poolInfo": {"poolId": pool},
        "priority": priority,
        # An empty job goes on; every retry is a new attempt of ours, with its own name.
        "onAllTasksComplete": "noaction",
        "constraints": {"maxTaskRetryCount": 0},
        "commonEnvironmentSettings": [{"name": name, "value": value} for name, value in environment],
        "metadata": [{"name": names.SERVER, "value": site.server}],
    }
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    return Series(names.series(site.server, pool, digest), pool, body)


def every(site: Site) -> tuple[Series, ...]:
    """All that tasks of this site may go into."""
    priorities = sorted({0, *site.priorities.values()})
    return tuple(series(site, pool.id, priority) for pool in site.pools for priority in priorities)
