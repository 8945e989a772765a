"""From settings to who makes digests of names, and what doctor says of the registries among them."""

from __future__ import annotations

import base64
import json
import pathlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tes_server import app, configuration, settings
from tes_server.digests.base import Answer, Resolved, Unresolved
from tests import image_case, image_registry
from tests.contract.web_server import Answer as Reply
from tests.image_case import Packed, entry, layer, pack

DIGEST = "sha256:" + "a" * 64
ONE = pack([layer(entry("file", b"one"))])
SCAN: dict[str, Any] = {"scan.image": f"ghcr.io/aquasecurity/trivy@{DIGEST}", "scan.server": "http://trivy:4954", "local.engine": "sandbox"}


@pytest.fixture
def registry() -> Iterator[image_registry.Registry]:
    with image_registry.registry() as running:
        yield running


def made(tmp_path: pathlib.Path, **tree: Any) -> settings.Settings:
    found = configuration.load(None, {}, {"data": str(tmp_path / "data"), "scan.mode": "enforce", **SCAN, **tree})
    app.check(found)
    return found


def asked(given: settings.Settings, image: str, backend: str = "local") -> Answer:
    resolver, heard = app.resolver(given), threading.Event()
    assert resolver is not None
    resolver.listen(heard.set)
    try:
        while not (known := resolver.ask([image], backend)):
            assert heard.wait(20)
            heard.clear()
    finally:
        resolver.close()
    return known[image]


def test_where_nothing_is_scanned_nothing_is_looked_up(tmp_path: pathlib.Path) -> None:
    assert app.resolver(made(tmp_path, **{"scan.mode": "off"})) is None
    assert app.resolver(made(tmp_path, **{"scan.mode": "off", "scan.owners": {"guest*": "warn"}})) is not None


def test_this_machine_asks_registries_of_its_own(tmp_path: pathlib.Path, registry: image_registry.Registry) -> None:
    name = registry.push(ONE)
    assert asked(made(tmp_path), name) == Resolved(name, ONE.digest, f"{registry.host}/x@{ONE.digest}")


def test_a_cluster_s_are_reached_as_the_settings_say(tmp_path: pathlib.Path, registry: image_registry.Registry) -> None:
    registry.push(ONE)
    given = made(
        tmp_path,
        **{"kubernetes.namespace": "tes", "kubernetes.image": "i", "local.enabled": False, "scan.registries": {"127.0.0.1:5000": registry.server.url}},
    )
    assert asked(given, "127.0.0.1:5000/x", "kubernetes") == Resolved("127.0.0.1:5000/x", ONE.digest, f"127.0.0.1:5000/x@{ONE.digest}")
    answer = asked(given, f"{registry.host}/x", "kubernetes")
    assert isinstance(answer, Unresolved)
    assert "scan.registries" in answer.message


@pytest.mark.parametrize("how", ["scan.docker_config", "DOCKER_CONFIG"])
def test_logins_are_this_server_s_own(tmp_path: pathlib.Path, registry: image_registry.Registry, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    basic = base64.b64encode(b"me:secret").decode()
    name = registry.push(ONE)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"auths": {registry.host: {"auth": basic}}}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path if how == "DOCKER_CONFIG" else tmp_path / "none"))

    def guard(request: Any) -> Reply | None:
        return None if request.headers.get("authorization") == f"Basic {basic}" else Reply(401, headers={"WWW-Authenticate": 'Basic realm="x"'})

    registry.lie = guard
    given = made(tmp_path, **({"scan.docker_config": str(file)} if how == "scan.docker_config" else {}))
    assert isinstance(asked(given, name), Resolved)


def test_this_machine_s_own_programs(tmp_path: pathlib.Path) -> None:
    answer = asked(made(tmp_path, **{"sandbox.allow_host": True}), "host")
    assert isinstance(answer, Unresolved)
    assert "scan.exempt" in answer.message


def test_architectures_of_backends(tmp_path: pathlib.Path, registry: image_registry.Registry) -> None:
    other = Packed(ONE.manifest + b" ", ONE.blobs)
    for packed, tag in ((ONE, "amd64"), (other, "arm64")):
        registry.push(packed, tag=tag)
    entries = [(ONE, {"os": "linux", "architecture": "amd64"}), (other, {"os": "linux", "architecture": "arm64"})]
    registry.put(image_case.index(entries), image_case.OCI_INDEX, "x", "latest")
    for architecture, packed in (("amd64", ONE), ("arm64", other)):
        answer = asked(made(tmp_path, **{"scan.architectures": {"local": architecture}}), f"{registry.host}/x")
        assert isinstance(answer, Resolved)
        assert answer.digest == packed.digest


def test_doctor_tells_of_registries(tmp_path: pathlib.Path, registry: image_registry.Registry) -> None:
    registry.lie = lambda request: Reply(401) if request.path == "/v2/" else None
    file = tmp_path / "tes.toml"
    file.write_text(f'data = "{tmp_path}/data"\n[scan]\nmode = "warn"\nimage = "{SCAN["scan.image"]}"\nserver = "http://trivy:4954"\n')
    with file.open("a") as settings_file:
        settings_file.write(f'registries = {{"r.example:5000" = "{registry.server.url}", "gone.example" = "http://127.0.0.1:1"}}\n')
    command = [str(word) for word in (pathlib.Path(sys.executable).with_name("tes-server"), "doctor", "--engine", "sandbox", "--config", file)]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    assert f"ok    registry r.example:5000 at {registry.server.url}: can be asked for digests" in said
    assert "no    registry gone.example at http://127.0.0.1:1: 127.0.0.1:1 refuses the connection" in said
