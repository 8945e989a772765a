"""The API on a real socket, over a service on dicts."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import uvicorn

from tes_server import settings
from tes_server.api import application
from tes_server.api.crowd import Bounds
from tes_server.api.porter import Porter
from tes_server.settings_auth import AuthSettings
from tes_server.settings_server import ServerSettings
from tests.unit.api.service import MemoryService

BODY_LIMIT = 1_000_000

PORTER: Any = Porter(Bounds())


@contextlib.contextmanager
def running(auth: AuthSettings | None = None, owner: str = "anonymous") -> Iterator[tuple[str, int]]:
    """Serve in a thread. Requests may come at once: the socket listens before the thread starts. `owner` is who creates tasks."""
    service = MemoryService()
    service.owner = owner
    app = application.build(service, settings.Settings(server=ServerSettings(body_limit=BODY_LIMIT), auth=auth or AuthSettings()))
    server = uvicorn.Server(uvicorn.Config(app, http=PORTER, lifespan="on", log_config=None, access_log=False))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield listener.getsockname()
        server.should_exit = True
        thread.join()
