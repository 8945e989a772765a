"""The connection to a Docker (or Podman) daemon, and its failures in our words.

No exception of the SDK, of requests or of urllib3 passes `translated`; what the daemon said is kept. This module must
never know what is asked of the daemon.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import Any

import docker
import docker.constants
import docker.errors
import requests
import urllib3

from tes_server import errors
from tes_server.runner import docker_products
from tes_server.runner.docker_products import Product
from tes_server.telemetry import Code

TIMEOUT = 120.0
"""Seconds for a call that should answer at once: a daemon that starts hundreds of containers is slow, but not dead."""

POOLS = 100
"""Connections kept open. The SDK keeps one for each URL and closes the oldest, which must not be one just being picked up."""


class Daemon:
    """One daemon, connected to when first asked. Thread-safe.

    `url` as in the settings: "" means where the environment says, or the product's usual socket.
    """

    def __init__(self, url: str, product: Product = docker_products.DOCKER, timeout: float = TIMEOUT) -> None:
        self.url = url
        self.product = product
        self._timeout = timeout
        self._lock = threading.Lock()
        self._client: Any = None

    @property
    def socket(self) -> str:
        """The path of its socket on this machine; "" where it is asked by another way."""
        url = self.url or str(self.product.address(os.environ, os.geteuid()).get("base_url") or docker.constants.DEFAULT_UNIX_SOCKET)
        kind, _, path = url.partition("://")
        return "/" + path.lstrip("/") if kind.endswith("unix") else ""

    @contextlib.contextmanager
    def ask(self, what: str) -> Iterator[Any]:
        """The SDK's low-level client (`docker.APIClient`); failures inside are EngineErrors that begin with `what`.

        `docker.errors.NotFound` alone passes: that something is not there is an answer.
        """
        with translated(what, self.product):
            yield self._connected()

    def _connected(self) -> Any:
        with self._lock:
            if self._client is None:
                address = {"base_url": self.url} if self.url else self.product.address(os.environ, os.geteuid())
                self._client = docker.APIClient(**address, version="auto", timeout=self._timeout, num_pools=POOLS)
            return self._client

    def close(self) -> None:
        """Close idle connections. The daemon may be asked again afterwards."""
        with self._lock:
            if self._client is not None:
                self._client.close()
                self._client = None


@contextlib.contextmanager
def translated(what: str, product: Product = docker_products.DOCKER) -> Iterator[None]:
    """Failures of the daemon, or on the way to it, as `errors.EngineError`; NotFound passes."""
    try:
        yield
    except docker.errors.NotFound:
        raise
    except docker.errors.APIError as error:
        # 4xx: the daemon will say the same again. 409 is a state that passes (a removal in progress).
        transient = error.status_code is None or error.status_code >= 500 or error.status_code == 409
        raise errors.EngineError(f"{what}: {words(error)}", Code.ENGINE_ERROR, transient) from error
    except (docker.errors.DockerException, requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
        raise errors.EngineError(_unreachable(error, product), Code.ENGINE_UNAVAILABLE, transient=True) from error


def words(error: Any) -> str:
    """What the daemon said (of an APIError), in one line."""
    return " ".join(str(error.explanation or error).split())


def _unreachable(error: BaseException, product: Product) -> str:
    """Why the daemon does not answer, and what to do about it."""
    causes = list(_causes(error))
    if any(isinstance(cause, PermissionError) for cause in causes):
        return product.denied
    if any(isinstance(cause, FileNotFoundError | ConnectionRefusedError) for cause in causes):
        return product.absent
    return f"{product.name} does not answer: {' '.join(str(error).split())}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The exception and all that it was made from: `raise ... from`, contexts, and arguments (as requests and urllib3 wrap)."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        waiting += [one.__cause__, one.__context__, *(argument for argument in one.args if isinstance(argument, BaseException))]
