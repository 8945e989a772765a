"""A backend with pools of its own on a lab of Azure Batch, and what tests of bad days look at behind its back."""

from __future__ import annotations

import pathlib
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from tes_server.backends.azure_batch.classify import Bounds
from tes_server.backends.azure_batch.driver import Times
from tes_server.backends.azure_batch.site import Pool, Shape, Site
from tes_server.model import run
from tes_server.model.run import Handle, Observation, Phase, Report
from tes_server.plan.paths import Sites
from tes_server.plan.policy import Policy
from tes_server.runner import node
from tests.contract.backend_contract import Driven
from tests.emulators.azure_batch.records import Node, Task
from tests.emulators.azure_batch.world import CLIENT
from tests.guards import LOOPBACK
from tests.integration.azure_lab import SHAPE, SIZE, Lab

IMAGE = "tes-test/busybox"
SMALL = {"cpu_cores": 0.5, "ram_gb": 0.05}
SPOT = {**SMALL, "preemptible": True}
UP = "echo up; exec sleep 1000"
DEAF = "trap '' TERM; echo up; while :; do sleep 0.2; done"
REAPED = 6.0
"""Seconds: the nodes' reaper looks every two of them."""


class Bench:
    """`nodes`: of each of its two pools. `wait`: seconds for a silent one."""

    def __init__(
        self,
        lab: Lab,
        files: pathlib.Path,
        docker: Any,
        *,
        nodes: int = 2,
        shape: Shape = SHAPE,
        poll: float = 0.3,
        wait: float = 60.0,
        site: Callable[[Site], Site] = lambda site: site,
        start_task: str = "",
    ) -> None:
        self.lab = lab
        self.files = files
        self.docker = docker
        (files / "live").mkdir()
        (files / "live").chmod(0o777)
        mine = uuid.uuid4().hex[:8]
        self.regular, self.spot = f"regular-{mine}", f"spot-{mine}"
        lab.pool(self.regular, nodes=nodes, start_task=start_task)
        lab.pool(self.spot, nodes=nodes, spot=True)  # without: nodes share this machine, and what a start task makes there has one name
        pools = (Pool(id=self.regular, vm_size=SIZE, shape=shape), Pool(id=self.spot, vm_size=SIZE, spot=True, shape=shape))
        secrets = {name.partition("/")[2]: f"https://lab.vault.azure.net/secrets/{name.partition('/')[2]}" for name in lab.emulator.world.secrets}
        made = lab.site(files, secrets={**secrets, "missing": "https://lab.vault.azure.net/secrets/missing"}, pools=pools)
        access = msgspec.structs.replace(made.node.access, uploads=("http",))
        made = msgspec.structs.replace(made, node=msgspec.structs.replace(made.node, access=access, client_id=CLIENT))
        self.site = site(made)
        self.backend = lab.backend(self.site, times=Times(poll=poll), bounds=Bounds(reap=REAPED, node=wait))
        sites = Sites(roots=(str(files),), guard=LOOPBACK, writable=frozenset({"file", "http"}))
        self.driven = Driven(self.backend, Policy(sites=sites, live_mounts=(str(files / "live"),)), IMAGE)

    def start(self, *scripts: str | dict[str, Any], **fields: Any) -> Handle:
        """A task that asks for little."""
        executors = [self.driven.executor(script) if isinstance(script, str) else script for script in scripts]
        return self.driven.start(*executors, **{"resources": SMALL, **fields})

    @property
    def live(self) -> list[dict[str, Any]]:
        """An input by which commands write to `files/live` at once."""
        return [{"path": "/live", "url": f"file://{self.files}/live", "type": "DIRECTORY"}]

    def runs(self) -> int:
        """How many lines commands have written to `files/live/ran`."""
        file = self.files / "live" / "ran"
        return len(file.read_text().splitlines()) if file.exists() else 0

    def up(self, handle: Handle) -> str:
        """Until its first executor has said so; the node on which it runs."""

        def said(_: Observation) -> bool:
            tails = self.backend.tail([handle]).get(handle)
            return tails is not None and bool(tails.executors) and (tails.executors[0].stdout or "").startswith("up\n")

        self.driven.until(handle, said)
        return self.node(handle).id

    def ended(self, handle: Handle) -> Observation | Report:
        """The end of an attempt: its report, or what is known without one. Nothing of it runs any more."""
        seen = self.driven.until(handle, lambda seen: seen.phase is Phase.ENDED)
        assert self.containers(handle) == [], "the end was told before it was one"
        return seen.report or seen

    def containers(self, handle: Handle) -> list[Any]:
        """Of the attempt's executors."""
        return list(self.docker.containers(all=True, filters={"label": f"{node.LABEL}={handle.name}"}))

    def task(self, handle: Handle) -> Task:
        """The attempt's, as Azure Batch has it."""
        return self.lab.emulator.task(handle.ref, handle.name)

    def node(self, handle: Handle) -> Node:
        """On which the attempt's task ran last."""
        last = self.task(handle).last
        assert last is not None
        return last.node

    def runner(self, handle: Handle) -> dict[str, Any]:
        """The attempt's own container, as Docker tells of it."""
        (found,) = [one for one in self.docker.containers() if any(f"-{handle.name}-" in name and "azbatch-" in name for name in one["Names"])]
        inspected: dict[str, Any] = self.docker.inspect_container(found["Id"])
        return inspected

    def runner_environment(self, handle: Handle) -> list[str]:
        """Names of the variables that the attempt's runner had."""
        last = self.task(handle).last
        assert last is not None
        return sorted(last.environment)

    def spooled(self, handle: Handle) -> bytes:
        """All that the spool holds of an attempt."""
        return b"\n".join(self.lab.blobs.objects(f"spool/{run.task_of(handle.name)}/").values())

    def close(self) -> None:
        """Nothing of it is left."""
        self.lab.emulator.bad_days.mend()
        left = list(self._left())
        self.backend.cancel(left)
        for handle in left:
            self.driven.until(handle, lambda seen: seen.phase in (Phase.ENDED, Phase.GONE))
        self.backend.close()
        with self.lab.emulator.client() as client:
            for pool in (self.regular, self.spot):
                client.begin_delete_pool(pool, polling_interval=3600)
        self.lab.emulator.account.wait(lambda: not {self.regular, self.spot} & set(self.lab.emulator.account.pools))

    def _left(self) -> Iterator[Handle]:
        """What has not ended."""
        for handle in self.backend.survey():
            if self.task(handle).state != "completed":
                yield handle
