"""Resource Manager, asked by azure-mgmt-batch: pools with identities, and sizes of virtual machines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import azure.core.exceptions
import pytest
from azure.batch import BatchClient
from azure.mgmt.batch import BatchManagementClient, models

from tests.emulators.azure_batch.emulator import Emulator
from tests.emulators.azure_batch.world import ACCOUNT, LOCATION, SUBSCRIPTION

USER = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/tes/providers/Microsoft.ManagedIdentity/userAssignedIdentities/nodes"


@pytest.fixture
def manager(emulator: Emulator) -> Iterator[BatchManagementClient]:
    scopes = ["https://management.azure.com/.default"]
    with (
        emulator.credential() as credential,
        BatchManagementClient(
            credential, SUBSCRIPTION, base_url=emulator.url, credential_scopes=scopes, connection_verify=str(emulator.ca), retry_total=0
        ) as manager,
    ):
        yield manager


def pool(**given: Any) -> models.Pool:
    machine = models.VirtualMachineConfiguration(
        image_reference=models.ImageReference(publisher="microsoft-dsvm", offer="ubuntu-hpc", sku="2204", version="latest"),
        node_agent_sku_id="batch.node.ubuntu 22.04",
        container_configuration=models.ContainerConfiguration(type="DockerCompatible"),
    )
    network = models.NetworkConfiguration(public_ip_address_configuration=models.PublicIPAddressConfiguration(provision="NoPublicIPAddresses"))
    properties: dict[str, Any] = {
        "vm_size": "Standard_D4s_v3",
        "deployment_configuration": models.DeploymentConfiguration(virtual_machine_configuration=machine),
        "scale_settings": models.ScaleSettings(fixed_scale=models.FixedScaleSettings(target_low_priority_nodes=1)),
        "task_slots_per_node": 4,
        "task_scheduling_policy": models.TaskSchedulingPolicy(node_fill_type="Pack"),
        "network_configuration": network,
        "start_task": models.StartTask(command_line="/bin/true"),
        **given,
    }
    identity = models.BatchPoolIdentity(type="UserAssigned", user_assigned_identities={USER: models.UserAssignedIdentities()})
    return models.Pool(identity=identity, properties=models.PoolProperties(**properties))


def test_a_pool_with_an_identity(emulator: Emulator, manager: BatchManagementClient, client: BatchClient) -> None:
    made = manager.pool.create("tes", ACCOUNT, "spot", pool())
    assert made.properties is not None
    assert (made.name, made.properties.provisioning_state) == ("spot", "Succeeded")
    emulator.wait_nodes("spot", 1, "idle")
    found = client.get_pool("spot")
    assert found.identity is not None
    assert [one.resource_id for one in found.identity.user_assigned_identities or []] == [USER]
    assert found.virtual_machine_configuration is not None
    assert found.virtual_machine_configuration.container_configuration is not None
    assert found.virtual_machine_configuration.container_configuration.type == "dockerCompatible"
    assert found.task_scheduling_policy is not None
    assert (found.task_scheduling_policy.node_fill_type, found.task_slots_per_node) == ("pack", 4)
    assert manager.pool.get("tes", ACCOUNT, "spot").identity == made.identity


def test_sizes_of_virtual_machines(manager: BatchManagementClient) -> None:
    sizes = {size.name: size.capabilities for size in manager.location.list_supported_virtual_machine_skus(LOCATION)}
    told = {one.name: one.value for one in sizes["Standard_D4s_v3"] or []}
    assert told == {
        "MaxResourceVolumeMB": "32768",
        "OSVhdSizeMB": "1047552",
        "vCPUs": "4",
        "MemoryGB": "16",
        "LowPriorityCapable": "True",
    }


def test_other_identities_for_a_pool_without_nodes(manager: BatchManagementClient, client: BatchClient) -> None:
    none = models.ScaleSettings(fixed_scale=models.FixedScaleSettings(target_low_priority_nodes=0))
    manager.pool.create("tes", ACCOUNT, "spot", pool(scale_settings=none))
    other = models.BatchPoolIdentity(type="UserAssigned", user_assigned_identities={USER + "2": models.UserAssignedIdentities()})
    manager.pool.update("tes", ACCOUNT, "spot", models.Pool(identity=other))
    found = client.get_pool("spot").identity
    assert found is not None
    assert [one.resource_id for one in found.user_assigned_identities or []] == [USER + "2"]


def test_what_is_refused(manager: BatchManagementClient) -> None:
    calls: tuple[tuple[Callable[[], object], str], ...] = (
        (lambda: manager.pool.get("tes", ACCOUNT, "none"), "PoolNotFound"),
        (lambda: manager.pool.get("tes", "other", "none"), "ResourceNotFound"),
        (lambda: manager.pool.create("tes", ACCOUNT, "spot", pool(vm_size="Standard_X1")), "InvalidPropertyValue"),
    )
    for call, code in calls:
        with pytest.raises(azure.core.exceptions.HttpResponseError) as caught:
            call()
        assert caught.value.error is not None
        assert caught.value.error.code == code
