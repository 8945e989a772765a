"""The API's processes: gunicorn as their supervisor, uvicorn in each of them, our own door before it.

Must never build the application: whoever calls gives it.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from typing import Any

import uvicorn_worker
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter

from tes_server import metrics_files, server_rules
from tes_server.api.porter import Porter, Server
from tes_server.settings import Settings


def run(settings: Settings, listener: socket.socket, load: Callable[[], Any], *, forked: Callable[[int], None], patience: float) -> None:
    """Serve what `load` makes, in each worker anew, until TERM or INT.

    `forked` is called in each with its supervisor's pid; `patience` is in seconds, for all of them to end.
    """

    class Application(BaseApplication):  # type: ignore[misc]
        def load_config(self) -> None:
            for key, value in options(settings, listener, forked, patience).items():
                if key in self.cfg.settings:  # control_socket_disable is new in gunicorn 26
                    self.cfg.set(key, value)

        def load(self) -> Any:
            return load()

    os.environ.pop("GUNICORN_CMD_ARGS", None)
    server_rules.allow_files(settings.server)
    Application().run()


def worker(settings: Settings) -> type:
    """The class of workers for these settings."""
    tls = settings.server.tls

    class Worker(uvicorn_worker.UvicornWorker):  # type: ignore[misc]
        CONFIG_KWARGS = {  # noqa: RUF012 - as uvicorn's
            "loop": "auto",
            "ws": "none",
            "lifespan": "on",
            "server_header": False,
            "headers": [("strict-transport-security", f"max-age={tls.hsts}")] if tls.certificate and tls.hsts else [],
        }

        async def _serve(self) -> None:
            # The porter is made here and not where workers are: files may have been renewed since the server started.
            porter = Porter(server_rules.bounds(settings.server), server_rules.certificate(settings.server))
            self.config.app, self.config.http = self.wsgi, porter
            server = Server(self.config, porter)
            self._install_sigquit_handler()
            await server.serve(sockets=self.sockets)
            if not server.started:
                sys.exit(Arbiter.WORKER_BOOT_ERROR)

    return Worker


def options(settings: Settings, listener: socket.socket, forked: Callable[[int], None], patience: float) -> dict[str, Any]:
    """See https://docs.gunicorn.org/en/stable/settings.html."""
    return {
        "bind": f"fd://{listener.fileno()}",
        "workers": settings.server.workers,
        "worker_class": worker(settings),
        "timeout": int(settings.server.timeout),
        "graceful_timeout": int(patience / 2),
        # Not the defaults, this machine or what FORWARDED_ALLOW_IPS says: everybody here could write any address into the audit log.
        "forwarded_allow_ips": ",".join(settings.server.trusted_proxies),
        "control_socket_disable": True,
        "post_fork": lambda server, worker: forked(server.pid),  # noqa: ARG005
        "child_exit": lambda server, worker: metrics_files.forget(worker.pid),  # noqa: ARG005
        "logconfig_dict": {
            "version": 1,
            "disable_existing_loggers": False,
            "root": {"level": settings.log.level.upper(), "handlers": ["lines"]},
            "loggers": {
                "gunicorn.error": {"level": "WARNING", "handlers": [], "propagate": True, "qualname": "gunicorn.error"},
                "gunicorn.access": {"level": "WARNING", "handlers": [], "propagate": True, "qualname": "gunicorn.access"},
            },
            "handlers": {"lines": {"class": "logging.StreamHandler", "formatter": "lines", "stream": "ext://sys.stderr"}},
            "formatters": {"lines": {"()": "tes_server.telemetry.JsonLines"}},
        },
    }
