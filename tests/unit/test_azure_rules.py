"""From settings to what the Azure Batch backend is told."""

from __future__ import annotations

from typing import Any

import pytest

from tes_server import azure_rules, configuration, errors, settings
from tes_server.backends.azure_batch.calls import LONGEST
from tes_server.backends.azure_batch.packing import SYSTEM
from tes_server.backends.azure_batch.site import Mount
from tes_server.plan.policy import Values

GB = 10**9
STORAGE = [{"url": "az://data", "write": True}, {"url": "az://spool", "write": True, "tasks": False}]
POOLS: dict[str, Any] = {"large": {"vm_size": "Standard_D64s_v5"}, "spot": {"vm_size": "Standard_D64s_v5", "spot": True}}
USUAL: dict[str, Any] = {
    "azure_batch.url": "https://lab.westeurope.batch.azure.com",
    "azure_batch.image": "lab.azurecr.io/server:1",
    "azure_batch.pools": POOLS,
    "spool.url": "az://spool/tes",
    "storage": STORAGE,
}


def made(**tree: Any) -> settings.Settings:
    return configuration.load(None, {}, {**USUAL, **tree})


def pool(**fields: Any) -> dict[str, Any]:
    return {"azure_batch.pools": {"p": {"vm_size": "s", **fields}}}


@pytest.mark.parametrize(
    ("tree", "where"),
    [
        ({"azure_batch.url": "http://lab.westeurope.batch.azure.com"}, "azure_batch.url"),
        ({"azure_batch.url": "lab.westeurope.batch.azure.com"}, "azure_batch.url"),
        ({"azure_batch.url": "https://"}, "azure_batch.url"),
        ({"azure_batch.image": ""}, "azure_batch.image"),
        ({"server.id": "---"}, "server.id"),
        ({"azure_batch.pools": {}}, "azure_batch.pools"),
        ({"azure_batch.pools": {"a b": {"vm_size": "s"}}}, "azure_batch.pools.a b"),
        ({"azure_batch.pools": {"x" * 65: {"vm_size": "s"}}}, f"azure_batch.pools.{'x' * 65}"),
        ({"azure_batch.pools": {"p": {"vm_size": "s"}, "P": {"vm_size": "s"}}}, "azure_batch.pools"),
        (pool(vm_size=""), "azure_batch.pools.p.vm_size"),
        (pool(cpus=4), "azure_batch.pools.p.cpus"),
        (pool(ram_gb=4), "azure_batch.pools.p.cpus"),
        (pool(nodes=1, idle_nodes=2), "azure_batch.pools.p.idle_nodes"),
        ({"azure_batch.work": "tasks"}, "azure_batch.work"),
        ({"azure_batch.work": "/"}, "azure_batch.work"),
        ({"azure_batch.network": "host"}, "azure_batch.network"),
        ({"azure_batch.mounts": [{"path": "reference"}]}, "azure_batch.mounts[0].path"),
        ({"azure_batch.work": "/work", "azure_batch.mounts": [{"path": "/reference"}, {"path": "/work/x"}]}, "azure_batch.mounts[1].path"),
        ({"azure_batch.mounts": [{"path": "/var/run"}]}, "azure_batch.mounts[0].path"),
        ({"spool.url": ""}, "spool.url"),
        ({"spool.url": "file:///spool"}, "spool.url"),
        ({"spool.url": "az://data/x"}, "spool.url"),  # tasks could write there
        ({"spool.url": "az://other"}, "spool.url"),
    ],
)
def test_what_makes_no_sense_is_refused(tree: dict[str, Any], where: str) -> None:
    with pytest.raises(errors.SettingsError) as caught:
        azure_rules.check(made(**tree))
    assert caught.value.where == where


@pytest.mark.parametrize("priority", [-1001, 1001])
def test_priorities_are_those_that_azure_has(priority: int) -> None:
    with pytest.raises(errors.SettingsError) as caught:
        made(**{"azure_batch.priorities": {"urgent": priority}})
    assert "priorities" in caught.value.where


def test_what_makes_sense_is_taken() -> None:
    known = made()
    azure_rules.check(known)
    assert azure_rules.enabled(known)
    assert not azure_rules.enabled(configuration.load(None, {}, {}))
    site = azure_rules.site(known)
    assert [(pool.id, pool.spot) for pool in site.pools] == [("large", False), ("spot", True)]
    assert (site.registry, site.registry_identity) == ("lab.azurecr.io", "")


def test_files_are_those_of_the_nodes_and_not_of_this_machine() -> None:
    mounts = [{"path": "/nfs/", "read_only": False}, {"path": "/reference"}]
    known = made(**{"files.roots": ["/home"], "files.live_mounts": ["/nfs/jobs", "/reference/jobs", "/elsewhere"], "azure_batch.mounts": mounts})
    site = azure_rules.site(known)
    assert site.mounts == (Mount(path="/nfs", read_only=False), Mount(path="/reference"))
    assert site.node.access.roots == azure_rules.target(known).policy.sites.roots == ("/nfs", "/reference")
    assert site.node.live_roots == azure_rules.target(known).policy.live_mounts == ("/nfs/jobs",)


def test_runners_reach_the_spool_and_tasks_do_not() -> None:
    node = azure_rules.site(made()).node
    assert [store.url for store in node.spool_stores] == ["az://spool"]
    assert [store.url for store in node.access.stores] == ["az://data"]


def test_each_start_of_a_task_has_a_name() -> None:
    """A preempted node comes back under its name: only its life tells."""
    run = azure_rules.site(made()).node.run
    assert run[:3] == ("AZ_BATCH_JOB_ID", "AZ_BATCH_TASK_ID", "AZ_BATCH_NODE_ID")
    assert len(run) == 4


class TestTarget:
    def test_what_tasks_may_choose(self) -> None:
        known = made(**{"azure_batch.priorities": {"urgent": 900}, "azure_batch.secrets": {"TOKEN": "https://vault.vault.azure.net/secrets/token"}})
        azure_rules.check(known)
        capabilities = azure_rules.target(known).capabilities
        assert capabilities.parameters == {"vm_size": Values(choices=("Standard_D64s_v5",)), "priority": Values(choices=("urgent",))}
        assert capabilities.secrets == ("TOKEN",)
        assert capabilities.names_last
        assert set(azure_rules.target(made()).capabilities.parameters) == {"vm_size"}

    def test_bounds_are_known_where_the_settings_tell_of_every_pool(self) -> None:
        told = {"a": {"vm_size": "s", "cpus": 4, "ram_gb": 100, "disk_gb": 200, "gpus": 1}, "b": {"vm_size": "t", "cpus": 64, "ram_gb": 50, "disk_gb": 10}}
        known = azure_rules.target(made(**{"azure_batch.pools": told, "azure_batch.overhead_mib": 100})).capabilities
        assert (known.cpus, known.disk_bytes, known.gpus) == (64, 200 * GB, 1)
        assert known.ram_bytes == int(100 * GB * (1 - SYSTEM)) - 100 * 2**20, "less what a node and the runner need: the task is refused when it is created"
        unknown = azure_rules.target(made(**{"azure_batch.pools": {**told, "c": {"vm_size": "u"}}})).capabilities
        assert (unknown.cpus, unknown.ram_bytes, unknown.disk_bytes) == (0, 0, 0)

    def test_submits_end_in_time(self) -> None:
        assert azure_rules.target(made()).capabilities.submit_window >= 2 * LONGEST


def test_how_long_tasks_may_wait() -> None:
    bounds = azure_rules.bounds(made(**{"azure_batch.wait_capacity": 7200, "azure_batch.reap_seconds": 20, "azure_batch.wait_node": 60}))
    assert (bounds.capacity, bounds.reap, bounds.node) == (7200, 20, 60)
