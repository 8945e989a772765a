"""A server's configuration for an emulated Azure Batch account, and what that account is asked about its tasks."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import subprocess
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from tests.acceptance.aws_site import SMALL, said, sh, until
from tests.acceptance.server import BIN, Server, served
from tests.emulators import containers
from tests.emulators.azure_batch import docker_agents
from tests.emulators.azure_batch.records import Node, Task
from tests.emulators.azure_batch.world import ACCOUNT, KEY, KIND, World
from tests.integration.azure_lab import SIZE, Lab

__all__ = ["SMALL", "said", "sh", "until"]

WORLD = World(boot=0.2, restore=1.0, second=0.01, start_tasks=False)
"""Five minutes are three seconds."""

LIVES = f"from tes_server.runner import node\nnode.BOOT = {docker_agents.BOOT!r}\n"
"""Nodes here share one kernel, which tells their lives not apart: the emulator has a file for each."""


class Site(NamedTuple):
    """A running server, and the account in which its tasks run. `files`: a directory of the nodes, of which tasks may mount `live`."""

    server: Server
    name: str
    flags: tuple[str, ...]
    lab: Lab
    files: pathlib.Path
    docker: Any

    def run(self, *words: object, seconds: float = 90, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """A program of this project, by a user of the server, or by who keeps it."""
        return run(*words, seconds=seconds, environment={"TES_URL": self.server.url, **(environment or {})})

    def marked(self, name: str, script: str = "", **fields: Any) -> str:
        """A task whose command leaves a line in a file of that name each time that it runs."""
        marks = str(self.files / "live")
        live = [{"type": "DIRECTORY", "path": marks, "url": marks}]
        return self.server.create(sh(f'echo run >>"$1/$2"; {script}', marks, name), inputs=live, **{"resources": SMALL, **fields})

    def runs(self, name: str) -> int:
        """How often the command of that name has run."""
        file = self.files / "live" / name
        return len(file.read_text().splitlines()) if file.exists() else 0

    def tasks(self, attempt: str = "") -> list[Task]:
        """Those of an attempt, or of the whole server."""
        account = self.lab.emulator.account
        with account.lock:
            mine = [task for job in account.jobs.values() if job.id.startswith(f"{self.name}_") for task in job.tasks.values()]
        return [task for task in mine if attempt in ("", task.id)]

    def nodes(self, pool: str) -> list[Node]:
        """Of its pool `regular` or `spot`."""
        return self.lab.emulator.nodes(f"{self.name}-{pool}")


@contextlib.contextmanager
def serving(
    name: str,
    lab: Lab,
    home: pathlib.Path,
    docker: Any,
    *,
    files: pathlib.Path | None = None,
    environment: Mapping[str, str] | None = None,
    most: int = 2,
    least: int = 1,
    more: str = "",
    **changed: str,
) -> Iterator[Site]:
    """A server of that name, with pools of its own, made by `tes-server pools apply`. At its end nothing may be left of any task."""
    files = files or home / "files"
    (files / "live").mkdir(parents=True, exist_ok=True)
    (files / "live").chmod(0o777)
    flags = settings(lab, home / f"{name}.toml", files, server=name, most=most, least=least, more=more, **changed)
    done = run(BIN / "tes-server", "pools", "apply", *flags, environment=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    for pool in ("regular", "spot"):
        lab.emulator.wait_nodes(f"{name}-{pool}", least, "idle")
    with served(home / name, *flags, environment={**lives(home), **(environment or {})}) as server:
        site = Site(server, name, flags, lab, files, docker)
        yield site
        _nothing_left(site)
    with lab.emulator.client() as client:
        for pool in ("regular", "spot"):
            client.begin_delete_pool(f"{name}-{pool}", polling_interval=3600)


def lives(home: pathlib.Path) -> dict[str, str]:
    """The environment of a server: the key of the account, and what tells lives of nodes apart here."""
    (home / "lives").mkdir(exist_ok=True)
    (home / "lives" / "sitecustomize.py").write_text(LIVES)
    return {"BATCH_KEY": KEY, "PYTHONPATH": str(home / "lives")}


def run(*words: object, seconds: float = 90, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """A program of this project. The key of the Batch account is in its environment."""
    env = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "BATCH_KEY": KEY, **(environment or {})}
    return subprocess.run([str(word) for word in words], check=False, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds)


def settings(
    lab: Lab, path: pathlib.Path, files: pathlib.Path, *, server: str, most: int = 2, least: int = 1, more: str = "", **changed: str
) -> tuple[str, ...]:
    """Flags of a server whose only place for tasks is Azure Batch, unless `more` (TOML tables) says otherwise.

    `files`: a directory of the nodes, of which tasks may mount `live`. `most`, `least`: nodes of each pool. `changed`: keys of [azure_batch] with values
    as TOML has them.
    """
    local = "" if "[local]" in more else "[local]\nenabled = false\n"
    batch = {
        "url": json.dumps(lab.emulator.url),
        "account": json.dumps(ACCOUNT),
        "key_variable": '"BATCH_KEY"',
        "image": json.dumps(lab.image),
        "work": json.dumps(str(lab.work)),
        "poll": "0.5",
        "grace": "3",
        "reap_seconds": "6",
        "wait_node": "30",
        "public_ip": "true",
        **changed,
    }
    keys = "\n".join(f"{name} = {value}" for name, value in batch.items())
    runners = "\n".join(f"{name} = {json.dumps(value)}" for name, value in lab.runners.items())
    node = f'vm_size = "{SIZE}"\nnodes = {most}\nidle_nodes = {least}\ncpus = 8\nram_gb = 64\ndisk_gb = 200\n'
    store = f'write = true\nendpoint = "{lab.blobs.endpoint}"\nsecret_variable = "TEST_AZURE_KEY"\n'
    path.write_text(
        f"""
{local}
{more}
[server]
id = "{server}"
[files]
live_mounts = ["{files / "live"}"]
[retries]
first_delay = 0.5
longest_delay = 2
[spool]
url = "{lab.blobs.url}/spool/{server}"
[[storage]]
url = "{lab.blobs.url}/spool"
tasks = false
{store}
[[storage]]
url = "{lab.blobs.url}/data"
{store}
[azure_batch]
{keys}
[azure_batch.pools.{server}-regular]
{node}
[azure_batch.pools.{server}-spot]
spot = true
{node}
[azure_batch.environment]
{runners}
[[azure_batch.mounts]]
path = "{files}"
read_only = false
[[azure_batch.mounts]]
path = "{lab.emulator.ca}"
"""
    )
    return ("--config", str(path))


def _nothing_left(site: Site) -> None:
    """No task runs, no container of theirs is there, no directory on the nodes, no object in the spool."""
    until(lambda: all(task.state == "completed" for task in site.tasks()), "all tasks have ended")
    directories = site.lab.work / "attempts"
    until(lambda: not directories.exists() or not [*directories.iterdir()], "no attempt is left on the nodes")
    until(lambda: not [found for found in site.docker.containers(all=True) if _of(found, site.lab)], "no container is left")
    until(lambda: not [*site.lab.blobs.client.list_blob_names(name_starts_with=f"spool/{site.name}/")], "the spool is empty")


def _of(container: Mapping[str, Any], lab: Lab) -> bool:
    """A runner of the lab, or what one has started."""
    mounted = any(pathlib.Path(mount.get("Source", "/")).is_relative_to(lab.work) for mount in container.get("Mounts", []))
    return mounted or container["Labels"].get(containers.label(KIND)) == lab.emulator.id
