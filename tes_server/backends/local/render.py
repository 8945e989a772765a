"""A plan as this backend keeps it. Pure: same plan, same bytes."""

from __future__ import annotations

import msgspec

from tes_server.backends.base import Job
from tes_server.model import run
from tes_server.plan.steps import Plan


def render(plan: Plan) -> Job:
    """The plan itself, as JSON with sorted keys: the runner on this machine needs nothing else."""
    return Job(run.job_name(plan.task_id, plan.attempt), msgspec.json.encode(plan, order="sorted"))
