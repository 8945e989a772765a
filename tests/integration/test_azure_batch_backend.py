"""The Azure Batch backend held to BackendContract through the emulator: the runner's real image, real Docker, data and spool on Blob storage."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tes_server.backends.azure_batch.driver import AzureBatchBackend
from tests import server_image
from tests.contract.backend_contract import BackendContract
from tests.integration import azure_lab
from tests.integration.azure_lab import Lab

pytestmark = [pytest.mark.azure_batch, pytest.mark.docker, pytest.mark.azurite]


@pytest.fixture(scope="module")
def lab(docker_client: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with azure_lab.lab(tmp_path_factory.mktemp("node"), server_image.find()) as made:
        made.pool("regular")
        made.pool("spot", spot=True)
        yield made


class TestAzureBatch(BackendContract):
    @pytest.fixture
    def image(self) -> str:
        return "tes-test/busybox"

    @pytest.fixture
    def make(self, lab: Lab, site: pathlib.Path) -> Callable[[], AzureBatchBackend]:
        made = lab.site(site)
        return lambda: lab.backend(made)
