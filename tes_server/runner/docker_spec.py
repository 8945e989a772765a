"""A cell as Docker's create-container body: a pure function from values to a dictionary.

`tes-step` is PID 1 of every executor: bind-mounted from this machine, so that images need neither a shell nor a libc,
and given the command after `--`. The image's ENTRYPOINT is not applied (TES 1.1, tesExecutor.command is all of argv);
its ENV, USER and WORKDIR are. This module must never ask a daemon or look at a file.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import msgspec

from tes_server import errors
from tes_server.plan.steps import Mount, MountKind
from tes_server.runner.engine import Cell
from tes_server.telemetry import Code

STEP = "/.tes/step"
"""Where executors find tes-step; below a directory that no image has and no task may name by accident."""
RECORD = "/.tes/record"
PIPE = "env"
"""Named pipe in a record: through it tes-step is given an environment that holds secrets: the daemon writes what it knows of a container to its disk."""
VOLUME = "/.tes/volume"
"""The whole volume, mounted only where a step has copies: their targets lie outside of the task's own mounts."""
WIPED = "/.tes/wiped"

CELL_LABEL = "tes-server.cell"
DATA_LABEL = "tes-server.data"
"""Whose container it is: two servers may use one daemon."""

COUNTERS = ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control")
"""Where a container finds the kernel's count of kills for memory in its own cgroup, version 2 and 1. The daemons' own mark of
it (State.OOMKilled) comes late at times from Docker, and never from Podman on version 1."""

PROCESSES = 32768
"""Bound of processes and threads in one executor. A fork bomb stops here, before the machine's own bound (kernel.pid_max,
at least 4 million on 64-bit Linux); a JVM with a thread pool for each of a hundred cores does not come near."""

LEAST_MEMORY = 6 * 1024 * 1024
"""Docker refuses to create a container with less."""

PERIOD = 100_000
"""CFS period in microseconds, the kernel's default. Quota and period are what NanoCpus comes to, but the daemon refuses
NanoCpus beyond its cores, and a site may let tasks reserve more cores than there are (`local.cpus`)."""
LEAST_QUOTA = 1000
"""The kernel's smallest CFS quota in microseconds."""


class Site(msgspec.Struct, frozen=True, kw_only=True):
    """What is the same for all cells of a server."""

    step: pathlib.Path
    """tes-step on this machine"""
    data: str
    """id of the server's data directory"""
    network: str
    """Docker network mode: bridge, none, host"""
    grace: float
    """seconds between TERM and KILL where `Engine.stop` does not say"""
    open_files: bool
    """the server is not root: tes-step gives it access to the files that the container's users make"""
    socket: str = ""
    """the daemon's own, for scanners; "" = it has none that a container could be given"""
    gpus: tuple[str, ...] = ()
    """ids of the GPUs that an executor with GPUs gets, all of them; () = the daemon gives as many as it asks for"""


def container(cell: Cell, site: Site) -> dict[str, Any]:
    """The body of `POST /containers/create` for an executor."""
    step = cell.step
    return {
        "Image": step.image,
        "Entrypoint": [STEP],
        # Who has the engine is root; the image's own user could not open its socket.
        **({"User": "0:0"} if any(mount.kind is MountKind.ENGINE for mount in cell.mounts) else {}),
        "Cmd": [*_options(cell, site), "--", *step.argv],
        "Env": [] if cell.secret else variables(cell),
        "Labels": {**cell.labels, CELL_LABEL: cell.name, DATA_LABEL: site.data},
        # An image's health check would run its shell beside the command, within the command's limits.
        "Healthcheck": {"Test": ["NONE"]},
        # What stops containers behind our back (a daemon that shuts down, a person) leaves no exit record then: LOST, tried
        # again. With TERM it would look like the command's own end. `Engine.stop` names its signal itself.
        "StopSignal": "SIGKILL",
        "HostConfig": {
            "Mounts": _mounts(cell, site),
            **_limits(cell, site.gpus),
            # "default" is Docker's bridge too; of Podman it is the network that a user who is not root can have.
            "NetworkMode": "default" if site.network == "bridge" else site.network,
            "SecurityOpt": ["no-new-privileges:true"],
            "Init": False,  # tes-step reaps
            "LogConfig": {"Type": "none", "Config": {}},  # the record holds the output, bounded
            "AutoRemove": False,  # whether it was killed for memory is asked for after its end
            "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
        },
    }


def variables(cell: Cell) -> list[str]:
    """The environment that is added to the image's, as NAME=VALUE."""
    return [f"{name}={value}" for name, value in cell.step.env.items()]


def wiper(path: pathlib.Path, image: str, site: Site) -> dict[str, Any]:
    """The body for a container that empties the directory `path` as root, with tes-step as its only program.

    Docker makes no container without an image; nothing of it is run.
    """
    return {
        "Image": image,
        "Entrypoint": [STEP],
        "Cmd": ["--wipe", WIPED],
        "User": "0:0",
        "Labels": {DATA_LABEL: site.data},
        "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": {
            "Mounts": [_bind(str(site.step), STEP, read_only=True), _bind(str(path), WIPED)],
            "NetworkMode": "none",
            "SecurityOpt": ["no-new-privileges:true"],
            "LogConfig": {"Type": "none", "Config": {}},
            "AutoRemove": True,
        },
    }


def _options(cell: Cell, site: Site) -> list[str]:
    """The options of tes-step, without `--`."""
    step = cell.step
    words = ["--record", RECORD, "--tail", str(cell.tail_bytes), "--grace", f"{site.grace:.3f}"]
    if cell.secret:
        words += ["--env-add", f"{RECORD}/{PIPE}"]
    for path in COUNTERS if cell.limits.ram_bytes else ():
        words += ["--oom", path]
    for option, path in (("--stdin", step.stdin), ("--stdout", step.stdout), ("--stderr", step.stderr), ("--workdir", step.workdir)):
        if path:
            words += [option, path]
    for path in step.copies:
        words += ["--copy", path, VOLUME + path]
    if site.open_files:
        opened = [VOLUME] if step.copies else [mount.path for mount in cell.mounts if mount.kind is MountKind.ROOT]
        for path in opened:
            words += ["--open", path]
    return words


def _mounts(cell: Cell, site: Site) -> list[dict[str, Any]]:
    own = [_bind(str(site.step), STEP, read_only=True), _bind(str(cell.record), RECORD)]
    if cell.step.copies:
        own.append(_bind(str(cell.volume), VOLUME))
    return own + [_mount(mount, cell.volume, site) for mount in cell.mounts]


def _mount(mount: Mount, volume: pathlib.Path, site: Site) -> dict[str, Any]:
    if mount.kind is MountKind.LIVE:
        return _bind(mount.source, mount.path)
    if mount.kind is MountKind.ENGINE:
        if not site.socket:
            raise errors.EngineError("the scanner needs this engine's socket, and the engine is asked by another way than one", Code.REJECTED)
        return _bind(site.socket, mount.path)
    return _bind(f"{volume}{mount.path}", mount.path, read_only=mount.kind is MountKind.FILE)


def _bind(source: str, target: str, read_only: bool = False) -> dict[str, Any]:
    """A bind of the Mounts API: the only one that takes any path (no colons are parsed) and refuses a source that is missing."""
    return {"Type": "bind", "Source": source, "Target": target, "ReadOnly": read_only}


def _limits(cell: Cell, gpus: tuple[str, ...]) -> Mapping[str, Any]:
    """Limits that Docker enforces. `disk_bytes` is not among them: only some of its storage drivers know quotas, none for binds."""
    limits = cell.limits
    bounds: dict[str, Any] = {"PidsLimit": PROCESSES}
    if limits.cpus:
        bounds |= {"CpuPeriod": PERIOD, "CpuQuota": max(LEAST_QUOTA, round(limits.cpus * PERIOD))}
    if limits.ram_bytes:
        # MemorySwap counts memory and swap together: equal means no swap, so that an overrun is an end and not a slow machine.
        memory = max(LEAST_MEMORY, limits.ram_bytes)
        bounds |= {"Memory": memory, "MemorySwap": memory}
    if limits.gpus:
        wanted = {"DeviceIDs": list(gpus)} if gpus else {"Count": limits.gpus}
        bounds["DeviceRequests"] = [{**wanted, "Capabilities": [["gpu"]]}]
    return bounds
