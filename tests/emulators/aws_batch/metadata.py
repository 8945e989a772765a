"""What containers ask their host for: credentials of the job's role, and the instance metadata service, version 2."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from typing import NamedTuple

from tests.emulators.aws_batch.protocol import Json
from tests.emulators.aws_batch.roles import Roles
from tests.emulators.aws_batch.world import ACCOUNT, REGION
from tests.emulators.http_server import Answer, Server, loopback
from tests.emulators.network import Namespace, NoNetwork, Place

TASK = Place("169.254.170.2", hops=64)
INSTANCE = Place("169.254.169.254", hops=1)
"""HttpPutResponseHopLimit of a launch template"""
HOST_ROLE = "tes-hosts"
TOKEN = "x-aws-ec2-metadata-token"
PATIENCE = 60.0
"""seconds that an emulator which must have the addresses waits for another one that has them"""


class Seen(NamedTuple):
    """One request to either service."""

    service: str
    path: str
    status: int


class Metadata:
    """Both services, at their real addresses where `wanted` is "network", or "auto" and that can be done.

    Else ("loopback") the credentials are on this machine's loopback, protected by a token as of EKS Pod Identity, and there is no instance metadata.
    `where` says which, `why` why not the first. `instance` tells of a host: all share one network, so nobody can know which one asks.
    """

    def __init__(self, roles: Roles, instance: Callable[[], Json], task: Callable[[str], Json | None], wanted: str = "auto") -> None:
        self._roles = roles
        self._instance = instance
        self._task = task
        self._tokens: set[str] = set()
        self._namespace: Namespace | None = None
        self.where, self.why = "loopback", ""
        self.seen: list[Seen] = []
        if wanted != "loopback":
            try:
                self._namespace = Namespace((TASK, INSTANCE), PATIENCE if wanted == "network" else 0.0)
                self.where = "network"
            except NoNetwork as error:
                if wanted == "network":
                    raise
                self.why = str(error)
        sockets = {TASK: loopback()} if self._namespace is None else self._namespace.sockets
        if self._namespace is None:
            roles.address = f"http://127.0.0.1:{sockets[TASK].getsockname()[1]}"
        replies = {TASK: self._of_task, INSTANCE: self._of_instance}
        self._servers = [Server(listener, replies[place]) for place, listener in sockets.items()]

    def start(self) -> None:
        for server in self._servers:
            server.start()

    def close(self) -> None:
        """Also of what was never started."""
        for server in self._servers:
            server.close()
        if self._namespace is not None:
            self._namespace.close()

    def _of_task(self, method: str, path: str, headers: Mapping[str, str], _: bytes) -> Answer:
        answer: Json | None = None
        status = 404
        if method == "GET" and self._roles.address and headers.get("authorization") != self._roles.token:
            status = 401
        elif method == "GET" and path.startswith("/v4/"):
            answer = self._task(path.split("/")[2])
        elif method == "GET":
            answer = self._roles.credentials(path)
        self.seen.append(Seen("task", path, 200 if answer else status))
        return Answer(200, json.dumps(answer).encode(), {}) if answer else Answer(status, b'{"code": "NotFound", "message": "no such path"}', {})

    def _of_instance(self, method: str, path: str, headers: Mapping[str, str], _: bytes) -> Answer:
        status, text = self._told(method, path, headers)
        self.seen.append(Seen("instance", path, status))
        return Answer(status, text.encode(), {"Content-Type": "application/json" if text.startswith("{") else "text/plain"})

    def _told(self, method: str, path: str, headers: Mapping[str, str]) -> tuple[int, str]:
        if method == "PUT":
            if path != "/latest/api/token" or not headers.get(f"{TOKEN}-ttl-seconds", "").isdecimal():
                return 400, "Bad Request"
            token = secrets.token_urlsafe(42)
            self._tokens.add(token)
            return 200, token
        if headers.get(TOKEN) not in self._tokens:
            return 401, "Unauthorized"
        found = self._instance()
        role = f"iam/security-credentials/{HOST_ROLE}"
        name = path.removeprefix("/latest/meta-data/")
        if name == role:
            made = self._roles.of(f"arn:aws:iam::{ACCOUNT}:role/{HOST_ROLE}")
            return 200, json.dumps({"Code": "Success", "LastUpdated": made["Expiration"], "Type": "AWS-HMAC", **made})
        texts = {
            "iam/security-credentials/": HOST_ROLE,
            "placement/region": REGION,
            "placement/availability-zone": f"{REGION}a",
            "services/domain": "amazonaws.com",
            **{key: str(value) for key, value in found.items()},
        }
        return (200, texts[name]) if name in texts else (404, "Not Found")
