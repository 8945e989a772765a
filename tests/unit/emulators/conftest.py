"""An emulator whose jobs never start, so that Docker is not needed, and boto3 clients of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.emulators.aws_batch.emulator import Emulator
from tests.emulators.aws_batch.world import World

Define = Callable[..., str]


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    with Emulator(World(secrets={"db": '{"password": "x"}'}, submits=1000.0), metadata="loopback") as emulator:
        for queue in emulator.world.queues:
            emulator.bad_days.hold(queue.name, "MISCONFIGURATION:SERVICE_ROLE_PERMISSIONS - held")
        yield emulator
        assert emulator.endpoint.defects == []


@pytest.fixture
def batch(emulator: Emulator) -> Iterator[Any]:
    with contextlib.closing(emulator.client("batch")) as client:
        yield client


@pytest.fixture
def sqs(emulator: Emulator) -> Iterator[Any]:
    with contextlib.closing(emulator.client("sqs")) as client:
        yield client


@pytest.fixture
def define(batch: Any) -> Define:
    """Registers a job definition of one container; its ARN."""

    def define(name: str = "runner", container: dict[str, Any] | None = None, **given: Any) -> str:
        needs = [{"type": "VCPU", "value": "1"}, {"type": "MEMORY", "value": "64"}]
        properties = {"image": "tes-test/busybox", "command": ["true"], "resourceRequirements": needs, **(container or {})}
        return str(
            batch.register_job_definition(**{"jobDefinitionName": name, "type": "container", "containerProperties": properties, **given})["jobDefinitionArn"]
        )

    return define
