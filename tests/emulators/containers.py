"""Docker, as the agent of a host uses it: the containers that a service runs there, and what those have started beside them."""

from __future__ import annotations

import contextlib
import json
import pathlib
import shutil
import threading
import time
from collections.abc import Mapping
from typing import Any

import docker
import docker.errors
import docker.utils

from tes_server.runner import node
from tests.emulators import leftovers

LOG = 5000
"""lines of a container's output that are kept"""
LONGEST = 7 * 86400
"""seconds that a container is waited for"""
MARKED = 2.0
"""seconds in which Docker's mark of a kill for memory comes"""
KILLED = 137


class Containers:
    """All hosts share this daemon, which nobody asks before something runs. Safe for threads. `kind`: `aws-batch`, `azure-batch`."""

    def __init__(self, kind: str, emulator: str) -> None:
        self._kind = kind
        self._label = label(kind)
        self._emulator = emulator
        self._lock = threading.Lock()
        self._connected: Any = None

    @property
    def _client(self) -> Any:
        with self._lock:
            if self._connected is None:
                self._connected = docker.APIClient(**docker.utils.kwargs_from_env(), version="auto", max_pool_size=256)
                self._remove_leftovers()
            return self._connected

    def prepare(self, image: str, login: Mapping[str, str] | None = None) -> None:
        """Pull the image if it is not there. docker.errors.APIError: it cannot be had."""
        try:
            self._client.inspect_image(image)
        except docker.errors.ImageNotFound:
            repository, tag = docker.utils.parse_repository_tag(image)
            self._client.pull(repository, tag or "latest", auth_config=login)

    def create(self, name: str, config: Mapping[str, Any]) -> str:
        """A container as Docker's API describes it, labelled; its id."""
        labels = {**config.get("Labels", {}), self._label: self._emulator}
        return str(self._client.create_container_from_config({**config, "Labels": labels}, name)["Id"])

    def start(self, name: str) -> None:
        self._client.start(name)

    def wait(self, name: str) -> int:
        """Its exit code."""
        return int(self._client.wait(name, timeout=LONGEST)["StatusCode"])

    def killed_for_memory(self, name: str) -> bool:
        """Of one that KILL has ended: Docker marks it late at times."""
        end = time.monotonic() + MARKED
        while not self._client.inspect_container(name)["State"]["OOMKilled"]:
            if time.monotonic() > end:
                return False
            time.sleep(0.1)
        return True

    def stop(self, name: str, seconds: float) -> None:
        """TERM, then KILL."""
        with contextlib.suppress(docker.errors.APIError):
            self._client.stop(name, timeout=max(0, round(seconds)))

    def kill(self, name: str, signal: str = "KILL") -> None:
        """Nothing happens to a container that has ended."""
        with contextlib.suppress(docker.errors.APIError):
            self._client.kill(name, signal)

    def log(self, name: str, *, stdout: bool = True, stderr: bool = True) -> bytes:
        with contextlib.suppress(docker.errors.APIError):
            return bytes(self._client.logs(name, stdout=stdout, stderr=stderr, tail=LOG))
        return b""

    def remove(self, name: str) -> None:
        with contextlib.suppress(docker.errors.APIError):
            self._client.remove_container(name, force=True, v=True)

    def clear(self, directory: pathlib.Path) -> None:
        """What is in this directory of a host, as if that host were gone: containers that have mounts from there, the directory itself."""
        while left := [found["Id"] for found in self._all() if _lies_in(found, directory)]:
            for container in left:
                self.remove(container)
        shutil.rmtree(directory, ignore_errors=True)

    def _all(self) -> list[Any]:
        """Nothing has run yet where nobody has asked Docker."""
        return [] if self._connected is None else list(self._connected.containers(all=True))

    def remove_all(self) -> None:
        """The containers of this emulator."""
        if self._connected is None:
            return
        for found in self._client.containers(all=True, filters={"label": f"{self._label}={self._emulator}"}):
            self.remove(found["Id"])

    def close(self) -> None:
        if self._connected is not None:
            self._connected.close()

    def _remove_leftovers(self) -> None:
        for found in self._connected.containers(all=True, filters={"label": self._label}):
            if not leftovers.alive(self._kind, found["Labels"][self._label]):
                self._remove_leftover(found["Id"])

    def _remove_leftover(self, container: str) -> None:
        with contextlib.suppress(docker.errors.APIError):
            self._connected.remove_container(container, force=True, v=True)


def label(kind: str) -> str:
    """Of every container that the service runs: the emulator's id."""
    return f"tes-emulator.{kind}"


def attempt_directory(environment: Mapping[str, str]) -> pathlib.Path | None:
    """Where a runner of this server with this environment keeps its attempt; None if it runs something else."""
    if node.SITE not in environment or node.ATTEMPT not in environment:
        return None
    work = pathlib.Path(json.loads(environment[node.SITE]).get("work", node.WORK))
    return work.joinpath("attempts", environment[node.ATTEMPT].replace("/", "-"))


def _lies_in(container: Mapping[str, Any], directory: pathlib.Path) -> bool:
    return any(pathlib.Path(mount.get("Source", "/")).is_relative_to(directory) for mount in container.get("Mounts", []))
