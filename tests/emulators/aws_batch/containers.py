"""The container of a job, as AWS Batch makes it of containerProperties."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tests.emulators.aws_batch.jobs import Job


def environment(job: Job) -> dict[str, str]:
    """What definition and submission say of it."""
    return {entry["name"]: entry.get("value", "") for entry in job.container["environment"]}


def config(job: Job, more: Mapping[str, str], binds: Mapping[str, str]) -> dict[str, Any]:
    """As Docker's API takes it, on the host's network. `more`: what the service adds to the environment; `binds`: further read-only files."""
    container = job.container
    sources = {volume["name"]: volume.get("host", {}).get("sourcePath", "") for volume in container["volumes"]}
    points = [(sources[point["sourceVolume"]], point["containerPath"], point.get("readOnly", False)) for point in container["mountPoints"]]
    return {
        "Image": container["image"],
        "Cmd": [_substituted(word, job.parameters) for word in container["command"]] or None,
        "Env": [f"{key}={value}" for key, value in {**environment(job), **more}.items()],
        "Labels": {"com.amazonaws.ecs.task-arn": job.now["taskArn"]},
        "User": container.get("user", ""),
        "HostConfig": {
            "Binds": [f"{source}:{target}{':ro' if read_only else ''}" for source, target, read_only in points]
            + [f"{source}:{target}:ro" for source, target in binds.items()],
            "NetworkMode": "host",
            "Memory": job.needs["MEMORY"] * 1024 * 1024,
            "CpuShares": job.needs["VCPU"] * 1024,
            "Privileged": container.get("privileged", False),
            "ReadonlyRootfs": container.get("readonlyRootFilesystem", False),
            "Init": container.get("linuxParameters", {}).get("initProcessEnabled", False),
            "LogConfig": {"Type": "json-file", "Config": {"max-size": "10m"}},
        },
    }


def _substituted(word: str, parameters: Mapping[str, str]) -> str:
    found = re.fullmatch("Ref::(.+)", word)
    return parameters.get(found[1], word) if found else word
