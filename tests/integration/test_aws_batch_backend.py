"""The AWS Batch backend held to BackendContract through the emulator: the runner's real image, real Docker, data and spool on S3."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tes_server.backends.aws_batch.driver import AwsBatchBackend
from tests import server_image
from tests.contract.backend_contract import BackendContract
from tests.integration import aws_lab
from tests.integration.aws_lab import Lab

pytestmark = [pytest.mark.aws_batch, pytest.mark.docker, pytest.mark.s3]


@pytest.fixture(scope="module")
def lab(docker_client: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with aws_lab.lab(tmp_path_factory.mktemp("host"), server_image.find()) as made:
        yield made


class TestAwsBatch(BackendContract):
    @pytest.fixture
    def image(self) -> str:
        return "tes-test/busybox"

    @pytest.fixture
    def make(self, lab: Lab, site: pathlib.Path) -> Callable[[], AwsBatchBackend]:
        made = lab.site(site)
        return lambda: lab.backend(made)
