"""A daemon that the Docker engine works with, as the tests see it."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from tes_server.runner import docker_products
from tes_server.runner.docker import DockerEngine
from tes_server.runner.docker_products import Product


class Daemon(NamedTuple):
    """`client` is for what tests do behind the engine's back."""

    product: Product
    url: str
    socket: pathlib.Path
    client: Any

    @contextlib.contextmanager
    def engine(self, data: str, url: str = "", **options: Any) -> Iterator[DockerEngine]:
        """An engine, closed afterwards."""
        engine = DockerEngine(url or self.url, data, product=self.product, **options)
        try:
            yield engine
        finally:
            engine.close()

    @property
    def limits(self) -> bool:
        """Whether it limits memory."""
        return docker_products.limits_memory(self.client.info())
