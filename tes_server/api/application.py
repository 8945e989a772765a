"""Puts the HTTP side together: one ASGI application for any service.

    Problems > Guard > lifespan > Contract > probes, documentation, pages

Must never open a store or start a process: `app` does, and gives the service.
"""

from __future__ import annotations

import contextlib
import functools
import pathlib
from collections.abc import AsyncIterator, Callable, Sequence

import connexion
import msgspec
from connexion.middleware.lifespan import LifespanMiddleware
from connexion.resolver import Resolver
from starlette.types import ASGIApp

from tes_server import settings
from tes_server.api import auth, contract, handlers, problems, query, routes, site
from tes_server.api.ui import pages
from tes_server.control.service import Service

BASE_PATHS = ("/ga4gh/tes/v1", "/v1")
"""Where clients look for TES (clients.md row 1). Anything else must be a plain 404: clients try one base after the other."""

FILE = "tes-server.openapi.yaml"


def description_file() -> pathlib.Path:
    """The OpenAPI file: beside this module in a wheel, in `openapi/` in a checkout."""
    here = pathlib.Path(__file__)
    installed = here.with_name(FILE)
    return installed if installed.exists() else here.parents[2] / "openapi" / FILE


def build(service: Service, config: settings.Settings, closing: Sequence[Callable[[], None]] = ()) -> ASGIApp:
    """The ASGI application. `closing` are called in order when it shuts down, after the last answer."""
    ui = pages.Pages(service)

    @contextlib.asynccontextmanager
    async def lifespan(_app: object) -> AsyncIterator[None]:
        yield
        for close in (ui.close, *closing):
            close()

    document = connexion.spec.Specification.load(description_file()).raw
    beside = routes.Routes(
        [*site.probes(service), *site.service_info(service), *site.documentation(msgspec.json.encode(document)), *ui.routes()],
    )
    operations = functools.partial(
        contract.Contract,
        first=site.legacy_service_info(service, BASE_PATHS),
        bodies=handlers.BODIES,
        body_limit=config.server.body_limit,
    )
    guard = functools.partial(auth.Guard, rules=auth.Rules.of(config.auth))
    app = connexion.ConnexionMiddleware(
        beside,
        middlewares=[problems.Problems, guard, LifespanMiddleware, operations],
        lifespan=lifespan,
        resolver=Resolver(handlers.Handlers(service).find),
        uri_parser_class=query.URIParser,
    )
    for base in BASE_PATHS:
        app.add_api(document, base_path=base)
    # connexion would put the stack together at the first message; a fault in the file has to show before the port opens.
    app.app, app.middleware_stack = app._build_middleware_stack()  # noqa: SLF001
    return app  # type: ignore[no-any-return]  # connexion is not typed
