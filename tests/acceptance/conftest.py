"""Fixtures of whole servers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests import server_image
from tests.acceptance import azure_site
from tests.integration import aws_lab, azure_lab
from tests.integration.conftest import docker_client

__all__ = ["docker_client"]  # a fixture


@pytest.fixture(scope="module")
def aws(docker_client: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[aws_lab.Lab]:
    """An emulated AWS account. Nobody may have sent a request to it that AWS would not take."""
    with aws_lab.lab(tmp_path_factory.mktemp("host"), server_image.find()) as made:
        yield made
        assert made.emulator.endpoint.defects == []


@pytest.fixture(scope="module")
def azure(docker_client: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[azure_lab.Lab]:
    """An emulated Azure Batch account. Nobody may have sent a request to it that Azure would not take."""
    with azure_lab.lab(tmp_path_factory.mktemp("node"), server_image.find(), azure_site.WORLD, reaper=True, metadata="loopback") as made:
        yield made
        assert made.emulator.endpoint.defects == []
