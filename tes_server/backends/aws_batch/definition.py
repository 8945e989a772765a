"""The job definition of a role: the runner's container. Pure: same site and role, same definition, and so the same name.

One serves all tasks of a role; what differs between tasks is in the overrides of SubmitJob. It must never hold a credential or anything of a task.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from tes_server.backends.aws_batch.site import Site
from tes_server.runner import node

LARGEST = 24 * 1024
"""Bytes of a job definition that AWS Batch takes."""

LEAST_MIB = 4
"""The least memory of a container; each job overrides it."""

Object = dict[str, Any]


def definition(site: Site, role: str) -> Object:
    """The request of RegisterJobDefinition (AWS Batch API reference)."""
    body: Object = {
        "type": "container",
        "platformCapabilities": ["EC2"],
        "containerProperties": _container(site, role),
        # Every retry is a new attempt of ours, with its own name. Where no rule fits AWS Batch retries: the last one always does.
        "retryStrategy": {"attempts": 1, "evaluateOnExit": [{"onReason": "*", "action": "EXIT"}]},
        "propagateTags": True,
    }
    name = f"{site.server}-{hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]}"
    return {"jobDefinitionName": name, **body}


def _container(site: Site, role: str) -> Object:
    binds = [(node.SOCKET, False), (site.node.work, False), *((mount.path, mount.read_only) for mount in site.mounts)]
    return {
        "image": site.image,
        "command": list(node.PROGRAM),
        **({"jobRoleArn": role} if role else {}),
        **({"executionRoleArn": site.execution_role} if site.execution_role else {}),
        "resourceRequirements": [{"type": "VCPU", "value": "1"}, {"type": "MEMORY", "value": str(LEAST_MIB)}],
        # The same absolute paths on the host and here: what the runner tells Docker to mount, Docker looks for on the host.
        "volumes": [{"name": f"host-{number}", "host": {"sourcePath": path}} for number, (path, _) in enumerate(binds)],
        "mountPoints": [{"sourceVolume": f"host-{number}", "containerPath": path, "readOnly": read_only} for number, (path, read_only) in enumerate(binds)],
        "environment": [{"name": name, "value": value} for name, value in sorted({**site.environment, node.SITE: node.encode(site.node)}.items())],
        # A first process gets no signal that it does not handle (yet): a TERM that comes while Python starts would be lost.
        "linuxParameters": {"initProcessEnabled": True},
        "user": "0",  # the socket and the files of executors, who run as anybody, are root's
        **({"logConfiguration": {"logDriver": "awslogs", "options": {"awslogs-group": site.log_group}}} if site.log_group else {}),
    }
