"""What makes a plan a scan of an image: where its report is, and whether its scanner needs the container engine. Pure.

Only scans that the server itself makes come here. This module must never give the engine to anybody else: who has it owns the machine.
"""

from __future__ import annotations

import msgspec

from tes_server.errors import Invalid
from tes_server.model.task import Task
from tes_server.plan.policy import Capabilities
from tes_server.plan.steps import Findings, Mount, MountKind
from tes_server.scan.base import IMAGE_TAG
from tes_server.scan.scanners import SCANNERS

SOCKET = "/var/run/docker.sock"
"""Where scanners look for the engine unless they are told otherwise."""


def equipped(findings: Findings, task: Task, capabilities: Capabilities) -> tuple[Findings, tuple[Mount, ...]]:
    """A scan with the image that its scanner looks at in an engine, and the engine's socket; as it is where the scanner fetches the image itself.

    Raises Invalid where the backend has no engine for it.
    """
    image = (task.tags or {}).get(IMAGE_TAG, "")
    if not SCANNERS[findings.scanner].engine(image):
        return findings, ()
    if not capabilities.engine_socket:
        what = f"{findings.scanner} looks at {image or 'images'} in a container engine"
        raise Invalid(f"{what}, and this backend has none that it could be given", "/executors/0")
    return msgspec.structs.replace(findings, image=image), (Mount(SOCKET, MountKind.ENGINE),)
