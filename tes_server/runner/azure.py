"""What a runner on a node of Azure asks Azure for: secrets that executors may have, and the login of a private container registry.

By a managed identity of the node, whose tokens its metadata service gives to whoever is on the node's own network: runners are, executors must not be.
Three plain requests: no SDK goes into the runner's image for them. This module must never put an answer into an error or a log, and never follow a
redirect: there are tokens in what it sends. The server, which has other ways to an identity, shares `exchange`.
"""

from __future__ import annotations

import contextlib
import http
import logging
import os
import re
import time
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

import msgspec

from tes_server import errors, telemetry
from tes_server.runner import image_connections, image_manifest
from tes_server.telemetry import Code

logger = logging.getLogger(__name__)
Answer = TypeVar("Answer", bound=msgspec.Struct)

SECRET = re.compile(
    r"https://(?P<vault>[A-Za-z0-9-]+)\.(?P<cloud>vault\.azure\.net|vault\.azure\.cn|vault\.usgovcloudapi\.net)"
    r"/secrets/(?P<name>[A-Za-z0-9-]{1,127})(?:/(?P<version>[0-9a-f]{32}))?/?"
)
"""Url of a secret in Key Vault, its newest version where it names none."""

REGISTRY = re.compile(r"(?P<registry>[A-Za-z0-9-]+\.azurecr\.(?:io|cn|us))/")
"""Images of an Azure container registry begin with this."""

VAULT = "Azure Key Vault"

METADATA = "AZURE_POD_IDENTITY_AUTHORITY_HOST"
"""Environment variable, azure-identity's own, with the address of the metadata service where it is not `SERVICE`."""

SERVICE = "http://169.254.169.254"
"""The metadata service of every virtual machine."""

REGISTRIES = "https://containerregistry.azure.net"
"""What a token for registries is for: one for Resource Manager would do as well, and open far more."""

NOBODY = "00000000-0000-0000-0000-000000000000"
"""The user name that goes with a registry's refresh token."""

PAUSES = (1.0, 2.0, 4.0, 8.0)
"""Seconds before each further try of what may pass."""

BUSY = frozenset({408, 429, 500, 502, 503, 504})
"""Statuses of errors that may pass."""

UPDATING = frozenset({404, 410})
"""Those of a metadata service that is just being updated."""

LARGEST = 1 << 20
"""Bytes of an answer."""

_NAMES = re.compile(rb'"(?:code|error)"\s*:\s*"([A-Za-z_]{1,60})"')
"""What errors are named by the services. Nothing else of their words is shown: they quote what was sent."""


class _Request(NamedTuple):
    """`whom`: who is asked, in words. `body`: of a form, which is posted. `inside`: on the node itself, so by no proxy, and no stranger names it."""

    whom: str
    url: str
    headers: Mapping[str, str]
    body: str | None = None
    inside: bool = False


class _Secret(msgspec.Struct, frozen=True):
    value: str


class _Token(msgspec.Struct, frozen=True):
    access_token: str


class _Exchanged(msgspec.Struct, frozen=True):
    refresh_token: str


class Refused(Exception):
    """A service did not answer as it should. `words` name it and its errors; `status`: 0 = there was no answer; `transient`: a later try may work."""

    def __init__(self, whom: str, why: str, status: int = 0, *, transient: bool) -> None:
        super().__init__(f"{whom} {why}")
        self.whom = whom
        self.words = f"{whom} {why}"
        self.status = status
        self.transient = transient


def secret(reference: str, client_id: str = "") -> str:
    """`vault.Look` for urls of Key Vault. `client_id`: of the managed identity to ask as, "" = the only one that the node has."""
    found = SECRET.fullmatch(reference)
    if found is None:
        raise errors.StagingError("what it leads to is no url of a secret in Azure Key Vault", Code.SECRET_ERROR)
    url = f"https://{found['vault']}.{found['cloud']}/secrets/{found['name']}/{found['version'] or ''}?api-version=7.4"
    try:
        token = _token(f"https://{found['cloud']}", client_id)
        return _ask(_Request(VAULT, url, {"Authorization": f"Bearer {token}"}), _Secret).value
    except Refused as cause:
        code = Code.SECRET_DENIED
        if cause.transient or not cause.status:
            code = Code.SECRET_ERROR
        elif cause.whom == VAULT and cause.status == http.HTTPStatus.NOT_FOUND:
            code = Code.SECRET_NOT_FOUND
        raise errors.StagingError(cause.words, code, cause.transient) from None


def login(image: str, client_id: str = "") -> Mapping[str, str] | None:
    """`docker_images.Login`: for images of an Azure container registry a token of three hours. None for others, and where the registry does not know
    the identity, or the node has none: it may let anybody read, or the login file be good for it.
    """
    registry = registry_of(image)
    if not registry:
        return None
    try:
        return {"username": NOBODY, "password": exchange(registry, _token(REGISTRIES, client_id))}
    except Refused as cause:
        if cause.transient:
            raise errors.EngineError(f"{image}: no login for its registry: {cause.words}", Code.IMAGE_ERROR, transient=True) from None
        telemetry.log(logger, logging.WARNING, "node.login.refused", image=image, error=cause.words)
        return None


def registry_of(image: str) -> str:
    """The Azure container registry that an image is in, "" = in none."""
    found = REGISTRY.match(image)
    return found["registry"].lower() if found is not None else ""


def exchange(registry: str, token: str, pauses: Sequence[float] | None = None) -> str:
    """The registry's refresh token, good for three hours, for an identity's `token` for `REGISTRIES`. Raises Refused."""
    form = {"grant_type": "access_token", "service": registry, "access_token": token}
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    request = _Request(registry, f"https://{registry}/oauth2/exchange", headers, urllib.parse.urlencode(form))
    return _ask(request, _Exchanged, pauses).refresh_token


def _token(resource: str, client_id: str) -> str:
    """A token of the node's identity. Raises Refused."""
    query = {"api-version": "2018-02-01", "resource": resource, **({"client_id": client_id} if client_id else {})}
    url = f"{os.environ.get(METADATA, SERVICE)}/metadata/identity/oauth2/token?{urllib.parse.urlencode(query)}"
    return _ask(_Request("the node's metadata service", url, {"Metadata": "true"}, inside=True), _Token).access_token


def _ask(request: _Request, kind: type[Answer], pauses: Sequence[float] | None = None) -> Answer:
    """The answer, if its status is 200; what may pass is tried again after each of `pauses`, None = `PAUSES`. Raises Refused."""
    for pause in PAUSES if pauses is None else pauses:
        try:
            return _ask_once(request, kind)
        except Refused as cause:
            if not cause.transient:
                raise
        time.sleep(pause)
    return _ask_once(request, kind)


def _ask_once(request: _Request, kind: type[Answer]) -> Answer:
    connections = image_connections.Connections(10.0, 20.0, proxies=not request.inside, guarded=not request.inside)
    try:
        with contextlib.closing(connections.open("GET" if request.body is None else "POST", request.url, request.headers, request.body)) as response:
            data = image_connections.read(response, LARGEST)
    except errors.EngineError as cause:
        raise Refused(request.whom, f"does not answer: {cause.public}", transient=cause.transient) from None
    if response.status != http.HTTPStatus.OK:
        names = ", ".join(dict.fromkeys(name.decode() for name in _NAMES.findall(data)))
        why = f"says no: status {response.status}{f' ({names})' if names else ''}"
        raise Refused(request.whom, why, response.status, transient=response.status in (BUSY | UPDATING if request.inside else BUSY))
    try:
        return msgspec.json.decode(data, type=kind)
    except image_manifest.UNDECODABLE:
        raise Refused(request.whom, "gives an answer that cannot be read", transient=True) from None
