"""An emulated Azure Batch account with the Azurite of the environment behind it: what the tests of Azure Batch stand on."""

from __future__ import annotations

import contextlib
import pathlib
import uuid
from collections.abc import Iterator, Mapping

import pytest
from azure.batch import models

from tes_server.azure_rules import RUN
from tes_server.backends.azure_batch.calls import Account, Calls
from tes_server.backends.azure_batch.classify import Bounds
from tes_server.backends.azure_batch.driver import AzureBatchBackend, Times
from tes_server.backends.azure_batch.site import Mount, Pool, Shape, Site
from tes_server.filer import spool_place
from tes_server.filer.manifest import Access
from tes_server.filer.spool import Spool
from tes_server.plan.policy import Capabilities
from tes_server.runner.node import NodeSite
from tests.clock import utc
from tests.contract import object_servers
from tests.contract.object_servers import Azurite
from tests.emulators.azure_batch import docker_agents
from tests.emulators.azure_batch.emulator import Emulator
from tests.emulators.azure_batch.world import ACCOUNT, KEY, World
from tests.guards import LOOPBACK

GB = 10**9
SIZE = "standard_e8s_v5"
SHAPE = Shape(cpus=8, ram_bytes=64 * GB, disk_bytes=200 * GB)
"""One node of the pools of the lab: as many slots as cores."""


class Lab:
    """`work`: the nodes' directory of attempts. `image`: the runner's."""

    def __init__(self, emulator: Emulator, blobs: Azurite, work: pathlib.Path, image: str) -> None:
        self.emulator = emulator
        self.blobs = blobs
        self.work = work
        self.image = image

    @property
    def runners(self) -> dict[str, str]:
        """The environment of runners: the key of the storage emulator, which knows no identities, and where the other services are."""
        return {**self.blobs.variables, **self.emulator.node_environment}

    def spool(self) -> Spool:
        """The spool, with the account's key."""
        return spool_place.opened(f"{self.blobs.url}/spool", Access(stores=(self.blobs.settings,)))

    def pool(self, name: str, *, nodes: int = 2, spot: bool = False, size: str = SIZE, slots: int = 8, formula: str = "", start_task: str = "") -> None:
        """A pool of this size, or one that a formula scales. `start_task`: the command line that each node begins with."""
        scale = (
            {"enable_auto_scale": True, "auto_scale_formula": formula, "auto_scale_evaluation_interval": "PT5M"}
            if formula
            else {"target_low_priority_nodes" if spot else "target_dedicated_nodes": nodes}
        )
        root = models.UserIdentity(auto_user=models.AutoUserSpecification(elevation_level="admin", scope="pool"))
        start = models.BatchStartTask(command_line=start_task, user_identity=root, wait_for_success=True) if start_task else None
        self.emulator.client().create_pool(
            models.BatchPoolCreateOptions(
                id=name,
                vm_size=size,
                task_slots_per_node=slots,
                start_task=start,
                virtual_machine_configuration=models.VirtualMachineConfiguration(
                    image_reference=models.BatchVmImageReference(publisher="microsoft-dsvm", offer="ubuntu-hpc", sku="2204", version="latest"),
                    node_agent_sku_id="batch.node.ubuntu 22.04",
                    container_configuration=models.BatchContainerConfiguration(type="dockerCompatible"),
                ),
                **scale,
            )
        )

    def site(self, files: pathlib.Path, *, server: str = "", secrets: Mapping[str, str] | None = None, pools: tuple[Pool, ...] = ()) -> Site:
        """Nodes have the directory `files`; each call is another server, unless it is named."""
        node = NodeSite(
            spool=f"{self.blobs.url}/spool",
            spool_stores=(self.blobs.settings,),
            run=(*RUN[:-1], docker_agents.BOOT),
            access=Access(roots=(str(files),), guard=LOOPBACK, stores=(self.blobs.settings,)),
            live_roots=(str(files / "live"),),
            tail_bytes=4096,
            grace=3.0,
            work=str(self.work),
            secrets=dict(secrets or {}),
        )
        return Site(
            server=server or f"lab-{uuid.uuid4().hex[:8]}",
            pools=pools or (Pool(id="regular", vm_size=SIZE, shape=SHAPE), Pool(id="spot", vm_size=SIZE, spot=True, shape=SHAPE)),
            node=node,
            image=self.image,
            environment=self.runners,
            mounts=(Mount(path=str(files), read_only=False), Mount(path=str(self.emulator.ca))),
        )

    def backend(self, site: Site, *, times: Times | None = None, bounds: Bounds | None = None) -> AzureBatchBackend:
        """As a server has it."""
        made = AzureBatchBackend(
            self.calls(),
            site,
            Capabilities(submit_window=180.0, names_last=True, secrets=tuple(site.node.secrets)),
            utc,
            self.spool(),
            bounds=bounds or Bounds(reap=15.0, node=60.0),
            times=times or Times(poll=0.5),
        )
        made.resume()
        return made

    def calls(self) -> Calls:
        """A client by shared key."""
        return Calls(Account(self.emulator.url, ACCOUNT, KEY))


@contextlib.contextmanager
def lab(work: pathlib.Path, image: str, world: World | None = None, *, reaper: bool = False, metadata: str = "auto", pretend: bool = False) -> Iterator[Lab]:
    """Needs Azurite; Docker once a task runs, or with the nodes' reaper. Until its end the environment leads to the emulator."""
    with contextlib.ExitStack() as stack:
        blobs = stack.enter_context(object_servers.azurite())
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        emulator = stack.enter_context(Emulator(world, reaper=str(work) if reaper else "", metadata=metadata, pretend=pretend))
        for name, value in {**blobs.variables, **emulator.environment}.items():
            patch.setenv(name, value)
        yield Lab(emulator, blobs, work, image)
