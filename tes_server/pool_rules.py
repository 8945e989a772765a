"""From the settings to the pools of Azure Batch that `tes-server pools` keeps, and whether they make sense. Asks nobody.

Sizes of virtual machines are an argument: they are looked up at run time, where Azure Resource Manager can be asked.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Mapping

from tes_server import azure_rules, errors
from tes_server.backends.azure_batch import names, pools, sizes, start_task
from tes_server.backends.azure_batch.arm import Place
from tes_server.backends.azure_batch.pools import Image, Node, Pool
from tes_server.backends.azure_batch.sizes import Size
from tes_server.settings import Settings
from tes_server.settings_azure import AzureBatchSettings, PoolSettings

TEMPORARY = "/mnt/"
"""Below it is the temporary disk of a node, of sizes that have one."""


def check(settings: Settings) -> None:
    """Refuse settings from which no pool can be made: SettingsError with the key at fault."""
    batch = settings.azure_batch
    azure_rules.check_pools(settings)
    if bool(batch.subscription) != bool(batch.resource_group):
        missing = "resource_group" if batch.subscription else "subscription"
        raise errors.SettingsError("must be named, too: Azure Resource Manager is asked by both", f"azure_batch.{missing}")
    if identities(batch) and not batch.subscription:
        raise errors.SettingsError("must be named: only Azure Resource Manager makes pools with identities", "azure_batch.subscription")
    if not batch.subnet and not batch.public_ip:
        raise errors.SettingsError(
            "must be named: without a subnet nodes have public addresses (azure_batch.public_ip = true allows them)", "azure_batch.subnet"
        )


def place(settings: Settings) -> Place | None:
    """Where Azure Resource Manager finds the account; None: it is not to be asked."""
    batch = settings.azure_batch
    if not batch.subscription:
        return None
    return Place(batch.management_url.rstrip("/"), batch.subscription, batch.resource_group, azure_rules.account(settings).name, batch.client_id)


def location(settings: Settings) -> str:
    """The account's region."""
    batch = settings.azure_batch
    parts = (urllib.parse.urlsplit(batch.url).hostname or "").split(".")
    if batch.location or (len(parts) > 3 and parts[2] == "batch"):
        return batch.location or parts[1]
    raise errors.SettingsError("must be named: the url does not tell the region", "azure_batch.location")


def server(settings: Settings) -> str:
    """How pools name this server."""
    return names.server(settings.server.id)


def identities(batch: AzureBatchSettings) -> tuple[str, ...]:
    """Resource ids of all identities that pools have, each once whatever its case."""
    named = [*batch.identities, *([batch.registry_identity] if batch.registry_identity else [])]
    return tuple({one.casefold(): one for one in reversed(named)}.values())[::-1]


def fleet(settings: Settings, known: Mapping[str, Size] | None) -> list[Pool]:
    """All pools. `known`: sizes, None where nobody can be asked. SettingsError names the pool's key at fault."""
    check(settings)
    return [_pool(settings, name, pool, known) for name, pool in settings.azure_batch.pools.items()]


def _pool(settings: Settings, name: str, pool: PoolSettings, known: Mapping[str, Size] | None) -> Pool:
    batch, where = settings.azure_batch, f"azure_batch.pools.{name}"
    size = None if known is None else sizes.find(known, pool.vm_size, f"{where}.vm_size")
    if size is not None and pool.spot and not size.spot:
        raise errors.SettingsError(f"Azure offers {size.name} as dedicated machines only", f"{where}.spot")
    node = _node(pool, size, batch.work, where)
    image = batch.vm_image
    return Pool(
        id=name,
        vm_size=size.name if size is not None else pool.vm_size,
        spot=pool.spot,
        most=pool.nodes,
        least=pool.idle_nodes,
        slots=_slots(pool, node, where),
        node=node,
        image=Image(image.publisher, image.offer, image.sku, image.version, image.id, image.node_agent),
        runner=batch.image,
        registry_identity=batch.registry_identity,
        identities=identities(batch),
        subnet=batch.subnet,
        public_ip=batch.public_ip,
        start=start_task.command(batch.image, batch.work),
        server=server(settings),
        retired=size.retired if size is not None else "",
    )


def _node(pool: PoolSettings, size: Size | None, work: str, where: str) -> Node:
    """What the settings say of a node goes before what is looked up. The size tells nothing of the system's disk."""
    on_temporary = work.startswith(TEMPORARY)
    looked_up = Node(0.0, 0.0, 0.0, 0) if size is None else Node(size.cpus, size.ram_gb, size.disk_gb if on_temporary else 0.0, size.gpus)
    found = Node(pool.cpus or looked_up.cpus, pool.ram_gb or looked_up.ram_gb, pool.disk_gb or looked_up.disk_gb, pool.gpus or looked_up.gpus)
    for field in ("cpus", "ram_gb", "disk_gb"):
        if getattr(found, field):
            continue
        if size is None:
            why = "sizes are looked up only with azure_batch.subscription and resource_group"
        elif on_temporary:
            why = f"{size.name} has no temporary disk that is ready to be used, so that {work} is on the system's"
        else:
            why = f"tasks run in {work} (azure_batch.work), on the system's disk; below {TEMPORARY} it is the temporary one, whose size is known"
        raise errors.SettingsError(f"must be said: {why}", f"{where}.{field}")
    return found


def _slots(pool: PoolSettings, node: Node, where: str) -> int:
    cores = max(1, int(node.cpus))
    most = min(pools.MOST_SLOTS, cores * pools.SLOTS_A_CORE)
    if pool.slots > most:
        what = f"must be at most {most}: Azure Batch takes {pools.SLOTS_A_CORE} for each core, and {pools.MOST_SLOTS} a node"
        raise errors.SettingsError(what, f"{where}.slots")
    return pool.slots or min(cores, pools.MOST_SLOTS)
