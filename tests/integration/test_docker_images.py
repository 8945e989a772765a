"""Images of a real daemon, from a registry that answers as registries do."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import uuid
from collections.abc import Iterator

import pytest
from pytest_httpserver import HTTPServer

from tes_server import errors
from tes_server.runner import docker as docker_engine
from tes_server.runner import docker_client, docker_images
from tes_server.runner.docker import DockerEngine
from tes_server.telemetry import Code
from tests.integration.daemons import Daemon

NAME = f"tests-{uuid.uuid4().hex}"


@pytest.fixture
def engine(daemon: Daemon) -> Iterator[DockerEngine]:
    with daemon.engine(NAME) as engine:
        yield engine


@pytest.fixture
def registry(registry_port: int) -> Iterator[HTTPServer]:
    """A registry without TLS, which daemons take on loopback only."""
    with HTTPServer("localhost", registry_port) as server:
        server.expect_request("/v2/").respond_with_data("{}")
        yield server


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (404, "MANIFEST_UNKNOWN", Code.IMAGE_NOT_FOUND),
        (404, "NAME_UNKNOWN", Code.IMAGE_NOT_FOUND),
        (403, "DENIED", Code.IMAGE_DENIED),
        (401, "UNAUTHORIZED", Code.IMAGE_DENIED),
    ],
)
def test_a_registry_that_refuses_is_final(engine: DockerEngine, registry: HTTPServer, status: int, body: str, code: Code) -> None:
    registry.expect_request("/v2/x/manifests/1").respond_with_json({"errors": [{"code": body, "message": body.lower().replace("_", " ")}]}, status)
    with pytest.raises(errors.EngineError, match=f"{registry.host}:{registry.port}/x:1") as caught:
        engine.prepare(f"{registry.host}:{registry.port}/x:1")
    assert (caught.value.code, caught.value.transient) == (code, False)


def test_a_registry_that_is_not_there_may_come_back(engine: DockerEngine) -> None:
    with pytest.raises(errors.EngineError, match="refused") as caught:
        engine.prepare("127.0.0.1:1/x:1")
    assert (caught.value.code, caught.value.transient) == (Code.IMAGE_ERROR, True)


def test_an_image_is_pulled_where_it_is_missing(engine: DockerEngine, registry: HTTPServer, daemon: Daemon) -> None:
    image = f"{registry.host}:{registry.port}/{NAME}:1"
    digest = serve_image(registry, NAME)
    try:
        assert engine.prepare(image) == f"{registry.host}:{registry.port}/{NAME}@{digest}"
        asked = len(registry.log)
        engine.prepare(image)
        assert len(registry.log) == asked, "what is there is not asked for again"
    finally:
        daemon.client.remove_image(image)


def serve_image(registry: HTTPServer, name: str) -> str:
    """An image of one file in one layer, as a registry serves it; its digest."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("file"))
    parts = {
        "application/vnd.docker.image.rootfs.diff.tar": layer.getvalue(),
        "application/vnd.docker.container.image.v1+json": json.dumps(
            {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": [digest_of(layer.getvalue())]}}
        ).encode(),
    }
    blobs = [{"mediaType": kind, "size": len(data), "digest": digest_of(data)} for kind, data in parts.items()]
    for data in parts.values():
        registry.expect_request(f"/v2/{name}/blobs/{digest_of(data)}").respond_with_data(data)
    kind = "application/vnd.docker.distribution.manifest.v2+json"
    manifest = json.dumps({"schemaVersion": 2, "mediaType": kind, "config": blobs[1], "layers": [blobs[0]]}).encode()
    digest = digest_of(manifest)
    for tag in ("1", digest):
        registry.expect_request(f"/v2/{name}/manifests/{tag}").respond_with_data(manifest, content_type=kind, headers={"Docker-Content-Digest": digest})
    return digest


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def test_an_image_that_was_there_just_now_is_not_looked_for(engine: DockerEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    image = "tes-test/busybox:latest"
    looks: list[str] = []
    look = docker_images.prepare

    def counted(daemon: docker_client.Daemon, wanted: str, login: docker_images.Login = docker_images.no_login) -> str:
        looks.append(wanted)
        return look(daemon, wanted, login)

    monkeypatch.setattr(docker_images, "prepare", counted)
    assert engine.prepare(image) == engine.prepare(image)
    assert looks == [image]
    monkeypatch.setattr(docker_engine, "FRESH", -1.0)
    engine.prepare(image)
    assert looks == [image, image]


def test_an_image_by_its_id(engine: DockerEngine) -> None:
    """One that no registry has is pinned so; nothing is pulled."""
    with engine._daemon.ask("the id") as client:
        known = client.inspect_image("tes-test/busybox")["Id"]
    full = known if known.startswith("sha256:") else f"sha256:{known}"
    assert engine.prepare(full)
    with pytest.raises(errors.EngineError, match="not there any more") as caught:
        engine.prepare("sha256:" + "0" * 64)
    assert (caught.value.code, caught.value.transient) == (Code.IMAGE_NOT_FOUND, True)
