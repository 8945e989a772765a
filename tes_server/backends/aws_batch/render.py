"""A plan as an AWS Batch job. Pure: same plan and site, same bytes.

The job reserves exactly what the task asks for, and a stated overhead of memory for its runner. The plan itself goes through the spool: a job's
overrides hold 30 KiB.
"""

from __future__ import annotations

import math
import re

import msgspec

from tes_server.backends.aws_batch import definition, names
from tes_server.backends.aws_batch.definition import Object
from tes_server.backends.aws_batch.site import Site
from tes_server.backends.base import Job
from tes_server.model import run
from tes_server.plan.steps import Plan
from tes_server.runner import node

MiB = 1024 * 1024

PLAN_BYTES = 32 * MiB
"""Bytes of the largest plan: any that a task makes, and a bound for what a runner reads."""

SHORTEST = 60
"""Seconds of the shortest time-out that AWS Batch takes."""

PRIORITY = "priority"
QUEUE = "queue"
SHARE = "share"
"""Keys of backend_parameters."""

DEFAULT_SHARE = "default"
"""Share identifier of an owner without a letter that one may hold."""


class Rendered(msgspec.Struct, frozen=True):
    """The body of a rendered attempt: the job definition it needs, the request of SubmitJob without it, and what goes into the spool."""

    definition: Object
    request: Object
    plan: Plan


def render(plan: Plan, site: Site) -> Job:
    """One attempt."""
    name = run.job_name(plan.task_id, plan.attempt)
    return Job(name, msgspec.json.encode(Rendered(definition.definition(site, site.role_of(plan)), _request(plan, site, name), plan), order="sorted"))


def _request(plan: Plan, site: Site, name: str) -> Object:
    return {
        "jobName": names.job(site.server, name),
        "jobQueue": site.queues_of(plan).of(plan),
        "containerOverrides": {
            "resourceRequirements": _resources(plan, site),
            "environment": [{"name": node.ATTEMPT, "value": f"{plan.task_id}/{plan.attempt}"}],
        },
        **_timeout(plan, site),
        **_share(plan, site),
        "tags": _tags(plan, site),
        "propagateTags": True,
    }


def _resources(plan: Plan, site: Site) -> list[Object]:
    """AWS Batch counts whole vCPUs on EC2, and MiB."""
    limits = plan.limits
    gpus = [{"type": "GPU", "value": str(limits.gpus)}] if limits.gpus else []
    return [
        {"type": "VCPU", "value": str(max(1, math.ceil(limits.cpus)))},
        {"type": "MEMORY", "value": str(math.ceil(limits.ram_bytes / MiB) + site.overhead_mib)},
        *gpus,
    ]


def _timeout(plan: Plan, site: Site) -> Object:
    """The runner keeps max_runtime itself, and then still takes the outputs; this ends one that hangs."""
    if not plan.limits.max_runtime:
        return {}
    return {"timeout": {"attemptDurationSeconds": max(SHORTEST, math.ceil(plan.limits.max_runtime + site.node.grace + site.save_seconds))}}


def _share(plan: Plan, site: Site) -> Object:
    given = plan.placement.parameters
    share = given.get(SHARE) or ((re.sub(r"[^A-Za-z0-9]", "", plan.owner) or DEFAULT_SHARE)[:255] if site.share == "owner" else site.share)
    if not share:
        return {}
    priority = site.priorities.get(given.get(PRIORITY, ""))
    return {"shareIdentifier": share, **({} if priority is None else {"schedulingPriorityOverride": priority})}


def _tags(plan: Plan, site: Site) -> dict[str, str]:
    """For people and for cost reports."""
    own = {names.SERVER_TAG: site.server, names.TASK_TAG: plan.task_id, names.OWNER_TAG: names.tag_value(plan.owner)}
    costs = {key: names.tag_value(plan.tags[key]) for key in site.tag_tags if key in plan.tags}
    return {key: value for key, value in {**costs, **own}.items() if value}
