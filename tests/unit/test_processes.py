"""The parent of a server's processes."""

from __future__ import annotations

import socket
import subprocess
import sys
from typing import Any

import anyio
import gunicorn.config
import pytest
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from tes_server import workers
from tes_server.settings import Settings
from tes_server.settings_server import ServerSettings

PROGRAM = """
import os
from tes_server import processes

def ended():
    pid = os.fork()
    if not pid:
        os._exit(3)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return pid

children = {ended(): "api", os.getppid(): "reconciler"}
ended()
print(processes._reaped(children), list(children.values()), processes._reaped(children))
try:
    os.waitpid(-1, 0)
except ChildProcessError:
    print("none is left")
"""


def test_an_orphan_that_process_1_inherits_does_not_stay_a_zombie() -> None:
    """In a container without an init `serve` is process 1: a supervisor whose reconciler was killed ends as its child."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "['api'] ['reconciler'] []\nnone is left\n"


@pytest.mark.parametrize(
    ("trusted", "peer", "seen"),
    [
        ((), "127.0.0.1", "127.0.0.1"),
        ((), "::1", "::1"),
        (("10.0.0.0/8",), "10.1.1.1", "192.0.2.7"),
        (("10.0.0.0/8",), "127.0.0.1", "127.0.0.1"),
        (("127.0.0.1", "::1"), "::1", "192.0.2.7"),
    ],
)
def test_only_proxies_of_the_settings_say_who_their_client_is(monkeypatch: pytest.MonkeyPatch, trusted: tuple[str, ...], peer: str, seen: str) -> None:
    """What gunicorn makes of our option is what its worker hands to uvicorn."""
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")
    with socket.socket() as listener:
        options = workers.options(Settings(server=ServerSettings(trusted_proxies=trusted)), listener, print, 15.0)
    known = gunicorn.config.Config()
    known.set("forwarded_allow_ips", options["forwarded_allow_ips"])
    addresses: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        addresses.append(scope["client"][0])

    scope: Any = {"type": "http", "client": (peer, 1), "headers": [(b"x-forwarded-for", b"203.0.113.9, 192.0.2.7")]}
    layer: Any = ProxyHeadersMiddleware(app, known.forwarded_allow_ips)
    anyio.run(layer, scope, None, None)
    assert addresses == [seen]
