"""Puts the HTTP side together: one ASGI application for any service.

    (CORS >) Problems > Guard > lifespan > Contract > probes, documentation, pages

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
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from tes_server import settings
from tes_server.api import auth, contract, handlers, problems, query, routes, site
from tes_server.api.methods import Method
from tes_server.api.sign_in import SignIn
from tes_server.api.ui import pages
from tes_server.control.audit import Audit
from tes_server.control.service import Service
from tes_server.settings_auth import AuthSettings

BASE_PATHS = ("/ga4gh/tes/v1", "/v1")
"""Where clients look for TES (clients.md row 1). Anything else must be a plain 404: clients try one base after the other."""

PUBLIC_PATHS = frozenset(
    {
        "/service-info",
        *(f"{base}{path}" for base in BASE_PATHS for path in ("/service-info", "/tasks/service-info")),
        *("/openapi.json", "/docs", *(f"/docs/{file.name}" for file in site.DOCS_FILES)),
    }
)
"""Answered without sign-in, too: clients look at service-info before they sign in, and find by it where the API begins."""

FILE = "tes-server.openapi.yaml"


def description_file() -> pathlib.Path:
    """The OpenAPI file: beside this module in a wheel, in `openapi/` in a checkout."""
    here = pathlib.Path(__file__)
    installed = here.with_name(FILE)
    return installed if installed.exists() else here.parents[2] / "openapi" / FILE


def sign_in(config: AuthSettings, audit: Audit | None = None) -> SignIn | None:
    """The ways to sign in that the settings name; None if there are none."""
    methods: list[Method] = []
    if "basic" in config.modes:
        from tes_server.api.passwords import Passwords

        methods.append(Passwords(pathlib.Path(config.users_file)))
    if "oidc" in config.modes:
        from tes_server.api.tokens import Tokens

        methods.append(Tokens(config.issuers))
    return SignIn(methods, audit) if methods else None


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
    guard = functools.partial(
        auth.Guard,
        rules=auth.Rules.of(config.auth, config.server.cors_origins),
        sign_in=sign_in(config.auth, service.audit),
        public=PUBLIC_PATHS,
        open_metrics=config.auth.open_metrics,
        addresses=service.audit is not None,
    )
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
    return _with_cors(app, config.server.cors_origins) if config.server.cors_origins else app


def _with_cors(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """Pages of `origins` may read answers. Never `allow_credentials`: what a browser remembers is for the server's own pages."""
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=("GET", "POST"),
        allow_headers=("Authorization", "Content-Type", "Idempotency-Key"),
        expose_headers=("Retry-After", "WWW-Authenticate"),
    )
