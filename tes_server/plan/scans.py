"""What makes a plan a scan of an image, and what makes it one that scans its own images first. Pure.

Only scans that the server itself makes come here. This module must never give the engine to anybody else: who has it owns the machine.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from tes_server.errors import Invalid
from tes_server.model.task import Task
from tes_server.plan import paths, secret_names
from tes_server.plan.policy import Capabilities
from tes_server.plan.steps import Check, Execute, Findings, Gate, Mount, MountKind
from tes_server.scan.base import IMAGE_TAG
from tes_server.scan.gate import OnError
from tes_server.scan.policy import Policy
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


class Image(msgspec.Struct, frozen=True):
    """An image of a task: its name there, the digest of what runs, and the task that scans it (`scan_rules.task`)."""

    name: str
    digest: str
    scan: Task


def gate(images: Iterable[Image], findings: Findings, policy: Policy, on_error: OnError, timeout: float, capabilities: Capabilities) -> Gate | None:
    """What a task passes that runs these images; None where there are none. Raises Invalid for a scan that cannot run on the backend."""
    checks = []
    for number, image in enumerate(images):
        equipment, engine = equipped(findings, image.scan, capabilities)
        [scanner] = image.scan.executors
        for name, value in (scanner.env or {}).items():
            if why := secret_names.refusal(value, capabilities.scan_secrets, capabilities.secret_keys):
                raise Invalid(f"the scan of {image.name} cannot run: its variable {name} {why}", "")
        step = Execute(index=-1 - number, image=scanner.image, argv=scanner.command, env=scanner.env or {})
        mounts = (Mount(paths.parent(findings.path)), *engine)
        checks.append(Check(scan=step, findings=equipment, mounts=mounts, image=image.name, digest=image.digest))
    return Gate(checks=tuple(checks), policy=policy, on_error=on_error, timeout=timeout) if checks else None
