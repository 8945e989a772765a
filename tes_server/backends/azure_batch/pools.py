"""A pool as it is to be, and the requests that make it: of the Batch service, and of Azure Resource Manager, which alone can give it identities.

Both take the same things in two spellings. Pure: `fleet` asks.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from tes_server.backends.azure_batch import formula, names

Json = dict[str, Any]

NOTES = "tes-"
"""What our items of a pool's metadata begin with; others are left as they are."""

CPUS = "tes-cpus"
RAM = "tes-ram-gb"
DISK = "tes-disk-gb"
GPUS = "tes-gpus"

MOST_SLOTS = 256
SLOTS_A_CORE = 4

START_TRIES = 3
"""Times that the start task is tried again on a node: a registry or a mirror of packages may be away for a moment."""


class Image(NamedTuple):
    """What nodes boot. `id`: of an image in a gallery, in place of the four before it."""

    publisher: str
    offer: str
    sku: str
    version: str
    id: str
    node_agent: str


class Node(NamedTuple):
    """What one node has; memory and disk in 10^9 bytes. The backend reads it from the pool's metadata."""

    cpus: float
    ram_gb: float
    disk_gb: float
    gpus: int


class Pool(NamedTuple):
    """A pool as the settings want it."""

    id: str
    vm_size: str
    spot: bool
    most: int
    least: int
    slots: int
    node: Node
    image: Image
    runner: str
    """The image of this server, which is fetched before a node takes its first task."""
    registry_identity: str
    """Resource id of the identity that may pull it; "": anybody may"""
    identities: tuple[str, ...]
    """Resource ids"""
    subnet: str
    public_ip: bool
    start: str
    """Command line of the start task, run as root."""
    server: str
    """The server's name (`names.server`)."""
    retired: str = ""
    """The day from which Azure Batch makes no nodes of that size, if one is set"""

    @property
    def formula(self) -> str:
        """Its autoscale formula."""
        return formula.scale(slots=self.slots, most=self.most, least=self.least, spot=self.spot)


def registry(image: str) -> str:
    """The registry that an image's name leads to, as Docker reads it."""
    host, slash, _ = image.partition("/")
    return host if slash and (host == "localhost" or any(sign in host for sign in ".:")) else "docker.io"


def notes(pool: Pool) -> dict[str, str]:
    """What `tes-server` reads from a pool's metadata: whose it is, and what one node has."""
    node = pool.node
    return {names.SERVER: pool.server, CPUS: f"{node.cpus:g}", RAM: f"{node.ram_gb:g}", DISK: f"{node.disk_gb:g}", GPUS: str(node.gpus)}


def items(named: dict[str, str]) -> list[Json]:
    """Metadata as both services spell it."""
    return [{"name": name, "value": value} for name, value in named.items()]


def created(pool: Pool) -> Json:
    """The pool for `create_pool` of the Batch service."""
    return {
        "id": pool.id,
        **fixed(pool),
        "startTask": start_task(pool),
        "metadata": items(notes(pool)),
        "enableAutoScale": True,
        "autoScaleFormula": pool.formula,
        "autoScaleEvaluationInterval": formula.INTERVAL,
    }


def fixed(pool: Pool) -> Json:
    """The part that only a pool without nodes may have changed, for `create_pool` and `update_pool`."""
    image = pool.image
    named = {"virtualMachineImageId": image.id} if image.id else _marketplace(image)
    return {
        "vmSize": pool.vm_size,
        "virtualMachineConfiguration": {
            "imageReference": named,
            "nodeAgentSKUId": image.node_agent,
            "containerConfiguration": {"type": "dockerCompatible", **_containers(pool)},
        },
        "taskSlotsPerNode": pool.slots,
        "taskSchedulingPolicy": {"nodeFillType": "pack"},  # so that nodes become empty
        "networkConfiguration": _network(pool, "batchmanaged" if pool.public_ip else "nopublicipaddresses"),
        "enableInterNodeCommunication": False,
    }


def start_task(pool: Pool) -> Json:
    """What each node runs as root before its first task; it takes none where that fails."""
    return _start(pool, "pool", "admin")


def managed(pool: Pool) -> Json:
    """The pool for `pool.create` of Azure Resource Manager."""
    image = pool.image
    machine = {
        "imageReference": {"id": image.id} if image.id else _marketplace(image),
        "nodeAgentSkuId": image.node_agent,
        "containerConfiguration": {"type": "DockerCompatible", **_containers(pool)},
    }
    return {
        **identified(pool),
        "properties": {
            "vmSize": pool.vm_size,
            "deploymentConfiguration": {"virtualMachineConfiguration": machine},
            "taskSlotsPerNode": pool.slots,
            "taskSchedulingPolicy": {"nodeFillType": "Pack"},
            "networkConfiguration": _network(pool, "BatchManaged" if pool.public_ip else "NoPublicIPAddresses"),
            "interNodeCommunication": "Disabled",
            "startTask": _start(pool, "Pool", "Admin"),
            "metadata": items(notes(pool)),
            "scaleSettings": {"autoScale": {"formula": pool.formula, "evaluationInterval": formula.INTERVAL}},
        },
    }


def identified(pool: Pool) -> Json:
    """The identities, for `pool.create` and `pool.update` of Azure Resource Manager."""
    if not pool.identities:
        return {"identity": {"type": "None"}}
    return {"identity": {"type": "UserAssigned", "userAssignedIdentities": {one: {} for one in pool.identities}}}


def _marketplace(image: Image) -> Json:
    return {"publisher": image.publisher, "offer": image.offer, "sku": image.sku, "version": image.version}


def _containers(pool: Pool) -> Json:
    found: Json = {"containerImageNames": [pool.runner]}
    if pool.registry_identity:
        found["containerRegistries"] = [{"registryServer": registry(pool.runner), "identityReference": {"resourceId": pool.registry_identity}}]
    return found


def _network(pool: Pool, provision: str) -> Json:
    subnet = {"subnetId": pool.subnet} if pool.subnet else {}
    return {**subnet, "publicIPAddressConfiguration": {"provision": provision}}


def _start(pool: Pool, scope: str, level: str) -> Json:
    return {
        "commandLine": pool.start,
        "userIdentity": {"autoUser": {"scope": scope, "elevationLevel": level}},
        "waitForSuccess": True,
        "maxTaskRetryCount": START_TRIES,
    }
