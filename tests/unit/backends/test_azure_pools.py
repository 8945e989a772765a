"""The requests that make pools, whole; and how pools that are there differ from those that are wanted."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tes_server.backends.azure_batch import formula, pool_changes, pools
from tes_server.backends.azure_batch.pool_changes import When
from tests.unit.backends.azure_pool import IDENTITY, POOL, SUBNET

NOTES = [
    {"name": "tes-server", "value": "org-example"},
    {"name": "tes-cpus", "value": "4"},
    {"name": "tes-ram-gb", "value": "17.2"},
    {"name": "tes-disk-gb", "value": "30.9"},
    {"name": "tes-gpus", "value": "0"},
]
MARKETPLACE = {"publisher": "microsoft-dsvm", "offer": "ubuntu-hpc", "sku": "2204", "version": "latest"}
CONTAINERS = {
    "containerImageNames": ["registry.example.org/tes-server:1"],
    "containerRegistries": [{"registryServer": "registry.example.org", "identityReference": {"resourceId": IDENTITY}}],
}
START = {"commandLine": "/bin/sh -c 'true'", "waitForSuccess": True, "maxTaskRetryCount": 3}


def test_of_the_batch_service() -> None:
    assert pools.created(POOL) == {
        "id": "big",
        "vmSize": "Standard_D4s_v3",
        "virtualMachineConfiguration": {
            "imageReference": MARKETPLACE,
            "nodeAgentSKUId": "batch.node.ubuntu 22.04",
            "containerConfiguration": {"type": "dockerCompatible", **CONTAINERS},
        },
        "taskSlotsPerNode": 4,
        "taskSchedulingPolicy": {"nodeFillType": "pack"},
        "networkConfiguration": {"subnetId": SUBNET, "publicIPAddressConfiguration": {"provision": "nopublicipaddresses"}},
        "enableInterNodeCommunication": False,
        "startTask": {**START, "userIdentity": {"autoUser": {"scope": "pool", "elevationLevel": "admin"}}},
        "metadata": NOTES,
        "enableAutoScale": True,
        "autoScaleFormula": formula.scale(slots=4, most=10, least=0, spot=True),
        "autoScaleEvaluationInterval": "PT5M",
    }


def test_of_resource_manager() -> None:
    machine = {
        "imageReference": MARKETPLACE,
        "nodeAgentSkuId": "batch.node.ubuntu 22.04",
        "containerConfiguration": {"type": "DockerCompatible", **CONTAINERS},
    }
    assert pools.managed(POOL) == {
        "identity": {"type": "UserAssigned", "userAssignedIdentities": {IDENTITY: {}}},
        "properties": {
            "vmSize": "Standard_D4s_v3",
            "deploymentConfiguration": {"virtualMachineConfiguration": machine},
            "taskSlotsPerNode": 4,
            "taskSchedulingPolicy": {"nodeFillType": "Pack"},
            "networkConfiguration": {"subnetId": SUBNET, "publicIPAddressConfiguration": {"provision": "NoPublicIPAddresses"}},
            "interNodeCommunication": "Disabled",
            "startTask": {**START, "userIdentity": {"autoUser": {"scope": "Pool", "elevationLevel": "Admin"}}},
            "metadata": NOTES,
            "scaleSettings": {"autoScale": {"formula": POOL.formula, "evaluationInterval": "PT5M"}},
        },
    }


def test_an_image_of_ones_own_public_addresses_and_a_public_registry() -> None:
    pool = POOL._replace(image=POOL.image._replace(id="/gallery/image"), public_ip=True, subnet="", registry_identity="", identities=())
    made, managed = pools.created(pool), pools.managed(pool)
    machine = made["virtualMachineConfiguration"]
    assert machine["imageReference"] == {"virtualMachineImageId": "/gallery/image"}
    assert machine["containerConfiguration"] == {"type": "dockerCompatible", "containerImageNames": [POOL.runner]}
    assert made["networkConfiguration"] == {"publicIPAddressConfiguration": {"provision": "batchmanaged"}}
    assert managed["identity"] == {"type": "None"}
    assert managed["properties"]["deploymentConfiguration"]["virtualMachineConfiguration"]["imageReference"] == {"id": "/gallery/image"}
    assert managed["properties"]["networkConfiguration"] == {"publicIPAddressConfiguration": {"provision": "BatchManaged"}}


@pytest.mark.parametrize(
    ("image", "registry"),
    [("tes-server:1", "docker.io"), ("team/tes-server", "docker.io"), ("a.azurecr.io/tes:1", "a.azurecr.io"), ("localhost:5000/tes", "localhost:5000")],
)
def test_registries(image: str, registry: str) -> None:
    assert pools.registry(image) == registry


# -- what differs ------------------------------------------------------------------------------------------------------------


def there(**changed: Any) -> dict[str, Any]:
    """The pool as Azure tells of it, which adds things of its own."""
    told = copy.deepcopy(pools.created(POOL))
    told["virtualMachineConfiguration"]["imageReference"]["exactVersion"] = "22.04.2026110101"
    told["identity"] = {"type": "UserAssigned", "userAssignedIdentities": [{"resourceId": IDENTITY.upper(), "clientId": "c", "principalId": "p"}]}
    return {**told, "state": "active", "allocationState": "steady", "resizeTimeout": "PT15M", "vmSize": "STANDARD_D4S_V3", **changed}


def test_nothing() -> None:
    assert pool_changes.changes(there(), POOL) == []


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"vm_size": "Standard_D8s_v3"}, "vm_size: STANDARD_D4S_V3 -> Standard_D8s_v3"),
        ({"slots": 8}, "slots: 4 -> 8"),
        ({"image": POOL.image._replace(sku="2404")}, "vm_image: microsoft-dsvm:ubuntu-hpc:2204:latest -> microsoft-dsvm:ubuntu-hpc:2404:latest"),
        ({"image": POOL.image._replace(node_agent="other")}, "vm_image.node_agent: batch.node.ubuntu 22.04 -> other"),
        ({"subnet": SUBNET + "2"}, f"subnet: {SUBNET} -> {SUBNET}2"),
        ({"public_ip": True}, "public_ip: false -> true"),
        ({"identities": ()}, f"identities: {IDENTITY.lower()} -> none"),
        ({"registry_identity": ""}, f"registry_identity: registry.example.org by {IDENTITY} -> none"),
    ],
)
def test_only_without_nodes(wanted: dict[str, Any], said: str) -> None:
    found = [change for change in pool_changes.changes(there(), POOL._replace(**wanted)) if change.when is When.EMPTY]
    assert [str(change) for change in found] == [said]


@pytest.mark.parametrize(
    ("wanted", "what"),
    [
        ({"most": 11}, "formula"),
        ({"least": 1}, "formula"),
        ({"start": "/bin/other"}, "start task"),
        ({"server": "other"}, "metadata"),
        ({"node": POOL.node._replace(ram_gb=16.0)}, "metadata"),
    ],
)
def test_at_any_time(wanted: dict[str, Any], what: str) -> None:
    assert pool_changes.changes(there(), POOL._replace(**wanted)) == [pool_changes.Change(what, When.NOW)]


def test_a_new_image_of_the_server_waits_for_its_chance() -> None:
    (change,) = pool_changes.changes(there(), POOL._replace(runner="registry.example.org/tes-server:2"))
    assert (change.what, change.when) == ("image", When.CHANCE)


def test_a_formula_that_somebody_turned_off() -> None:
    told = there(enableAutoScale=False)
    del told["autoScaleFormula"]
    assert pool_changes.changes(told, POOL) == [pool_changes.Change("formula", When.NOW)]


def test_a_formula_whose_line_ends_azure_changed() -> None:
    assert pool_changes.changes(there(autoScaleFormula=POOL.formula.replace("\n", "\r\n").strip()), POOL) == []


def test_what_others_noted_on_a_pool_stays() -> None:
    told = there(metadata=[{"name": "owner", "value": "us"}, {"name": "tes-cpus", "value": "2"}, {"name": "tes-old", "value": "x"}])
    assert pool_changes.metadata(told, POOL) == [{"name": "owner", "value": "us"}, *NOTES]
    assert pool_changes.metadata(there(metadata=[{"name": "owner", "value": "us"}, *NOTES]), POOL) is None


def test_a_pool_that_somebody_else_made() -> None:
    """All that it does not say differs, and nothing fails."""
    found = {change.what for change in pool_changes.changes({"id": "big", "vmSize": "Standard_D4s_v3"}, POOL)}
    assert found == {
        *("slots", "vm_image", "vm_image.node_agent", "containers", "registry_identity", "identities", "subnet", "public_ip", "node fill", "image"),
        *("start task", "metadata", "formula"),
    }


@pytest.mark.parametrize(
    ("told", "nodes"),
    [
        ({}, 0),
        ({"currentDedicatedNodes": 1, "currentLowPriorityNodes": 2, "allocationState": "steady"}, 3),
        ({"currentLowPriorityNodes": 2, "targetLowPriorityNodes": 5, "allocationState": "resizing"}, 5),
        ({"currentLowPriorityNodes": 2, "targetLowPriorityNodes": 0, "allocationState": "resizing"}, 2),
        ({"currentLowPriorityNodes": 0, "targetLowPriorityNodes": 5, "allocationState": "steady"}, 0),  # there is none to be had
    ],
)
def test_nodes(told: dict[str, Any], nodes: int) -> None:
    assert pool_changes.nodes(told) == nodes


def test_whether_it_drains() -> None:
    assert pool_changes.drains(there(autoScaleFormula=formula.DRAIN))
    assert not pool_changes.drains(there())
    assert not pool_changes.drains({})
