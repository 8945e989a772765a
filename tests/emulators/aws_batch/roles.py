"""Credentials of roles: temporary ones of the S3 server that the emulator was given, so that a job's container can really use them."""

from __future__ import annotations

import dataclasses
import datetime
import pathlib
import secrets
import threading
import uuid
from typing import Any

import boto3

from tests.emulators.aws_batch.protocol import Json
from tests.emulators.aws_batch.signing import Keys, Principal
from tests.emulators.aws_batch.world import ACCOUNT, REGION

SHORTEST = 900
"""seconds of the shortest session that AssumeRole gives"""


@dataclasses.dataclass(frozen=True)
class S3:
    """An S3 server with AssumeRole (MinIO), and its keys."""

    endpoint: str
    key: str
    secret: str


class Roles:
    """Without an S3 server the credentials are good for the emulated services only. Safe for threads.

    `lifetime`: seconds after which they are said to expire. `address`: where the endpoint is if not at 169.254.170.2.
    """

    def __init__(self, keys: Keys, s3: S3 | None, lifetime: float, directory: pathlib.Path) -> None:
        self._keys = keys
        self._lifetime = lifetime
        self._lock = threading.Lock()
        self._roles: dict[str, str] = {}
        self._sts: Any = None
        if s3 is not None:
            self._sts = boto3.client("sts", endpoint_url=s3.endpoint, aws_access_key_id=s3.key, aws_secret_access_key=s3.secret, region_name=REGION)
        self.address = ""
        self.token = secrets.token_hex(16)
        self._token_file = directory / "credentials-token"
        self._token_file.write_text(self.token)
        self.denied: dict[str, tuple[str, ...]] = {}
        """what a role may not do"""
        self.given: list[str] = []
        """roles whose credentials were asked for, each time"""

    def variables(self, role: str) -> dict[str, str]:
        """The address is new for each container, and nobody else is told."""
        path = f"/v2/credentials/{uuid.uuid4()}"
        with self._lock:
            self._roles[path] = role
        if not self.address:
            return {"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": path}
        return {"AWS_CONTAINER_CREDENTIALS_FULL_URI": self.address + path, "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(self._token_file)}

    def files(self) -> dict[str, str]:
        return {str(self._token_file): str(self._token_file)} if self.address else {}

    def credentials(self, path: str) -> Json | None:
        """What the endpoint of task roles answers; None: there is no such address."""
        with self._lock:
            role = self._roles.get(path)
        return None if role is None else {"RoleArn": role, **self.of(role)}

    def of(self, role: str) -> Json:
        """Temporary credentials of a role."""
        self.given.append(role)
        until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=self._lifetime)
        key, secret, token = "ASIA" + secrets.token_hex(8).upper(), secrets.token_hex(20), secrets.token_hex(32)
        if self._sts is not None:
            seconds = max(SHORTEST, int(self._lifetime))
            made = self._sts.assume_role(RoleArn=role, RoleSessionName="emulator", DurationSeconds=seconds)["Credentials"]
            key, secret, token = made["AccessKeyId"], made["SecretAccessKey"], made["SessionToken"]
        name = role.rpartition("/")[2]
        self._keys.add(key, Principal(f"arn:aws:sts::{ACCOUNT}:assumed-role/{name}/emulator", secret, token, self.denied.get(role, ())))
        return {"AccessKeyId": key, "SecretAccessKey": secret, "Token": token, "Expiration": until.strftime("%Y-%m-%dT%H:%M:%SZ")}

    def close(self) -> None:
        if self._sts is not None:
            self._sts.close()
