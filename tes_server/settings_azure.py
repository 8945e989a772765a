"""The settings of tasks as Azure Batch tasks, and of the pools that `tes-server pools` makes; `azure_rules` makes them what the backend is told.

Data only.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from tes_server.settings_parts import Amount, Count, HostMountSettings, Number, Part, Pause

Priority = Annotated[int, msgspec.Meta(ge=-1000, le=1000)]
"""Priority of a Batch job."""


class VmImageSettings(Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the nodes of pools boot: a Marketplace image with a container runtime, or one of the site's own."""

    publisher: str = "microsoft-dsvm"
    """Publisher of a Marketplace image."""
    offer: str = "ubuntu-hpc"
    """Its offer: one that Azure Batch can use for containers."""
    sku: str = "2204"
    """Its SKU."""
    version: str = "latest"
    """Its version."""
    id: str = ""
    """Resource id of a custom image in a Compute Gallery, in place of the four above."""
    node_agent: str = "batch.node.ubuntu 22.04"
    """Id of the Batch node agent for it."""


class PoolSettings(Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A pool, by its id. A task goes to the one with the smallest nodes in which it fits; Spot comes first, for who may be interrupted."""

    vm_size: str
    """Size of its virtual machines, e.g. `Standard_D16ds_v5`; tasks may choose by backend_parameters `vm_size`."""
    spot: bool = False
    """Its nodes are Spot virtual machines, which Azure may take back at any time."""
    nodes: Count = 10
    """Most nodes that it grows to."""
    idle_nodes: Count = 0
    """Nodes that it keeps while nothing runs."""
    slots: Count = 0
    """Parts that a node is shared out in; a task takes as many as its cores and its memory need. 0 = as many as it has cores."""
    cpus: Amount = 0.0
    """Cores of a node. 0 = as `tes-server pools apply` has noted on the pool; so for memory and disk."""
    ram_gb: Amount = 0.0
    """Memory of a node, 10^9 bytes."""
    disk_gb: Amount = 0.0
    """Disk of a node for tasks, 10^9 bytes."""
    gpus: Count = 0
    """GPUs of a node. A task that asks for any has a node alone."""


class AzureBatchSettings(Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Running tasks as Azure Batch tasks (`pip install 'tes-server[azure]'`). Needs `spool.url`, and at least one pool."""

    url: str = ""
    """Url of the Batch account, e.g. `https://account.region.batch.azure.com`. Empty = no tasks run on Azure Batch."""
    account: str = ""
    """Name of the Batch account. Empty = the first part of the url's host."""
    image: str = ""
    """This server's own image, which runs the tasks on the nodes."""
    key_variable: str = ""
    """Name of the environment variable that holds a shared key of the Batch account. Empty = Microsoft Entra ID, by the identity of this machine."""
    client_id: str = ""
    """Client id of this server's managed identity, where the machine has several."""
    pools: dict[str, PoolSettings] = {}
    """The pools that tasks go to, by their ids."""
    poll: Pause = 10.0
    """Seconds between two looks at what has changed in each Batch job."""
    job_tasks: Number = 20_000
    """Tasks of one Batch job before the next one is begun."""
    work: str = "/mnt/tes-server"
    """Directory of the nodes in which tasks run. `/mnt` is the temporary disk of the sizes that have one, and a directory of the system disk elsewhere."""
    network: str = "bridge"
    """Docker network of the tasks' containers: bridge, or none."""
    grace: Pause = 10.0
    """Seconds between TERM and KILL of a command."""
    reap_seconds: Amount = 15.0
    """Seconds after which the containers of a runner that is dead are gone: the nodes' reaper looks for them every few seconds."""
    overhead_mib: Count = 256
    """Memory (MiB) that each task takes for its runner, beside its own."""
    save_seconds: Amount = 3600.0
    """Seconds after its max_runtime in which a task's outputs are saved."""
    wait_capacity: Amount = 0.0
    """Seconds that a task waits for a node; 0 = for ever."""
    wait_node: Amount = 900.0
    """Seconds that a node of which Azure Batch cannot say whether it lives is waited for, before what ran there is tried again."""
    mounts: tuple[HostMountSettings, ...] = ()
    """Directories of the nodes that tasks may name."""
    environment: dict[str, str] = {}
    """Further environment variables of the runner: endpoints, proxies."""
    secrets: dict[str, str] = {}
    """What tasks may name as `secret://NAME` in `executors[].env`: the url of each in Azure Key Vault (`https://vault.vault.azure.net/secrets/name`)."""
    scan_secrets: dict[str, str] = {}
    """The same for scans of images (`scan.env`), which tasks may not name. No name is in both."""
    priorities: dict[str, Priority] = {}
    """Priorities (-1000 to 1000) of the Batch jobs that tasks may choose by backend_parameters `priority`, by the name that they give."""
    node_client_id: str = ""
    """Client id of the pools' identity with which runners move data, read secrets and pull images. Empty = the only one that the nodes have."""
    registry_identity: str = ""
    """Resource id of the pools' identity with which Azure Batch itself pulls `image` from its registry. Empty = that registry is a public one."""
    subscription: str = ""
    """For `tes-server pools`: id of the subscription of the Batch account."""
    resource_group: str = ""
    """For `tes-server pools`: resource group of the Batch account."""
    location: str = ""
    """For `tes-server pools`: region of the Batch account, e.g. `westeurope`. Empty = the second part of the url's host."""
    management_url: str = "https://management.azure.com"
    """For `tes-server pools`: url of Azure Resource Manager, another one in other clouds."""
    identities: tuple[str, ...] = ()
    """For `tes-server pools`: resource ids of the user-assigned identities that all pools have."""
    subnet: str = ""
    """For `tes-server pools`: resource id of the subnet of the nodes. Empty = Azure Batch makes a network."""
    public_ip: bool = False
    """For `tes-server pools`: nodes get public addresses."""
    vm_image: VmImageSettings = VmImageSettings()
    """For `tes-server pools`: what the nodes boot."""
