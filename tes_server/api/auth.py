"""Who asks. Without sign-in: anybody who can prove not to be a web page of somebody else's.

A server on loopback is reached by every page that the user's browser shows: by a request to another site (CSRF), or
by a name whose address its owner turned to 127.0.0.1 (DNS rebinding). Both carry what browsers do not let pages
forge: Host, Origin and Sec-Fetch-Site. Without sign-in an Authorization header is ignored (clients.md row 18). With it
requests of other sites are refused all the same, for browsers send a password that they remember with those, too; a name
that was turned to another address they send none. Must never trust a forwarding header: nobody says that a proxy set it.
"""

from __future__ import annotations

import functools
import ipaddress
import urllib.parse
from collections.abc import Iterable

import msgspec
from starlette.types import ASGIApp, Receive, Scope, Send

from tes_server import errors
from tes_server.api.sign_in import SignIn
from tes_server.model.principal import ALL, ANONYMOUS, GUEST, Principal
from tes_server.settings_auth import AuthSettings

OPEN_PATHS = frozenset({"/healthz", "/readyz", "/metrics"})
"""Probes come from kubelets and scrapers, which name the server by its address; they start nothing and tell nothing of a task."""

METRICS = "/metrics"

DEFAULT_PORTS = {"http": 80, "https": 443}

_Authority = tuple[str, int | None]


class Rules(msgspec.Struct, frozen=True):
    """What a request must show beside its sign-in, if there is one.

    `hosts` are names, lower case, without port. `open` says that the server may listen beyond loopback: then any
    address literal is good as Host, for an address cannot be rebound (a page under http://192.0.2.1 was served by
    192.0.2.1). Names still have to be listed. Which address the connection came to would say nothing: behind a
    published container port it is never the one that the client used.
    """

    hosts: frozenset[str] = frozenset()
    open: bool = False
    any_host: bool = False
    """With sign-in: whoever turned a name to this server has no credentials that browsers send to that name."""
    origins: frozenset[str] = frozenset()
    """Other sites whose pages may ask (CORS)."""

    @classmethod
    def of(cls, auth: AuthSettings, origins: Iterable[str] = ()) -> Rules:
        """The rules that the settings ask for."""
        return cls(hosts=frozenset(host.lower() for host in auth.hosts), open=auth.allow_open, any_host=bool(auth.modes), origins=frozenset(origins))


def refusal(rules: Rules, host: str | None, origin: str | None, fetch_site: str | None) -> str | None:
    """Why a request with these headers is not served, or None if it is. Pure.

    `host` is None where there is no Host header, or more than one: no browser sends such, but neither can it be judged.
    """
    here = _authority(host) if host is not None else None
    if here is None:
        return "the request needs one Host header that names this server"
    if not _is_ours(rules, here[0]):
        return f"this server is not known as {here[0]}; whoever runs it can add the name to auth.hosts"
    if origin is not None and origin in rules.origins:
        return None
    if fetch_site not in (None, "none", "same-origin"):
        return "requests from other sites are not served (Sec-Fetch-Site)"
    if origin is not None and not _is_same(origin, here):
        return "requests from other sites are not served (Origin)"
    return None


def _authority(text: str) -> _Authority | None:
    """Host, lower case, and port of a Host header; None if it is none."""
    try:
        parts = urllib.parse.urlsplit(f"//{text}")
        if parts.hostname is None or parts.netloc != text or "@" in text:
            return None
        return parts.hostname, parts.port
    except ValueError:
        return None


def _is_ours(rules: Rules, name: str) -> bool:
    if rules.any_host or name == "localhost" or name in rules.hosts:
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return rules.open or address.is_loopback


def _is_same(origin: str, here: _Authority) -> bool:
    """Is `origin` the page's own server? The scheme may differ: a proxy in front may speak TLS for us."""
    scheme, separator, rest = origin.partition("://")
    there = _authority(rest)
    if not separator or there is None:
        return False  # also "null": a sandboxed frame, a file, a redirect from elsewhere
    default = DEFAULT_PORTS.get(scheme.lower())
    return (there[0], there[1] or default) == (here[0], here[1] or default)


class Guard:
    """The layer that puts a Principal into `scope["principal"]`, or raises `errors.Forbidden` or `errors.Unauthorized`.

    Without `sign_in` everybody is `ANONYMOUS`. With it, those who do not sign in are `GUEST` on the paths `public`, which tell
    nothing of a task, and nobody elsewhere. `addresses`: principals say where their requests come from.
    """

    def __init__(
        self,
        app: ASGIApp,
        rules: Rules,
        sign_in: SignIn | None = None,
        public: frozenset[str] = frozenset(),
        open_metrics: bool = True,
        addresses: bool = False,
    ) -> None:
        self._app = app
        self._public = public
        self._addresses = addresses
        self._sign_in = sign_in
        self._open_paths = OPEN_PATHS if sign_in is None or open_metrics else OPEN_PATHS - {METRICS}
        # The answer depends on three headers that hardly vary, so it is remembered for those seen last.
        self._refusal = functools.lru_cache(maxsize=256)(functools.partial(refusal, rules))
        self._origins = frozenset(origin.encode() for origin in rules.origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with its principal."""
        if scope["type"] == "http" and scope["path"] not in self._open_paths:
            self.judge(scope["headers"], scope["method"])
            principal = ANONYMOUS if self._sign_in is None else await self._signed_in(self._sign_in, scope)
            scope["principal"] = msgspec.structs.replace(principal, address=_address(scope)) if self._addresses else principal
        await self._app(scope, receive, send)

    def judge(self, headers: Iterable[tuple[bytes, bytes]], method: str = "GET") -> None:
        """Raise `errors.Forbidden` for what no page of ours and no client sends."""
        host = origin = fetch_site = kind = None
        hosts = 0
        for name, value in headers:
            if name == b"host":
                host = value
                hosts += 1
            elif name == b"origin":
                origin = value if origin is None else b"null"  # of two, none is believed
            elif name == b"sec-fetch-site":
                fetch_site = value
            elif name == b"content-type":
                kind = value
        why = self._refusal(_text(host) if hosts == 1 else None, _text(origin), _text(fetch_site))
        if why is not None:
            raise errors.Forbidden(why)
        # A browser asks first (a preflight) before it sends this type, and then sends nothing that it remembers; a form it sends unasked.
        if origin in self._origins and method != "GET" and (kind or b"").partition(b";")[0].strip().lower() != b"application/json":
            raise errors.Forbidden("pages of other sites must send Content-Type: application/json")

    async def _signed_in(self, sign_in: SignIn, scope: Scope) -> Principal:
        principal = await sign_in.principal(scope["headers"], _address(scope))
        path = scope["path"]
        if principal is None:
            if path in self._public:
                return GUEST
            raise sign_in.refusal("this server wants a sign-in", "missing")
        if path.rstrip("/") == METRICS and principal.scope != ALL:  # a slash at the end leads there, too
            raise errors.Forbidden("the metrics are for those who may see everybody's tasks")
        return principal


def _address(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else ""


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")
