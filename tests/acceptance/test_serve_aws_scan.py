"""Image scans through a whole server with an emulated AWS account: scans are jobs, and the second lock is the first step of a task's runner."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.acceptance import aws_site, scan_days
from tests.acceptance.scan_days import Place, ScanDays
from tests.integration.aws_lab import Lab

pytestmark = [pytest.mark.aws_batch, pytest.mark.docker, pytest.mark.s3, pytest.mark.registry]


@pytest.fixture(scope="module")
def place(aws: Lab, docker_client: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with scan_days.on_batch(aws_site.serving, aws, tmp_path_factory.mktemp("scan"), docker_client) as made:
        yield made


class TestAws(ScanDays):
    pass
