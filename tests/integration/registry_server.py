"""Debian's docker-registry on a free port of loopback, with sign-in or without."""

from __future__ import annotations

import contextlib
import json
import pathlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator

import urllib3

from tests.integration import token_server
from tests.integration.conftest import unreachable
from tests.integration.token_server import TokenServer

USER, PASSWORD = "reader", "pass:word"
HTPASSWD = "reader:$2y$05$f2UCdeH32AZdgOHIR/kIFOL986DUIQ53ufbVKF3xVGtCqlCD4n5Ji"


@contextlib.contextmanager
def running(directory: pathlib.Path, *, htpasswd: str = "", tokens: TokenServer | None = None) -> Iterator[str]:
    """host:port of a registry that keeps its contents in `directory`.

    Who may use it: those of `htpasswd` (a line of such a file), those with a token of `tokens`, or anybody.
    """
    program = shutil.which("docker-registry")
    if program is None:
        unreachable("docker-registry", "it is not installed (Debian's package of that name)")
    with socket.create_server(("127.0.0.1", 0)) as free:
        host = f"127.0.0.1:{free.getsockname()[1]}"
    config: dict[str, object] = {
        "version": "0.1",
        "log": {"level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(directory / "contents")}},
        "http": {"addr": host},
    }
    if htpasswd:
        (directory / "htpasswd").write_text(f"{htpasswd}\n")
        config["auth"] = {"htpasswd": {"realm": "test", "path": str(directory / "htpasswd")}}
    if tokens is not None:
        facts = {"realm": tokens.url, "service": token_server.SERVICE, "issuer": token_server.ISSUER, "rootcertbundle": str(tokens.certificate)}
        config["auth"] = {"token": facts}
    (directory / "config.yml").write_text(json.dumps(config))  # YAML takes JSON
    with (directory / "log").open("wb") as log:
        server = subprocess.Popen([program, "serve", str(directory / "config.yml")], stdout=log, stderr=log)
    try:
        _await(host, server)
        yield host
    finally:
        server.terminate()
        server.wait()


def _await(host: str, server: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 30
    with urllib3.PoolManager() as pools:
        while True:
            try:
                pools.request("GET", f"http://{host}/v2/", retries=False, timeout=5)
            except urllib3.exceptions.HTTPError as cause:
                if server.poll() is not None or time.monotonic() > until:
                    unreachable("docker-registry", cause)
                time.sleep(0.05)
            else:
                return
