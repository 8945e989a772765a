"""A server's configuration for an emulated Azure Batch account, and what that account is asked about its tasks."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from tests.acceptance import batch_site
from tests.acceptance.server import BIN, served
from tests.contract.object_servers import Azurite
from tests.emulators.azure_batch import docker_agents
from tests.emulators.azure_batch.records import Node, Task
from tests.emulators.azure_batch.world import ACCOUNT, KEY, KIND, World
from tests.integration.azure_lab import SIZE, Lab

WORLD = World(boot=0.2, restore=1.0, second=0.01, start_tasks=False)
"""Five minutes are three seconds."""

LIVES = f"from tes_server.runner import node\nnode.BOOT = {docker_agents.BOOT!r}\n"
"""Nodes here share one kernel, which tells their lives not apart: the emulator has a file for each."""


@dataclasses.dataclass(frozen=True)
class Site(batch_site.Site):
    """Its tasks run as tasks of Azure Batch, on pools of its own."""

    lab: Lab

    backend: ClassVar[str] = "azure_batch"
    kind: ClassVar[str] = KIND
    stops: ClassVar[str] = "terminate_task"
    calls: ClassVar[tuple[str, ...]] = ("create_*", "list_*", "get_*", "enable_*")

    @property
    def store(self) -> Azurite:
        return self.lab.blobs

    def attempts(self, attempt: str = "") -> list[Task]:
        """Tasks of Azure Batch."""
        account = self.lab.emulator.account
        with account.lock:
            mine = [task for job in account.jobs.values() if job.id.startswith(f"{self.name}_") for task in job.tasks.values()]
        return [task for task in mine if attempt in ("", task.id)]

    def ended(self) -> bool:
        return all(task.state == "completed" for task in self.attempts())

    def wait_end(self, attempt: str) -> None:
        [task] = self.attempts(attempt)
        self.lab.emulator.wait(task.key[0], task.id, "completed")

    def hold_spot(self) -> None:
        self._schedule_spot("disabled")

    def release_spot(self) -> None:
        self._schedule_spot("enabled")

    def _schedule_spot(self, scheduling: str) -> None:
        for node in self.nodes("spot"):
            node.scheduling = scheduling

    def nodes(self, pool: str) -> list[Node]:
        """Of its pool `regular` or `spot`."""
        return self.lab.emulator.nodes(f"{self.name}-{pool}")

    def another(self, name: str, home: pathlib.Path, **more: Any) -> contextlib.AbstractContextManager[Site]:
        return serving(name, self.lab, home, self.docker, **more)

    def flags_of(self, path: pathlib.Path, server: str, **more: Any) -> tuple[str, ...]:
        return settings(self.lab, path, self.files, server=server, **more)


@contextlib.contextmanager
def serving(
    name: str, lab: Lab, home: pathlib.Path, docker: Any, *, environment: Mapping[str, str] | None = None, most: int = 2, least: int = 1, **more: Any
) -> Iterator[Site]:
    """A server of that name, with pools of its own, made by `tes-server pools apply`. `more`: see `settings`. At its end nothing may be left of any task."""
    files = batch_site.files_below(home)
    flags = settings(lab, home / f"{name}.toml", files, server=name, most=most, least=least, **more)
    whole = {**lives(home), **(environment or {})}
    done = batch_site.run(BIN / "tes-server", "pools", "apply", *flags, environment=whole)
    assert done.returncode == 0, done.stdout + done.stderr
    for pool in ("regular", "spot"):
        lab.emulator.wait_nodes(f"{name}-{pool}", least, "idle")
    with served(home / name, *flags, environment=whole) as server:
        site = Site(server, name, flags, lab, files, docker, whole)
        yield site
        site.nothing_left()
    with lab.emulator.client() as client:
        for pool in ("regular", "spot"):
            client.begin_delete_pool(f"{name}-{pool}", polling_interval=3600)


def lives(home: pathlib.Path) -> dict[str, str]:
    """The environment of a server: the key of the account, and what tells lives of nodes apart here."""
    (home / "lives").mkdir(exist_ok=True)
    (home / "lives" / "sitecustomize.py").write_text(LIVES)
    return {"BATCH_KEY": KEY, "PYTHONPATH": str(home / "lives")}


def settings(
    lab: Lab, path: pathlib.Path, files: pathlib.Path, *, server: str, most: int = 2, least: int = 1, more: str = "", retries: int = 5, **changed: str
) -> tuple[str, ...]:
    """Flags of a server whose only place for tasks is Azure Batch, unless `more` (TOML tables) says otherwise.

    `files`: a directory of the nodes, of which tasks may mount `live`. `most`, `least`: nodes of each pool. `retries`: new attempts where the platform
    failed. `changed`: keys of [azure_batch] with values as TOML has them.
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
backend = {retries}
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
