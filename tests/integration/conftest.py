"""Real services: where one cannot be reached, its tests are skipped; with REQUIRE_SERVICES set (.ci/run sets it) they fail."""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Iterator
from typing import Any, NoReturn

import docker
import docker.errors
import docker.utils
import pytest


def unreachable(service: str, why: object) -> NoReturn:
    """Skip, or fail where services are required: a suite that skips everything must not look green in CI."""
    message = f"{service} cannot be reached: {why}"
    if os.environ.get("REQUIRE_SERVICES"):
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


@pytest.fixture(scope="session")
def docker_client() -> Iterator[Any]:
    """A Docker daemon that has the small test images, for what tests do behind the engine's back."""
    why = ""
    with warnings.catch_warnings():
        # A socket that cannot connect is left to the garbage collector by the SDK.
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            client = docker.APIClient(**docker.utils.kwargs_from_env(), version="auto")
        except docker.errors.DockerException as error:
            why = str(error)
        gc.collect()
    if why:
        unreachable("Docker", why)
    for image in ("tes-test/busybox", "tes-test/static"):
        try:
            client.inspect_image(image)
        except docker.errors.ImageNotFound as error:
            unreachable(f"Docker's image {image}", error)
    yield client
    client.close()
