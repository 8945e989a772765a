"""What a control plane and the runner on a node of AWS Batch or Azure Batch agree on: its environment, its exit codes, the node's directory. Pure.

`backends.aws_batch` writes this into job definitions, `node_main` reads it. This module must never hold a credential.
"""

from __future__ import annotations

import msgspec

from tes_server.filer.manifest import Access, Storage

SITE = "TES_NODE"
"""Environment variable with the `NodeSite` as JSON."""

ATTEMPT = "TES_ATTEMPT"
"""Environment variable with the attempt: `<task>/<number>`. Its plan is in the spool."""

PROGRAM = ("node",)
"""What a runner's container is told: a command of `tes-server`, which is the entry of this server's image."""

SOCKET = "/var/run/docker.sock"
"""The node's Docker socket, on the node and in the runner. No executor sees it."""

WORK = "/var/lib/tes-server"
"""The node's directory for attempts, unless the site says otherwise."""

LABEL = "tes-server.attempt"
"""Label of an attempt's containers: its name, `<task>-<number>`."""

RUN = "tes-server.run"
"""Label of an attempt's containers: the run of the platform that started them."""

BOOT = "/proc/sys/kernel/random/boot_id"
"""For `NodeSite.run`: which life of the node it is. A Spot node of Azure that was taken back returns under its name, with nothing on it."""

GPUS = "NVIDIA_VISIBLE_DEVICES"
"""Environment variable by which the platform gives a runner its GPUs, as ids. Its executors get these."""

DONE = 0
"""Exit code: the report is in the spool, whatever it says."""

FAILED = 1
"""Exit code: there is no report; the runner's output says why."""

TAKEN = 75
"""Exit code: another run has the attempt, this one has done nothing."""

NOTHING = 76
"""Exit code: the spool has no plan of the attempt (any more); nothing was done."""


class NodeSite(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What all runners of a site share."""

    spool: str
    """url of the spool: plans, reports and live output"""
    spool_stores: tuple[Storage, ...]
    """the object store that it is in, which tasks may not name"""
    run: tuple[str, ...]
    """environment variables whose values, together, name one start of one job and nothing else; what begins with / is a file, for its text"""
    access: Access = Access()
    live_roots: tuple[str, ...] = ()
    """directories of the node below which live mounts may lie"""
    tail_bytes: int = 10240
    """bytes of head, and as many of tail, kept of each stream"""
    grace: float = 10.0
    """seconds between TERM and KILL of a command"""
    work: str = WORK
    """the node's directory for attempts: the same absolute path on the node and in the runner"""
    network: str = "bridge"
    """Docker network mode of executors: bridge or none"""
    secrets: dict[str, str] = {}
    """what executors may name as `secret://NAME`, and where it is kept: never the secret itself"""
    scan_secrets: dict[str, str] = {}
    """the same for scanners of images alone"""
    client_id: str = ""
    """Azure: which of the node's managed identities reads secrets and pulls images; empty = the only one that it has"""


def encode(site: NodeSite) -> str:
    """As JSON; same site, same text."""
    return msgspec.json.encode(site, order="sorted").decode()
