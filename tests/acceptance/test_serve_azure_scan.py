"""Image scans through a whole server with an emulated Azure Batch account: scans are its tasks, and the second lock is the first step of a task's runner."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.acceptance import azure_site, scan_days
from tests.acceptance.scan_days import Place, ScanDays
from tests.integration.azure_lab import Lab

pytestmark = [pytest.mark.azure_batch, pytest.mark.docker, pytest.mark.azurite, pytest.mark.registry]


@pytest.fixture(scope="module")
def place(azure: Lab, docker_client: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with scan_days.on_batch(azure_site.serving, azure, tmp_path_factory.mktemp("scan"), docker_client) as made:
        yield made


class TestAzure(ScanDays):
    pass
