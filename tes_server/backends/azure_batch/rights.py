"""Whether Azure Batch lets this server do what it must, and whether its pools can run tasks, asked before any task needs it. Changes nothing there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from tes_server.backends.azure_batch import names, objects
from tes_server.backends.azure_batch.calls import Calls, Refused
from tes_server.backends.azure_batch.pool_looks import COUNTS, failing, shape_of
from tes_server.backends.azure_batch.site import Pool, Site

NOTHING = "tes-server-doctor-asks"
"""The id of no job, task, pool or node."""

UNKNOWN = "AuthenticationFailed"
"""Code of a refusal by which no rights were looked at: the key or the token is not good."""


def faults(server: Calls, site: Site) -> list[str]:
    """Every fault in words: missing permissions, pools that are missing, cannot grow or whose nodes fail. Raises Unavailable if Azure is away."""
    found = [*_denied(server, site), *(fault for pool in site.pools for fault in _pool(server, pool))]
    return list(dict.fromkeys(found))


def _denied(server: Calls, site: Site) -> Iterator[str]:
    """Each call that is needed, as one that does nothing: of what is not there a request is refused only after the caller's rights were looked at."""
    asked: list[tuple[str, Callable[[], Any]]] = [
        ("listing jobs", lambda: server.listed("list_jobs", filter=f"startswith(id,'{names.mine(site.server)}')", select=["id"])),
        ("adding jobs", lambda: server.ask("create_job", {"id": "no/id", "poolInfo": {"poolId": NOTHING}})),
        ("looking at jobs", lambda: server.ask("get_job", NOTHING)),
        ("counting tasks", lambda: server.ask("get_job_task_counts", NOTHING)),
        ("changing jobs", lambda: server.ask("update_job", NOTHING, {"priority": 0})),
        ("deleting jobs", lambda: server.ask("begin_delete_job", NOTHING)),
        ("adding tasks", lambda: server.ask("create_task_collection", NOTHING, {"value": []})),
        ("listing tasks", lambda: server.listed("list_tasks", NOTHING, select=["id"])),
        ("looking at tasks", lambda: server.ask("get_task", NOTHING, NOTHING)),
        ("ending tasks", lambda: server.ask("terminate_task", NOTHING, NOTHING)),
        ("looking at pools", lambda: server.ask("get_pool", NOTHING)),
        ("counting nodes", lambda: server.listed("list_pool_node_counts", filter=f"poolId eq '{NOTHING}'", max_results=COUNTS)),
        ("looking at nodes", lambda: server.ask("get_node", NOTHING, NOTHING)),
        ("telling pools to grow", lambda: server.ask("enable_pool_auto_scale", NOTHING, {"autoScaleFormula": "$TargetDedicatedNodes = 0;"})),
    ]
    for right, call in asked:
        try:
            call()
        except Refused as cause:
            if cause.code == UNKNOWN:  # of all others the same would be said
                how = (
                    "azure_batch.key_variable: the shared key is not this account's"
                    if server.account.key
                    else "azure_batch.client_id, or what this machine signs in as"
                )
                yield f"Azure Batch does not know who asks ({how}): {cause.public}"
                return
            if cause.denied:
                yield f"{right} is not allowed: {cause.public}"
            elif cause.throttled or cause.status >= 500:
                yield f"{right}: {cause.public}"


def _pool(server: Calls, pool: Pool) -> Iterator[str]:
    """It is there, takes tasks, tells what its nodes have, and can grow."""
    try:
        detail = objects.pool(server.read("get_pool", pool.id, select=objects.POOL))
        nodes = failing(server, pool.id)
    except Refused as cause:
        if cause.code == "PoolNotFound":
            yield f"there is no pool {pool.id}: `tes-server pools apply` makes it"
        return  # else told above
    if detail.state != "active":
        yield f"pool {pool.id} is {detail.state}"
    if shape_of(pool, detail) is None:
        yield f"nothing tells what the nodes of pool {pool.id} have: `tes-server pools apply` notes it, or azure_batch.pools.{pool.id}.cpus and .ram_gb do"
    for words in (*detail.faults, *nodes):
        yield f"pool {pool.id}: {words}"
