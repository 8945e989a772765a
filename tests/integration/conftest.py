"""Real services: where one cannot be reached, its tests are skipped at home and fail in CI."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, NoReturn

import docker
import docker.errors
import docker.utils
import pytest


def unreachable(service: str, why: object) -> NoReturn:
    """Skip, or fail where the environment has CI set: a suite that skips everything must not look green there."""
    message = f"{service} cannot be reached: {why}"
    if os.environ.get("CI"):
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


@pytest.fixture(scope="session")
def docker_client() -> Iterator[Any]:
    """A Docker daemon that has the small test images, for what tests do behind the engine's back."""
    try:
        client = docker.APIClient(**docker.utils.kwargs_from_env(), version="auto")
    except docker.errors.DockerException as why:
        unreachable("Docker", why)
    for image in ("tes-test/busybox", "tes-test/static"):
        try:
            client.inspect_image(image)
        except docker.errors.ImageNotFound as why:
            unreachable(f"Docker's image {image}", why)
    yield client
    client.close()
