"""From the settings to what the Azure Batch backend is told, and whether that makes sense.

On the nodes a `file://` url leads to a directory that they all have, never to one of this machine. This module must never talk to Azure.
"""

from __future__ import annotations

import re
import urllib.parse

from tes_server import errors, node_rules
from tes_server.backends.azure_batch import calls, names, packing, render
from tes_server.backends.azure_batch.calls import LONGEST, Account
from tes_server.backends.azure_batch.classify import Bounds
from tes_server.backends.azure_batch.site import Mount, Pool, Shape, Site
from tes_server.plan.compiler import GB
from tes_server.plan.policy import Capabilities, Target, Values
from tes_server.runner import node
from tes_server.settings import Settings

SUBMIT_WINDOW = 2 * LONGEST
"""Seconds within which a submit has ended: a call that begins in its first half has."""

RUN = ("AZ_BATCH_JOB_ID", "AZ_BATCH_TASK_ID", "AZ_BATCH_NODE_ID", node.BOOT)
"""What names one start of one task: Azure Batch starts it again elsewhere when a node goes, or on the node of that name when it is back."""

POOL = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""Ids of pools (Azure Batch, Pool - Add)."""


def enabled(settings: Settings) -> bool:
    """True if tasks run on Azure Batch."""
    return bool(settings.azure_batch.url)


def check(settings: Settings) -> None:
    """Refuse settings that contradict each other, or name a variable that is not set: SettingsError with the key at fault. Asks nobody."""
    batch = settings.azure_batch
    check_pools(settings)
    for name, pool in batch.pools.items():
        if bool(pool.cpus) != bool(pool.ram_gb):
            raise errors.SettingsError("must stand beside ram_gb, or neither of them", f"azure_batch.pools.{name}.cpus")
    node_rules.check(settings, batch, "azure_batch")
    account(settings)


def check_pools(settings: Settings) -> None:
    """What running tasks and making pools have in common of `check`: the account, the image, the names of pools."""
    batch = settings.azure_batch
    where = urllib.parse.urlsplit(batch.url)
    if where.scheme != "https" or not where.hostname:
        raise errors.SettingsError("must be the https:// url of a Batch account", "azure_batch.url")
    if not names.server(settings.server.id):
        raise errors.SettingsError("must hold letters or digits: it is part of the jobs' names", "server.id")
    if not batch.pools:
        raise errors.SettingsError("must name at least one pool that tasks go to", "azure_batch.pools")
    if not batch.image:
        raise errors.SettingsError("must name this server's own image", "azure_batch.image")
    for name, pool in batch.pools.items():
        if not POOL.fullmatch(name):
            raise errors.SettingsError("must be up to 64 letters, digits, - and _: it is the pool's id", f"azure_batch.pools.{name}")
        if not pool.vm_size:
            raise errors.SettingsError("must name a size of virtual machines", f"azure_batch.pools.{name}.vm_size")
        if pool.idle_nodes > pool.nodes:
            raise errors.SettingsError(f"must be at most nodes ({pool.nodes})", f"azure_batch.pools.{name}.idle_nodes")
    if len({name.lower() for name in batch.pools}) < len(batch.pools):
        raise errors.SettingsError("names a pool twice: Azure Batch does not tell letters' cases apart", "azure_batch.pools")


def account(settings: Settings) -> Account:
    """Whom to ask. SettingsError: the key is not in the environment."""
    batch = settings.azure_batch
    return calls.account(batch.url, batch.account, batch.key_variable, batch.client_id)


def target(settings: Settings) -> Target:
    """What tasks for Azure Batch are checked against. Bounds are known where the settings tell of every pool."""
    batch = settings.azure_batch
    pools = batch.pools.values()
    told = all(pool.cpus for pool in pools)
    capabilities = Capabilities(
        cpus=max((pool.cpus for pool in pools), default=0.0) if told else 0.0,
        ram_bytes=int(max((pool.ram_gb for pool in pools), default=0.0) * GB * (1 - packing.SYSTEM)) - _overhead(settings) if told else 0,
        disk_bytes=int(max((pool.disk_gb for pool in pools), default=0.0) * GB) if all(pool.disk_gb for pool in pools) else 0,
        gpus=max((pool.gpus for pool in pools), default=0),
        parameters=_parameters(settings),
        plan_bytes=render.PLAN_BYTES,
        submit_window=SUBMIT_WINDOW,
        names_last=True,
        secrets=tuple(sorted(batch.secrets)),
        scan_secrets=tuple(sorted(batch.scan_secrets)),
        engine_socket=True,
    )
    return Target(policy=node_rules.policy(settings, batch.mounts), capabilities=capabilities)


def _parameters(settings: Settings) -> dict[str, Values]:
    """The backend_parameters that tasks may use: from lists of the site alone."""
    batch = settings.azure_batch
    sizes = tuple(dict.fromkeys(pool.vm_size for pool in batch.pools.values()))
    lists = {render.VM_SIZE: sizes, render.PRIORITY: tuple(batch.priorities)}
    return {key: Values(choices=choices) for key, choices in lists.items() if choices}


def _overhead(settings: Settings) -> int:
    return settings.azure_batch.overhead_mib * 1024 * 1024


def bounds(settings: Settings) -> Bounds:
    """How long tasks may wait."""
    batch = settings.azure_batch
    return Bounds(capacity=batch.wait_capacity, reap=batch.reap_seconds, node=batch.wait_node)


def site(settings: Settings) -> Site:
    """Azure Batch as the renderer has it."""
    batch = settings.azure_batch
    return Site(
        server=names.server(settings.server.id),
        pools=tuple(
            Pool(
                id=name,
                vm_size=pool.vm_size,
                spot=pool.spot,
                shape=Shape(cpus=pool.cpus, ram_bytes=int(pool.ram_gb * GB), disk_bytes=int(pool.disk_gb * GB), gpus=pool.gpus, slots=pool.slots),
            )
            for name, pool in batch.pools.items()
        ),
        node=node_rules.site(settings, batch, RUN, batch.node_client_id),
        image=batch.image,
        registry=batch.image.partition("/")[0],
        registry_identity=batch.registry_identity,
        environment=batch.environment,
        mounts=tuple(Mount(path=node_rules.directory(mount.path), read_only=mount.read_only) for mount in batch.mounts),
        overhead_bytes=_overhead(settings),
        save_seconds=batch.save_seconds,
        priorities=batch.priorities,
    )
