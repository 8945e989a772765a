"""What a node's own services answer: instance metadata with tokens of managed identities (IMDS), and the wire server."""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Callable, Mapping
from typing import NamedTuple

from tests.emulators.azure_batch.identities import Identities
from tests.emulators.azure_batch.protocol import Json
from tests.emulators.azure_batch.world import CLIENT, LOCATION, SUBSCRIPTION
from tests.emulators.http_server import Answer, Server, loopback
from tests.emulators.network import Namespace, NoNetwork, Place

IMDS = Place("169.254.169.254")
WIRE = Place("168.63.129.16")
HOST_PLUGIN = Place("168.63.129.16", 32526)
"""settings of the machine's extensions, secrets included"""
PATIENCE = 60.0
"""seconds that an emulator which must have the addresses waits for another one that has them"""


class Seen(NamedTuple):
    """One request to a service."""

    service: str
    path: str
    status: int


class Metadata:
    """The services at their real addresses where `wanted` is "network", or "auto" and that can be done; else ("loopback") IMDS is on this machine's loopback.

    Azure puts no limit of hops on them: containers on a bridge reach them unless the node's firewall forbids it, and a start task has that firewall to set.
    `where` says which, `why` why not the first; `url` is that of IMDS. `node` tells of a node: all share one network, so nobody can know which one asks.
    """

    def __init__(self, identities: Identities, node: Callable[[], Json], wanted: str = "auto") -> None:
        self._identities = identities
        self._node = node
        self._namespace: Namespace | None = None
        self.where, self.why, self.url = "loopback", "", f"http://{IMDS.address}"
        self.seen: list[Seen] = []
        if wanted != "loopback":
            try:
                self._namespace = Namespace((IMDS, WIRE, HOST_PLUGIN), PATIENCE if wanted == "network" else 0.0)
                self.where = "network"
            except NoNetwork as error:
                if wanted == "network":
                    raise
                self.why = str(error)
        sockets = {IMDS: loopback()} if self._namespace is None else self._namespace.sockets
        replies = {IMDS: self._imds, WIRE: self._wire, HOST_PLUGIN: self._plugin}
        self._servers = [Server(listener, replies[place]) for place, listener in sockets.items()]
        if self._namespace is None:
            self.url = f"http://127.0.0.1:{self._servers[0].port}"

    def start(self) -> None:
        for server in self._servers:
            server.start()

    def close(self) -> None:
        """Also of what was never started."""
        for server in self._servers:
            server.close()
        if self._namespace is not None:
            self._namespace.close()

    def _imds(self, method: str, target: str, headers: Mapping[str, str], _: bytes) -> Answer:
        path, _sign, text = target.partition("?")
        status, told = self._told(path, dict(urllib.parse.parse_qsl(text)), headers) if method == "GET" else (405, {"error": "Method not allowed"})
        self.seen.append(Seen("imds", path, status))
        return Answer(status, json.dumps(told).encode(), {"Server": "IMDS/150.870.65.1769"})

    def _told(self, path: str, query: Mapping[str, str], headers: Mapping[str, str]) -> tuple[int, Json]:
        if headers.get("metadata", "").lower() != "true" or "x-forwarded-for" in headers:
            return 400, {"error": "Bad request. Required metadata header not specified"}
        if "api-version" not in query:
            return 400, {"error": "Bad request. api-version is missing"}
        if path == "/metadata/identity/oauth2/token":
            return self._token(query)
        if path == "/metadata/scheduledevents":
            return 200, {"DocumentIncarnation": 1, "Events": []}
        if path == "/metadata/instance":
            return 200, {
                "compute": {"location": LOCATION, "subscriptionId": SUBSCRIPTION, "azEnvironment": "AzurePublicCloud", "osType": "Linux", **self._node()}
            }
        return 404, {"error": "Not found"}

    def _token(self, query: Mapping[str, str]) -> tuple[int, Json]:
        name = query.get("client_id") or query.get("object_id") or query.get("mi_res_id", query.get("msi_res_id", CLIENT)).rpartition("/")[2]
        if not query.get("resource"):
            return 400, {"error": "invalid_request", "error_description": "Required query variable 'resource' is missing"}
        try:
            return 200, {**self._identities.token(name, query["resource"]), "client_id": name, "ext_expires_in": "86399"}
        except KeyError:
            return 400, {"error": "invalid_request", "error_description": "Identity not found"}

    def _wire(self, _method: str, target: str, _headers: Mapping[str, str], _body: bytes) -> Answer:
        self.seen.append(Seen("wire", target, 200))
        text = "<?xml version='1.0'?><GoalState><Version>2015-04-05</Version><Incarnation>1</Incarnation></GoalState>"
        return Answer(200, text.encode(), {"Content-Type": "text/xml"})

    def _plugin(self, _method: str, target: str, _headers: Mapping[str, str], _body: bytes) -> Answer:
        self.seen.append(Seen("host plugin", target, 200))
        return Answer(200, b'{"extensionGoalStates": []}', {})
