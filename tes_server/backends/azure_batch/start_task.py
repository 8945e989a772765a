"""The start task of a pool's nodes: what must hold on a node before it takes a task. Pure.

Azure Batch runs it on the node itself, as root (an admin auto-user), each time the node starts. A node on which it fails is `starttaskfailed` and takes no
task; its stderr.txt says why. This module must never let a setting into the script that means anything to a shell.
"""

from __future__ import annotations

import hashlib
import re

from tes_server import errors
from tes_server.runner import node

METADATA = "169.254.169.254"
"""Gives tokens of the node's identities to whoever asks."""

WIRE = "168.63.129.16"
"""Gives the settings of the machine's extensions, with secrets; it is the node's DNS server as well, so only these ports are closed:"""

WIRE_PORTS = (80, 32526)

REAPER = "tes-server-reaper"
"""Name of the container of `runner.node_reaper`."""

LABEL = "tes-server.reaper"
"""Its label: a hash of how it was started. One that was started otherwise, for another image say, is replaced."""

_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]*")
_DIRECTORY = re.compile(r"(?:/[A-Za-z0-9_][A-Za-z0-9._-]*)+")


def command(image: str, work: str) -> str:
    """The command line. `image`: this server's; `work`: `node.NodeSite.work`. Raises SettingsError.

    Nodes of Azure reach both addresses over IPv4 only. Docker leaves its chain DOCKER-USER as it is, also when it is restarted.
    """
    if not _IMAGE.fullmatch(image):
        raise errors.SettingsError("is no name of an image", "azure_batch.image")
    if not _DIRECTORY.fullmatch(work):
        raise errors.SettingsError("must be an absolute path of letters, digits and . _ - only", "azure_batch.work")
    # In one line and single quotes, without any inside: Azure Batch splits a command line into words without a shell.
    return f"/bin/sh -c '{'; '.join(_script(image, work))}'"


def _script(image: str, work: str) -> list[str]:
    return [
        "set -eu",
        "PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin",
        'fail() { echo "tes-server: this node can run no tasks: $*" >&2; exit 1; }',
        '[ "$(id -u)" = 0 ] || fail "its start task needs an auto-user with elevation level admin"',
        'command -v docker >/dev/null || fail "there is no Docker, the pool needs a VM image with a container runtime"',
        _patient("docker info >/dev/null 2>&1", tries=60, pause=2, else_="Docker does not answer"),
        *_firewall(),
        f'{{ mkdir -p {work} && chown 0:0 {work} && chmod 0700 {work}; }} || fail "{work} cannot be made"',
        # Azure Batch pulls it, too, where the pool names it, and with a login that nobody else here has.
        _patient(f"docker image inspect {image} >/dev/null 2>&1 || docker pull --quiet {image} >/dev/null", tries=20, pause=15, else_=f"{image} cannot be had"),
        *_reaper(image, work),
    ]


def _firewall() -> list[str]:
    closed = [METADATA, *(f"{WIRE} -p tcp --dport {port}" for port in WIRE_PORTS)]
    return [
        'iptables -w -C FORWARD -j DOCKER-USER || fail "Docker forwards past the chain DOCKER-USER, so executors would reach the identities of the node"',
        'drop() { iptables -w -C DOCKER-USER "$@" -j DROP 2>/dev/null || iptables -w -I DOCKER-USER "$@" -j DROP || fail "no rule against $*"; }',
        *(f"drop -d {place}" for place in closed),
    ]


def _reaper(image: str, work: str) -> list[str]:
    options = f"--name {REAPER} --restart always --pull never --user 0 --network none --log-driver json-file --log-opt max-size=10m"
    mounts = f"-v {node.SOCKET}:{node.SOCKET} -v {work}:{work}"
    program = f"--entrypoint python {image} -m tes_server.runner.node_reaper {work}"
    label = f"{LABEL}={hashlib.sha256(f'{options} {mounts} {program}'.encode()).hexdigest()[:16]}"
    return [
        f"runs() {{ docker ps --quiet --filter label={label} | grep -q .; }}",
        f"begin() {{ docker rm --force {REAPER} >/dev/null 2>&1; docker run --detach {options} --label {label} {mounts} {program} >/dev/null; }}",
        'runs || begin || fail "the container that ends what dead runners leave cannot be started"',
    ]


def _patient(attempt: str, *, tries: int, pause: int, else_: str) -> str:
    return f'n=0; until {attempt}; do n=$((n + 1)); [ $n -lt {tries} ] || fail "{else_}"; sleep {pause}; done'
