"""The node's Docker daemon, as runners and the reaper use it. Pure wiring: what is set, and why.

Containers bear the node's directory as their `tes-server.data` label: all runners of it, of whatever server, know them as theirs.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Mapping

from tes_server.runner import clouds, node
from tes_server.runner.docker import DockerEngine
from tes_server.runner.node import NodeSite


def connect(work: str) -> DockerEngine:
    """The daemon, for what there is below the directory `work`."""
    return DockerEngine(f"unix://{node.SOCKET}", work)


def for_attempt(site: NodeSite, program: pathlib.Path, environment: Mapping[str, str]) -> DockerEngine:
    """The daemon, for executors of one attempt. `program`: tes-step on the node. `environment`: the runner's."""
    return DockerEngine(
        f"unix://{node.SOCKET}",
        site.work,
        network=site.network,
        grace=site.grace,
        program=program,
        gpus=gpus(environment.get(node.GPUS, "")),
        login=functools.partial(clouds.login, client_id=site.client_id),
    )


def gpus(value: str) -> tuple[str, ...]:
    """Ids from the value of `node.GPUS`; () where it names none ("all", "void", "none", empty: the NVIDIA runtime's own words)."""
    ids = tuple(part.strip() for part in value.split(",") if part.strip())
    return () if set(ids) & {"all", "none", "void"} else ids
