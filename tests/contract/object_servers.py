"""The object stores that tests run against: an S3 server, Azurite, and moto for answers that the S3 server does not give.

The S3 server is the one that `eval "$(../shared/s3/up)"` names in the environment, Azurite the one of AZURITE_URL
(`http://127.0.0.1:10000/devstoreaccount1`). What tests do behind the filer's back they do with the clouds' own SDKs.
"""

from __future__ import annotations

import abc
import contextlib
import os
import socket
import urllib.parse
import uuid
from collections.abc import Iterator, MutableMapping
from typing import Any

import azure.storage.blob
import boto3
import botocore.config

from tes_server.filer.manifest import Storage
from tests.integration.conftest import unreachable

ACCOUNT = "devstoreaccount1"
AZURITE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Azurite's own, the same everywhere."""
_KEPT = "KEPT_FOR_TESTS_"


def remember(environment: MutableMapping[str, str]) -> None:
    """Keep what the environment says of the servers under names that only this module knows, also for processes of pytest-xdist."""
    environment.update({_KEPT + name: value for name, value in environment.items() if name.startswith(("AWS_", "AZURITE_"))})


def _named(name: str, service: str) -> str:
    value = os.environ.get(_KEPT + name)
    if not value:
        unreachable(service, f"{name} is not set")
    return value


def _answers(url: str, service: str) -> None:
    parts = urllib.parse.urlsplit(url)
    try:
        socket.create_connection((parts.hostname or "", parts.port or 80), 5).close()
    except OSError as why:
        unreachable(service, why)


class Server(abc.ABC):
    """One server, with a bucket (container) for one test session."""

    settings: Storage
    """how the filer comes there"""
    url: str
    """of the bucket, as tasks name it"""
    variables: dict[str, str]
    """what `settings` expect of the environment"""

    @abc.abstractmethod
    def put(self, key: str, data: bytes = b"") -> None:
        """Make an object."""

    @abc.abstractmethod
    def objects(self, prefix: str = "") -> dict[str, bytes]:
        """Objects whose keys begin with `prefix`, by the rest of their keys."""

    @abc.abstractmethod
    def remove(self, prefix: str = "") -> None:
        """Remove those objects."""

    @abc.abstractmethod
    def unfinished(self) -> list[str]:
        """Keys of uploads that were begun and neither finished nor aborted."""

    @abc.abstractmethod
    def close(self) -> None:
        """Remove the bucket."""


class S3(Server):
    """An S3 server."""

    def __init__(self, endpoint: str, key: str, secret: str) -> None:
        config = botocore.config.Config(s3={"addressing_style": "path"}, retries={"max_attempts": 2})
        self.client: Any = boto3.client(
            "s3", endpoint_url=endpoint, aws_access_key_id=key, aws_secret_access_key=secret, region_name="us-east-1", config=config
        )
        self.bucket = f"test-{uuid.uuid4().hex[:12]}"
        self.client.create_bucket(Bucket=self.bucket)
        self.variables = {"TEST_S3_KEY": key, "TEST_S3_SECRET": secret}
        self.url = f"s3://{self.bucket}"
        self.settings = Storage(url=self.url, write=True, endpoint=endpoint, key_variable="TEST_S3_KEY", secret_variable="TEST_S3_SECRET")

    def put(self, key: str, data: bytes = b"", **more: str) -> None:
        self.client.put_object(Bucket=self.bucket, Key=key, Body=data, **more)

    def _keys(self, prefix: str) -> list[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        return [item["Key"] for page in pages for item in page.get("Contents", [])]

    def objects(self, prefix: str = "") -> dict[str, bytes]:
        return {key[len(prefix) :]: self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read() for key in self._keys(prefix)}

    def remove(self, prefix: str = "") -> None:
        for key in self._keys(prefix):
            self.client.delete_object(Bucket=self.bucket, Key=key)

    def unfinished(self) -> list[str]:
        # MinIO lists uploads of one key only.
        return [item["Key"] for item in self.client.list_multipart_uploads(Bucket=self.bucket, Prefix="unfinished/large").get("Uploads", [])]

    def close(self) -> None:
        self.remove()
        self.client.delete_bucket(Bucket=self.bucket)
        self.client.close()


class Azurite(Server):
    """Azurite."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.container = f"test-{uuid.uuid4().hex[:12]}"
        connection = f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={AZURITE_KEY};BlobEndpoint={endpoint}"
        self.client = azure.storage.blob.ContainerClient.from_connection_string(connection, self.container, retry_total=1)
        self.client.create_container()
        self.variables = {"TEST_AZURE_KEY": AZURITE_KEY}
        self.url = f"az://{ACCOUNT}/{self.container}"
        self.settings = Storage(url=self.url, write=True, endpoint=endpoint, secret_variable="TEST_AZURE_KEY")

    def put(self, key: str, data: bytes = b"", **metadata: str) -> None:
        self.client.upload_blob(key, data, overwrite=True, metadata=metadata or None)

    def objects(self, prefix: str = "") -> dict[str, bytes]:
        return {str(name)[len(prefix) :]: self.client.download_blob(name).readall() for name in self.client.list_blob_names(name_starts_with=prefix)}

    def remove(self, prefix: str = "") -> None:
        for name in self.client.list_blob_names(name_starts_with=prefix):
            self.client.delete_blob(name)

    def unfinished(self) -> list[str]:
        return [blob.name for blob in self.client.list_blobs(include=["uncommittedblobs"]) if blob.size is None]

    def signature(self, permission: str, days: int = 1) -> str:
        """The query of a shared access signature for the container."""
        import datetime

        return azure.storage.blob.generate_container_sas(
            ACCOUNT,
            self.container,
            account_key=AZURITE_KEY,
            permission=azure.storage.blob.ContainerSasPermissions.from_string(permission),
            expiry=datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days),
        )

    def close(self) -> None:
        self.client.delete_container()
        self.client.close()


@contextlib.contextmanager
def s3() -> Iterator[S3]:
    """The S3 server of the environment."""
    endpoint = _named("AWS_ENDPOINT_URL", "the S3 server")
    _answers(endpoint, "the S3 server")
    server = S3(endpoint, _named("AWS_ACCESS_KEY_ID", "the S3 server"), _named("AWS_SECRET_ACCESS_KEY", "the S3 server"))
    try:
        yield server
    finally:
        server.close()


@contextlib.contextmanager
def azurite() -> Iterator[Azurite]:
    """The Azurite of the environment."""
    endpoint = _named("AZURITE_URL", "Azurite")
    _answers(endpoint, "Azurite")
    server = Azurite(endpoint)
    try:
        yield server
    finally:
        server.close()


@contextlib.contextmanager
def moto() -> Iterator[S3]:
    """An S3 server in this process: it knows storage classes, and takes any key."""
    import moto.server

    running = moto.server.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    server = S3(f"http://{host}:{port}", "testing", "testing")
    try:
        yield server
    finally:
        server.close()
        running.stop()
