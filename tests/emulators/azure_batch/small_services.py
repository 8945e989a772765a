"""Key Vault and container registries: the one request to each that a runner makes, checked as they check it. Reached by the proxy at `proxy`."""

from __future__ import annotations

import json
import re
import secrets
import ssl
import urllib.parse
import uuid
from collections.abc import Mapping

from tests.emulators.azure_batch.identities import Identities, Principal
from tests.emulators.azure_batch.protocol import BatchError, Json
from tests.emulators.azure_batch.world import TENANT
from tests.emulators.faults import Calls
from tests.emulators.http_server import Answer, Server, loopback
from tests.emulators.tunnel import Tunnel

VAULTS = "vault.azure.net", "vault.azure.cn", "vault.usgovcloudapi.net"
REGISTRIES = "azurecr.io", "azurecr.cn", "azurecr.us"
NAMES = tuple(f"*.{name}" for name in (*VAULTS, *REGISTRIES))
"""of hosts that are served here"""
AUDIENCES = "https://containerregistry.azure.net", "https://management.azure.com"
"""what a token for a registry may be for"""
SECRET = re.compile(r"/secrets/(?P<name>[A-Za-z0-9-]{1,127})(?:/(?P<version>[0-9a-f]{32})?)?")
VERSIONS = "7.4", "7.5", "7.6"


class SmallServices:
    """`secrets`: `VAULT/NAME` -> value, of vaults in any cloud. Calls are counted as `get_secret` and `exchange`."""

    def __init__(self, identities: Identities, calls: Calls, secrets: Mapping[str, str], tls: ssl.SSLContext) -> None:
        self._identities = identities
        self._calls = calls
        self._secrets = secrets
        self.exchanged: dict[str, tuple[str, str]] = {}
        """refresh token -> registry, who has it"""
        self._server = Server(loopback(), self._reply, tls)
        self._tunnel = Tunnel(NAMES, ("127.0.0.1", self._server.port))
        self.proxy = self._tunnel.url

    @property
    def refused(self) -> list[str]:
        """Other hosts that were asked for at the proxy."""
        return self._tunnel.refused

    def start(self) -> None:
        self._server.start()
        self._tunnel.start()

    def close(self) -> None:
        """Also of what was never started."""
        self._tunnel.close()
        self._server.close()

    def _reply(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Answer | None:
        host = headers.get("host", "").removesuffix(":443")
        vault, _, cloud = host.partition(".")
        path, _, text = target.partition("?")
        call = "get_secret" if cloud in VAULTS else "exchange"
        try:
            lost = self._calls.begin(call)
            if cloud in VAULTS:
                told = self._secret(method, vault, cloud, path, dict(urllib.parse.parse_qsl(text)), headers)
            else:
                told = self._exchange(method, host, path, headers, dict(urllib.parse.parse_qsl(body.decode())))
        except BatchError as error:
            self._calls.refuse(call, error.code)
            return _refusal(error, cloud)
        return None if lost else Answer(200, json.dumps(told).encode(), {})

    def _secret(self, method: str, vault: str, cloud: str, path: str, query: Mapping[str, str], headers: Mapping[str, str]) -> Json:
        self._allowed(headers.get("authorization", "").removeprefix("Bearer "), (f"https://{cloud}",), "get_secret")
        if query.get("api-version") not in VERSIONS:
            raise BatchError("BadParameter", 400, "api-version must be specified, and one that is served here")
        found = SECRET.fullmatch(path)
        if method != "GET" or found is None:
            raise BatchError("BadParameter", 400, f"Key Vault knows no {method} {path} here")
        name = f"{vault}/{found['name']}"
        version = uuid.uuid5(uuid.NAMESPACE_URL, name).hex
        if name not in self._secrets or (found["version"] or version) != version:
            raise BatchError("SecretNotFound", 404, f"A secret with (name/id) {found['name']} was not found in this key vault.")
        return {
            "value": self._secrets[name],
            "id": f"https://{vault}.{cloud}/secrets/{found['name']}/{version}",
            "attributes": {"enabled": True, "recoveryLevel": "Recoverable+Purgeable"},
        }

    def _exchange(self, method: str, host: str, path: str, headers: Mapping[str, str], form: Mapping[str, str]) -> Json:
        if (method, path) != ("POST", "/oauth2/exchange"):
            raise BatchError("NAME_UNKNOWN", 404, f"a registry knows no {method} {path} here")
        if headers.get("content-type") != "application/x-www-form-urlencoded" or form.get("grant_type") != "access_token" or form.get("service") != host:
            raise BatchError("UNSUPPORTED", 400, "grant_type must be access_token, service this registry, and both be in a form")
        principal = self._allowed(form.get("access_token", ""), AUDIENCES, "exchange")
        token = f"{TENANT}.{secrets.token_urlsafe(24)}"
        self.exchanged[token] = (host, principal.name)
        return {"refresh_token": token}

    def _allowed(self, token: str, audiences: tuple[str, ...], operation: str) -> Principal:
        """Who shows a token for one of these. BatchError 401 or 403."""
        for audience in audiences[:-1]:
            try:
                principal = self._identities.bearer(token, audience)
                break
            except BatchError:
                continue
        else:
            principal = self._identities.bearer(token, audiences[-1])
        self._identities.allow(principal, operation)
        return principal


def _refusal(error: BatchError, cloud: str) -> Answer:
    """In the words of the service that is asked; Key Vault says of some errors twice what they are."""
    headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    if cloud not in VAULTS:
        told: Json = {"errors": [{"code": "UNAUTHORIZED" if error.status in (401, 403) else error.code, "message": error.message}]}
        return Answer(401 if error.status == 403 else error.status, json.dumps(told).encode(), headers)
    if error.status == 401:
        headers["WWW-Authenticate"] = f'Bearer authorization="https://login.microsoftonline.com/{TENANT}", resource="https://{cloud}"'
        told = {"error": {"code": "Unauthorized", "message": error.message}}
    elif error.status == 403:
        told = {"error": {"code": "Forbidden", "message": error.message, "innererror": {"code": "ForbiddenByRbac"}}}
    else:
        told = {"error": {"code": error.code, "message": error.message}}
    return Answer(error.status, json.dumps(told).encode(), headers)
