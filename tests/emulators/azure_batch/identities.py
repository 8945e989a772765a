"""Who asks: shared keys, and tokens of Entra ID, with the endpoint that gives them out."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import fnmatch
import hashlib
import hmac
import json
import secrets
import threading
import time
import urllib.parse
from collections.abc import Mapping

from tests.emulators.azure_batch.protocol import BatchError, Json
from tests.emulators.azure_batch.world import ACCOUNT, CLIENT, KEY, RESOURCE, SECRET, TENANT

SIGNED = (
    "content-encoding",
    "content-language",
    "content-length",
    "content-md5",
    "content-type",
    "date",
    "if-modified-since",
    "if-match",
    "if-none-match",
    "if-unmodified-since",
    "range",
)
SKEW = datetime.timedelta(minutes=15)
FAILED = "Server failed to authenticate the request. Make sure the value of Authorization header is formed correctly including the signature."


@dataclasses.dataclass(eq=False)
class Principal:
    """An application or a managed identity. `denied`: operations that it may not do, by names of the SDK, `create_*`."""

    name: str
    secret: str = ""
    denied: tuple[str, ...] = ()


class Identities:
    """Safe for threads. `lifetime`: seconds for which tokens are good."""

    def __init__(self, lifetime: float = 86400.0) -> None:
        self.lifetime = lifetime
        self._lock = threading.Lock()
        self._principals = {CLIENT: Principal(CLIENT, SECRET)}
        self._tokens: dict[str, tuple[Principal, str, float]] = {}
        self.given: list[tuple[str, str]] = []
        """principal and resource of every token"""

    def add(self, principal: Principal) -> None:
        with self._lock:
            self._principals[principal.name] = principal

    def expire(self) -> None:
        """No token that was given out so far is good any more."""
        with self._lock:
            self._tokens.clear()

    # -- tokens ------------------------------------------------------------------------------------------------------------

    def token(self, name: str, resource: str) -> Json:
        """A bearer token, as Entra ID gives it: with a signature that nobody can check."""
        begin = int(time.time())
        claims = {
            "aud": resource,
            "iss": f"https://sts.windows.net/{TENANT}/",
            "iat": begin,
            "nbf": begin,
            "exp": begin + int(self.lifetime),
            "appid": name,
            "oid": name,
            "tid": TENANT,
            "jti": secrets.token_hex(8),
        }
        header = {"typ": "JWT", "alg": "RS256", "kid": "emulator"}
        text = ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in (*(json.dumps(one).encode() for one in (header, claims)), b"none"))
        with self._lock:
            principal = self._principals[name]
            self._tokens[text] = (principal, resource, time.monotonic() + self.lifetime)
            self.given.append((name, resource))
        return {"token_type": "Bearer", "access_token": text, "expires_in": int(self.lifetime), "resource": resource, "expires_on": str(claims["exp"])}

    def entra(self, authority: str, path: str, body: bytes) -> tuple[int, Json]:
        """What the authority, login.microsoftonline.com elsewhere, answers: discovery, and tokens for a secret or a federated token."""
        tenant = path.split("/")[1]
        base = f"{authority}/{tenant}"
        if path.endswith("/.well-known/openid-configuration"):
            return 200, {"issuer": f"{base}/v2.0", "authorization_endpoint": f"{base}/oauth2/v2.0/authorize", "token_endpoint": f"{base}/oauth2/v2.0/token"}
        given = dict(urllib.parse.parse_qsl(body.decode()))
        scope = given.get("scope", "")
        with self._lock:
            principal = self._principals.get(given.get("client_id", ""))
        proven = principal is not None and (given.get("client_secret") == principal.secret or bool(given.get("client_assertion")))
        if tenant != TENANT or not proven or given.get("grant_type") != "client_credentials":
            return 401, {"error": "invalid_client", "error_description": "AADSTS7000215: Invalid client secret provided.", "error_codes": [7000215]}
        resource = next((one.removesuffix(".default").removesuffix("/") for one in scope.split() if one.endswith("/.default")), "")
        assert principal is not None
        return 200, {**self.token(principal.name, resource), "ext_expires_in": int(self.lifetime)}

    # -- requests ------------------------------------------------------------------------------------------------------------

    def check(self, method: str, path: str, query: str, headers: Mapping[str, str]) -> Principal:
        """Who asked the Batch service. BatchError 401 or 403."""
        kind, _, value = headers.get("authorization", "").partition(" ")
        if kind == "Bearer":
            return self.bearer(value, RESOURCE)
        if kind == "SharedKey":
            return self._shared_key(method, path, query, headers, value)
        raise BatchError("AuthenticationFailed", 401, FAILED, {"AuthenticationErrorDetail": "The Authorization header is missing or of another scheme."})

    def bearer(self, token: str, *wanted: str) -> Principal:
        """Who shows a token that is for one of the resources `wanted`. BatchError 401."""
        with self._lock:
            principal, resource, until = self._tokens.get(token, (None, "", 0.0))
        if principal is None or time.monotonic() > until:
            raise BatchError("AuthenticationFailed", 401, FAILED, {"AuthenticationErrorDetail": "The token is not known, or has expired."})
        if resource.rstrip("/") not in [one.rstrip("/") for one in wanted]:
            raise BatchError("AuthenticationFailed", 401, FAILED, {"AuthenticationErrorDetail": f"The token is for {resource}, not for {wanted[0]}."})
        return principal

    def _shared_key(self, method: str, path: str, query: str, headers: Mapping[str, str], value: str) -> Principal:
        account, _, signature = value.partition(":")
        date = headers.get("ocp-date") or headers.get("date", "")
        try:
            at = datetime.datetime.strptime(date, "%a, %d %b %Y %H:%M:%S GMT").replace(tzinfo=datetime.UTC)
        except ValueError:
            at = datetime.datetime.min.replace(tzinfo=datetime.UTC)
        if abs(datetime.datetime.now(datetime.UTC) - at) > SKEW:
            raise BatchError("AuthenticationFailed", 403, FAILED, {"AuthenticationErrorDetail": f"The specified time {date!r} is too far from now."})
        wanted = base64.b64encode(hmac.digest(base64.b64decode(KEY), _to_sign(method, path, query, headers).encode(), hashlib.sha256)).decode()
        if account != ACCOUNT or not hmac.compare_digest(wanted, signature):
            raise BatchError("AuthenticationFailed", 403, FAILED, {"AuthenticationErrorDetail": "The MAC signature found in the HTTP request is not the same."})
        return self._principals[CLIENT]

    def allow(self, principal: Principal, operation: str) -> None:
        """BatchError 403: the principal may not do it."""
        if any(fnmatch.fnmatchcase(operation, denied) for denied in principal.denied):
            words = f"The account being accessed does not have sufficient permissions to execute this operation: {operation} by {principal.name}."
            raise BatchError("InsufficientAccountPermissions", 403, words)


def _to_sign(method: str, path: str, query: str, headers: Mapping[str, str]) -> str:
    values = [headers.get(name, "") for name in SIGNED]
    if method in ("GET", "HEAD"):
        values[SIGNED.index("content-length")] = ""
    lines = [method, *values]
    lines += [f"{name}:{headers[name]}" for name in sorted(headers) if name.startswith("ocp-")]
    lines.append(f"/{ACCOUNT}{path}")
    asked = urllib.parse.parse_qs(query)
    lines += [f"{name}:{asked[name][0]}" for name in sorted(asked)]
    return "\n".join(lines)
