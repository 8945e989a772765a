"""From the settings to pools, and what of them makes no sense."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tes_server import errors, pool_rules
from tes_server.backends.azure_batch.pools import Node
from tes_server.backends.azure_batch.sizes import Size
from tes_server.settings import Settings

KNOWN = {
    size.name.lower(): size
    for size in (Size("Standard_D4s_v3", 4, 17.2, 30.9), Size("Standard_E8s_v5", 8, 68.7, 0.0), Size("Standard_B2s", 2, 4.3, 8.6, spot=False))
}
POOL = {"vm_size": "standard_d4s_v3"}
SAID = {"cpus": 3.5, "ram_gb": 15.0, "disk_gb": 20.0}
BATCH = {
    "url": "https://account.westeurope.batch.azure.com",
    "image": "registry.example.org/tes-server:1",
    "work": "/mnt/tes-server",
    "subnet": "/subnet",
    "subscription": "s",
    "resource_group": "g",
    "pools": {"big": POOL},
}


def settings(**batch: Any) -> Settings:
    return msgspec.convert({"azure_batch": {**BATCH, **batch}}, Settings)


def test_a_pool() -> None:
    (pool,) = pool_rules.fleet(settings(), KNOWN)
    assert (pool.id, pool.vm_size, pool.slots, pool.most, pool.least) == ("big", "Standard_D4s_v3", 4, 10, 0)
    assert pool.node == Node(4.0, 17.2, 30.9, 0)
    assert pool.server == "org-example-tes-server"
    assert "/mnt/tes-server" in pool.start


def test_what_the_settings_say_of_a_node_goes_first() -> None:
    (pool,) = pool_rules.fleet(settings(pools={"big": {**POOL, **SAID, "gpus": 1, "slots": 12}}), KNOWN)
    assert pool.node == Node(3.5, 15.0, 20.0, 1)
    assert pool.slots == 12


def test_nobody_can_be_asked() -> None:
    alone = {"subscription": "", "resource_group": ""}
    (pool,) = pool_rules.fleet(settings(pools={"big": {**POOL, **SAID}}, **alone), None)
    assert (pool.vm_size, pool.node, pool.slots) == ("standard_d4s_v3", Node(3.5, 15.0, 20.0, 0), 3)
    assert pool_rules.place(settings(**alone)) is None


def test_the_identity_that_pulls_is_one_of_the_pools() -> None:
    (pool,) = pool_rules.fleet(settings(identities=["/ids/a", "/ids/B"], registry_identity="/IDS/b"), KNOWN)
    assert pool.identities == ("/ids/a", "/ids/B")
    (pool,) = pool_rules.fleet(settings(registry_identity="/ids/c"), KNOWN)
    assert pool.identities == ("/ids/c",)


def test_a_machine_of_many_cores_has_as_many_slots_as_azure_takes() -> None:
    (pool,) = pool_rules.fleet(settings(), {"standard_d4s_v3": Size("Standard_D4s_v3", 416, 1000, 1000)})
    assert pool.slots == 256


@pytest.mark.parametrize(
    ("batch", "says"),
    [
        ({"url": ""}, "azure_batch.url: must be the https:// url of a Batch account"),
        ({"pools": {}}, "azure_batch.pools: must name at least one pool"),
        ({"image": ""}, "azure_batch.image: must name"),
        ({"resource_group": ""}, "azure_batch.resource_group: must be named, too"),
        ({"subscription": ""}, "azure_batch.subscription: must be named, too"),
        ({"subscription": "", "resource_group": "", "identities": ["/a"]}, "azure_batch.subscription: must be named: only Azure Resource Manager"),
        ({"subscription": "", "resource_group": "", "registry_identity": "/a"}, "azure_batch.subscription: must be named: only Azure Resource Manager"),
        ({"subnet": ""}, "azure_batch.subnet: must be named: without a subnet nodes have public addresses"),
        ({"pools": {"a b": POOL}}, "azure_batch.pools.a b: must be up to 64 letters"),
        ({"pools": {"big": {**POOL, "idle_nodes": 11}}}, "azure_batch.pools.big.idle_nodes: must be at most nodes (10)"),
        ({"pools": {"big": {**POOL, "slots": 17}}}, "azure_batch.pools.big.slots: must be at most 16"),
        ({"pools": {"big": {"vm_size": "D4s_v3"}}}, "azure_batch.pools.big.vm_size: Azure Batch has no size 'D4s_v3' there: did you mean Standard_D4s_v3?"),
        ({"pools": {"big": {"vm_size": "Standard_B2s", "spot": True}}}, "azure_batch.pools.big.spot: Azure offers Standard_B2s as dedicated machines only"),
        ({"pools": {"big": {"vm_size": "Standard_E8s_v5"}}}, "azure_batch.pools.big.disk_gb: must be said: Standard_E8s_v5 has no temporary disk"),
        ({"work": "/var/lib/tes-server"}, "azure_batch.pools.big.disk_gb: must be said: tasks run in /var/lib/tes-server (azure_batch.work)"),
        ({"work": "relative"}, "azure_batch.pools.big.disk_gb: must be said: tasks run in relative"),
    ],
)
def test_what_is_refused(batch: dict[str, Any], says: str) -> None:
    with pytest.raises(errors.SettingsError) as caught:
        pool_rules.fleet(settings(**batch), KNOWN)
    assert str(caught.value).startswith(says)


@pytest.mark.parametrize("field", ["cpus", "ram_gb", "disk_gb"])
def test_what_must_be_said_where_nobody_can_be_asked(field: str) -> None:
    pool = {name: value for name, value in {**POOL, **SAID}.items() if name != field}
    with pytest.raises(errors.SettingsError, match=f"azure_batch.pools.big.{field}: must be said: sizes are looked up only with"):
        pool_rules.fleet(settings(pools={"big": pool}, subscription="", resource_group=""), None)


@pytest.mark.parametrize(
    ("batch", "where"),
    [
        ({}, "westeurope"),
        ({"location": "northeurope"}, "northeurope"),
        ({"url": "https://account.chinanorth3.batch.chinacloudapi.cn"}, "chinanorth3"),
    ],
)
def test_the_region(batch: dict[str, Any], where: str) -> None:
    assert pool_rules.location(settings(**batch)) == where


def test_a_url_that_does_not_tell_the_region() -> None:
    with pytest.raises(errors.SettingsError, match=r"azure_batch\.location: must be named"):
        pool_rules.location(settings(url="https://10.0.0.4:8443"))
