"""This machine as the nodes of emulated Azure: what start tasks change of it is taken away again, and what containers ask of a host of Azure."""

from __future__ import annotations

import collections
import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import docker.errors

from tes_server.backends.azure_batch import start_task
from tests.integration.conftest import unreachable

PLACES = {
    "token": ("169.254.169.254", 80, "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://storage.azure.com/"),
    "wire": ("168.63.129.16", 80, "/machine?comp=goalstate"),
    "plugin": ("168.63.129.16", 32526, "/vmSettings"),
}
ASK = "printf 'GET {path} HTTP/1.0\\r\\nMetadata: true\\r\\n\\r\\n' | nc -w 2 {address} {port} | grep -q '200 OK' && echo {name}"


def asks(name: str) -> str:
    """A command of a shell that says the name of a place if that answers."""
    address, port, path = PLACES[name]
    return ASK.format(name=name, address=address, port=port, path=path)


def needs_a_firewall() -> None:
    """Skip, or fail, where this machine's cannot be changed."""
    if os.geteuid() != 0 or shutil.which("iptables") is None:
        unreachable("the firewall", "this needs root and the program iptables")


@contextlib.contextmanager
def restored(docker_client: Any) -> Iterator[None]:
    """What start tasks add meanwhile is taken away, and nothing else. Whoever needs it has the addresses of a host of Azure for itself."""
    before = collections.Counter(rules())
    try:
        yield
    finally:
        for rule in (collections.Counter(rules()) - before).elements():  # nodes that start at once may have added one twice
            subprocess.run(["iptables", "-w", *rule.replace("-A", "-D", 1).split()], check=True)
        with contextlib.suppress(docker.errors.NotFound):
            docker_client.remove_container(start_task.REAPER, force=True, v=True)


def rules() -> list[str]:
    """Of Docker's chain for what the node forbids."""
    listed = subprocess.run(["iptables", "-w", "-S", "DOCKER-USER"], check=True, capture_output=True, text=True)
    return [line for line in listed.stdout.splitlines() if line.startswith("-A")]
