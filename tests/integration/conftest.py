"""Real services: where one cannot be reached, its tests are skipped; with REQUIRE_SERVICES set (.ci/run sets it) they fail."""

from __future__ import annotations

import gc
import os
import pathlib
import shutil
import socket
import warnings
from collections.abc import Iterator
from typing import Any, NoReturn

import docker
import docker.errors
import docker.utils
import pytest

from tes_server.runner import docker_products
from tes_server.runner.images import Images, Options
from tests.integration import podman_service, sandbox_images
from tests.integration.daemons import Daemon

IMAGES = ("tes-test/busybox", "tes-test/static")


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
    for image in IMAGES:
        try:
            client.inspect_image(image)
        except docker.errors.ImageNotFound as error:
            unreachable(f"Docker's image {image}", error)
    yield client
    client.close()


@pytest.fixture(scope="session")
def docker_daemon(docker_client: Any) -> Daemon:
    """The machine's own Docker."""
    return Daemon(docker_products.DOCKER, "", pathlib.Path("/var/run/docker.sock"), docker_client)


@pytest.fixture(scope="session")
def image_archives(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[pathlib.Path]:
    """The test images as files: from the directory TEST_IMAGES (for users who may not ask Docker), or from Docker."""
    names = {image: image.replace("/", "-") + ".tar" for image in IMAGES}
    if os.environ.get("TEST_IMAGES"):
        return [pathlib.Path(os.environ["TEST_IMAGES"]) / name for name in names.values()]
    client = request.getfixturevalue("docker_client")
    directory = tmp_path_factory.mktemp("images")
    for image, name in names.items():
        with (directory / name).open("wb") as file:
            file.writelines(client.get_image(image))
    return [directory / name for name in names.values()]


@pytest.fixture(scope="session")
def registry_port() -> int:
    """Free when the tests began. Podman must be told before which registry has no TLS."""
    with socket.create_server(("localhost", 0)) as found:
        return int(found.getsockname()[1])


@pytest.fixture(scope="session")
def podman_daemon(image_archives: list[pathlib.Path], registry_port: int) -> Iterator[Daemon]:
    """A Podman service of the tests' own, rootless unless root runs them."""
    if shutil.which("podman") is None:
        unreachable("Podman", "there is no program podman")
    with podman_service.running(image_archives, f"localhost:{registry_port}") as service:
        client = docker.APIClient(base_url=service.url, version="auto")
        try:
            yield Daemon(docker_products.PODMAN, service.url, service.socket, client)
        finally:
            client.close()


@pytest.fixture(
    scope="session",
    params=[pytest.param("docker_daemon", id="docker", marks=pytest.mark.docker), pytest.param("podman_daemon", id="podman", marks=pytest.mark.podman)],
)
def daemon(request: pytest.FixtureRequest) -> Daemon:
    """Each daemon that the Docker engine is for."""
    found: Daemon = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="session")
def cached_images(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A directory of images with `sandbox_images.NAME`, unpacked once for all tests."""
    why = sandbox_images.usable()
    if why:
        unreachable("a busybox image", why)
    cache = tmp_path_factory.mktemp("images")
    images = Images(cache, Options(), ids=sandbox_images.IDS)
    sandbox_images.load(images, sandbox_images.NAME, sandbox_images.usual(), Env=sandbox_images.ENV)
    return cache
