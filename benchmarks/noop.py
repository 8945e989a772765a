"""Tasks that do nothing, through a whole server and straight through Docker: what `docker`, `sandbox`, `aws_batch` and `azure_batch` compare."""

from __future__ import annotations

import concurrent.futures
import pathlib
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.server import Server, no_op

AT_ONCE = 8

IMAGE = "tes-test/busybox:latest"


def through(server: Server, image: str, count: int) -> float:
    """Tasks a second from the first create to the last COMPLETE, seen by a client; at most `AT_ONCE` run at a time (the server's cores)."""
    begin = time.perf_counter()
    ids = [server.create(no_op(image)) for _ in range(count)]
    server.wait(ids, {"COMPLETE"})
    return count / (time.perf_counter() - begin)


class BareDocker:
    """create + start + wait + remove by the daemon's own API, `AT_ONCE` at a time, with the network that the server gives its tasks."""

    def __init__(self, image: str, network: str, entrypoint: Sequence[str] | None = None) -> None:
        """`entrypoint` in place of the image's own, for one that would not run `true`."""
        import docker

        self._image = image
        self._entrypoint = entrypoint
        self._network = network
        self._clients = [docker.APIClient(timeout=120) for _ in range(AT_ONCE)]

    def rate(self, count: int) -> float:
        """Containers a second."""
        begin = time.perf_counter()
        with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(self._some, self._clients, [len(range(number, count, AT_ONCE)) for number in range(AT_ONCE)]))
        return count / (time.perf_counter() - begin)

    def _some(self, client: Any, count: int) -> None:
        for _ in range(count):
            host = client.create_host_config(network_mode=self._network)
            made = client.create_container(self._image, ["true"], entrypoint=self._entrypoint, host_config=host)["Id"]
            client.start(made)
            if ended := client.wait(made)["StatusCode"]:
                raise SystemExit(f"`true` ended with {ended}")
            client.remove_container(made)

    def save(self, image: str, archive: pathlib.Path) -> None:
        """An image of the daemon as a file."""
        with archive.open("wb") as file:
            file.writelines(self._clients[0].get_image(image))

    def close(self) -> None:
        """Give the connections back."""
        for client in self._clients:
            client.close()
