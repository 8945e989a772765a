"""What differs between Docker and Podman, on what they really answered."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest

from tes_server.runner import docker_products

DOCKER_VERSION = {
    "Platform": {"Name": ""},
    "Components": [{"Name": "Engine"}, {"Name": "containerd"}],
    "Version": "20.10.24",
    "ApiVersion": "1.41",
    "Os": "linux",
    "Arch": "amd64",
}
PODMAN_VERSION = {
    "Platform": {"Name": "linux/amd64/debian-12"},
    "Components": [{"Name": "Podman Engine"}, {"Name": "Conmon"}],
    "Version": "4.3.1",
    "ApiVersion": "1.41",
    "Os": "linux",
    "Arch": "amd64",
}


def test_a_version_names_the_product_whatever_the_socket_is_called() -> None:
    assert docker_products.title(DOCKER_VERSION) == "Docker 20.10.24, API 1.41, linux/amd64"
    assert docker_products.title({**DOCKER_VERSION, "Platform": {"Name": "Docker Engine - Community"}}).startswith("Docker Engine - Community 20")
    assert docker_products.title(PODMAN_VERSION) == "Podman Engine 4.3.1, API 1.41, linux/amd64"


@pytest.mark.parametrize(
    ("info", "words"),
    [
        ({"SecurityOptions": ["name=seccomp,profile=default"], "MemoryLimit": True, "CpuCfsQuota": True, "PidsLimit": True}, ""),
        ({"SecurityOptions": ["name=seccomp", "name=rootless"], "MemoryLimit": True, "CgroupVersion": "2"}, ", rootless"),
        ({"SecurityOptions": ["name=seccomp"], "Rootless": True, "MemoryLimit": True, "CgroupVersion": "1"}, ", rootless, without limits of memory"),
        ({"SecurityOptions": None, "MemoryLimit": False}, ", without limits of memory"),
    ],
)
def test_a_mode_is_what_a_site_should_know(info: dict[str, Any], words: str) -> None:
    assert docker_products.mode(info) == words


@pytest.mark.parametrize(
    ("status", "words", "taken", "idle"),
    [
        (409, 'Conflict. The container name "/x" is already in use by container "6f". You have to remove (or rename) that container', True, True),
        (500, 'container create: creating container storage: the container name "x" is already in use by 85b5. You have to remove that', True, False),
        (500, "can only kill running containers. 85b5 is in state exited: container state improper", False, True),
        (500, "no space left on device", False, False),
        (None, "", False, False),
    ],
)
def test_states_that_come_as_errors(status: int | None, words: str, taken: bool, idle: bool) -> None:
    assert docker_products.name_taken(status, words) is taken
    assert docker_products.not_running(status, words) is idle


class TestPodmansSocket:
    def test_of_the_environment(self) -> None:
        assert docker_products.PODMAN.address({"CONTAINER_HOST": "unix:///x.sock"}, 1000) == {"base_url": "unix:///x.sock"}

    def test_of_the_user(self, tmp_path: pathlib.Path) -> None:
        own = tmp_path / "podman" / "podman.sock"
        own.parent.mkdir()
        own.touch()
        assert docker_products.PODMAN.address({"XDG_RUNTIME_DIR": str(tmp_path)}, 1000) == {"base_url": f"unix://{own}"}

    def test_where_it_would_be_if_there_is_none(self) -> None:
        assert docker_products.PODMAN.address({"XDG_RUNTIME_DIR": "/nowhere"}, 1000) == {"base_url": "unix:///nowhere/podman/podman.sock"}
        assert docker_products.PODMAN.address({}, 4711) == {"base_url": "unix:///run/user/4711/podman/podman.sock"}


def test_dockers_address_is_dockers_own() -> None:
    assert docker_products.DOCKER.address({"DOCKER_HOST": "tcp://127.0.0.1:1"}, 0)["base_url"] == "tcp://127.0.0.1:1"
    assert "base_url" not in docker_products.DOCKER.address({"HOME": "/"}, 0)
