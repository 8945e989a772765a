"""A plan as an Azure Batch task. Pure: same plan and site, same bytes.

Which pool it goes to, and how many slots it takes there, is found when it is submitted: pools tell what their nodes are. The plan itself goes through
the spool.
"""

from __future__ import annotations

import datetime
import math
import shlex

import msgspec

from tes_server.backends.azure_batch.definition import Object
from tes_server.backends.azure_batch.packing import Needs
from tes_server.backends.azure_batch.site import Site
from tes_server.backends.base import Job
from tes_server.model import run
from tes_server.plan.steps import Plan
from tes_server.runner import node

PLAN_BYTES = 32 * 1024 * 1024
"""Bytes of the largest plan: any that a task makes, and a bound for what a runner reads."""

RETENTION = datetime.timedelta(days=1)
"""How long Azure Batch keeps what a task left in its directory on the node: the runner's own output."""

PRIORITY = "priority"
VM_SIZE = "vm_size"
"""Keys of backend_parameters."""


class Rendered(msgspec.Struct, frozen=True):
    """The body of a rendered attempt: what it needs, the task without its slots, its job's priority, and what goes into the spool."""

    needs: Needs
    priority: int
    task: Object
    plan: Plan


def render(plan: Plan, site: Site) -> Job:
    """One attempt."""
    name = run.job_name(plan.task_id, plan.attempt)
    limits = plan.limits
    needs = Needs(
        cpus=limits.cpus,
        ram_bytes=limits.ram_bytes + site.overhead_bytes,
        disk_bytes=limits.disk_bytes,
        gpus=limits.gpus,
        spot=plan.on_spot,
        vm_size=plan.placement.parameters.get(VM_SIZE, ""),
    )
    return Job(name, msgspec.json.encode(Rendered(needs, site.priority_of(plan, PRIORITY), _task(plan, site, name), plan), order="sorted"))


def _task(plan: Plan, site: Site, name: str) -> Object:
    """The request that adds the task (BatchTaskCreateOptions)."""
    return {
        "id": name,
        "displayName": plan.task_id,
        "commandLine": shlex.join(node.PROGRAM),
        "containerSettings": _container(site),
        "environmentSettings": [{"name": node.ATTEMPT, "value": f"{plan.task_id}/{plan.attempt}"}],
        "constraints": {"maxTaskRetryCount": 0, "retentionTime": RETENTION, **_time(plan, site)},
        # Root: Docker's socket and the files of executors, who run as anybody, are root's.
        "userIdentity": {"autoUser": {"scope": "pool", "elevationLevel": "admin"}},
    }


def _container(site: Site) -> Object:
    binds = [(node.SOCKET, False), (site.node.work, False), *((mount.path, mount.read_only) for mount in site.mounts)]
    # The same absolute paths on the node and here: what the runner tells Docker to mount, Docker looks for on the node.
    volumes = [f"-v {shlex.quote(f'{path}:{path}' + (':ro' if read_only else ''))}" for path, read_only in binds]
    login = {"registry": {"registryServer": site.registry, "identityReference": {"resourceId": site.registry_identity}}} if site.registry_identity else {}
    return {
        "imageName": site.image,
        # The node's own network is for the runner alone: its managed identity answers there.
        "containerRunOptions": " ".join(["--rm", "--init", "--network host", "--user 0", "--entrypoint tes-server", *volumes]),
        "workingDirectory": "containerImageDefault",
        # None of Batch's own directories: they hold what other tasks of the node left.
        "containerHostBatchBindMounts": [],
        **login,
    }


def _time(plan: Plan, site: Site) -> Object:
    """The runner keeps max_runtime itself, and then still takes the outputs; this ends one that hangs."""
    if not plan.limits.max_runtime:
        return {}
    return {"maxWallClockTime": datetime.timedelta(seconds=math.ceil(plan.limits.max_runtime + site.node.grace + site.save_seconds))}
