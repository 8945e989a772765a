"""An emulator whose tasks only pretend to run, so that Docker is not needed, and clients of the SDK."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import azure.core.exceptions
import pytest
from azure.batch import BatchClient, models

from tests.emulators.azure_batch.emulator import Emulator
from tests.emulators.azure_batch.world import World

WORLD = World(boot=0.0, restore=0.0, second=0.01, dedicated_cores=16, low_priority_cores=16, active_jobs=3, pools=3)
Refusal = Callable[..., tuple[str, int]]


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    with Emulator(WORLD, metadata="loopback", pretend=True) as emulator:
        yield emulator
        assert emulator.endpoint.defects == []


@pytest.fixture
def client(emulator: Emulator) -> Iterator[BatchClient]:
    with emulator.client() as client:
        yield client


@pytest.fixture
def busy(emulator: Emulator, client: BatchClient) -> str:
    """The id of a job on a pool of two Spot nodes with four slots each."""
    client.create_pool(pool(target_low_priority_nodes=2))
    client.create_job(job())
    emulator.wait_nodes("spot", 2, "idle")
    return "job"


def pool(name: str = "spot", **given: Any) -> models.BatchPoolCreateOptions:
    image = models.BatchVmImageReference(publisher="microsoft-dsvm", offer="ubuntu-hpc", sku="2204", version="latest")
    machine = models.VirtualMachineConfiguration(
        image_reference=image,
        node_agent_sku_id="batch.node.ubuntu 22.04",
        container_configuration=models.BatchContainerConfiguration(type="dockerCompatible"),
    )
    targets = {} if given.get("enable_auto_scale") or "target_low_priority_nodes" in given else {"target_dedicated_nodes": 0}
    usual = {"id": name, "vm_size": "Standard_D4s_v3", "task_slots_per_node": 4, "virtual_machine_configuration": machine}
    return models.BatchPoolCreateOptions(**{**usual, **targets, **given})


def job(name: str = "job", on: str = "spot", **given: Any) -> models.BatchJobCreateOptions:
    return models.BatchJobCreateOptions(**{"id": name, "pool_info": models.BatchPoolInfo(pool_id=on), **given})


def task(name: str, **given: Any) -> models.BatchTaskCreateOptions:
    settings = models.BatchTaskContainerSettings(image_name="tes-test/busybox")
    return models.BatchTaskCreateOptions(**{"id": name, "command_line": "true", "container_settings": settings, **given})


def group(*names: str, **given: Any) -> models.BatchTaskGroup:
    return models.BatchTaskGroup(task_values=[task(name, **given) for name in names])


def refusal(call: Callable[..., Any], *given: Any, **more: Any) -> tuple[str, int]:
    """Code and HTTP status of the error that a call ends with."""
    with pytest.raises(azure.core.exceptions.HttpResponseError) as caught:
        call(*given, **more)
    assert caught.value.error is not None
    return str(caught.value.error.code), int(caught.value.status_code or 0)


@contextlib.contextmanager
def quick(emulator: Emulator, **options: Any) -> Iterator[BatchClient]:
    """A client that tries again at once."""
    with emulator.client(retry_total=3, retry_backoff_factor=0, **options) as client:
        yield client
