"""Names to digests by Debian's docker-registry and a Docker daemon, against what these make of the same names."""

from __future__ import annotations

import base64
import contextlib
import json
import pathlib
import threading
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import urllib3
from pytest_httpserver import HTTPServer

from tes_server.digests import kept, lookup
from tes_server.digests.base import Answer, Resolved, Unresolved
from tes_server.digests.logins import Logins
from tes_server.digests.lookup import Lookup, Place
from tes_server.digests.resolver import LookupResolver
from tes_server.runner.docker_client import Daemon
from tes_server.runner.image_registry import Registry
from tes_server.telemetry import Code
from tests import image_case
from tests.image_case import Packed, entry, layer, pack
from tests.integration import daemons, registry_server, token_server

pytestmark = pytest.mark.registry

AMD, ARM = ({"os": "linux", "architecture": name} for name in ("amd64", "arm64"))
PLACES = {"local": Place(here=True, architecture="amd64"), "arm": Place(here=True, architecture="arm64")}
BASIC = "Basic " + base64.b64encode(f"{registry_server.USER}:{registry_server.PASSWORD}".encode()).decode()


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with registry_server.running(tmp_path_factory.mktemp("registry")) as host:
        yield host


def made(content: str = "") -> Packed:
    return pack([layer(entry("file", (content or uuid.uuid4().hex).encode()))])


class Pushing:
    """What `docker push` asks of a registry (OCI distribution 1.1, "Pushing")."""

    def __init__(self, host: str, authorization: str = "") -> None:
        self._url = f"http://{host}/v2"
        self._headers = {"Authorization": authorization} if authorization else {}

    def ask(self, method: str, url: str, body: bytes = b"", **headers: str) -> urllib3.BaseHTTPResponse:
        with urllib3.PoolManager() as pools:
            answer = pools.request(method, url, body=body, headers={**self._headers, **headers}, retries=False)
        assert answer.status < 300, answer.data
        return answer

    def image(self, packed: Packed, repository: str, tag: str) -> None:
        for digest, data in packed.blobs.items():
            where = self.ask("POST", f"{self._url}/{repository}/blobs/uploads/").headers["Location"]
            self.ask("PUT", f"{where}{'&' if '?' in where else '?'}digest={digest}", data, **{"Content-Type": "application/octet-stream"})
        self.manifest(packed.manifest, packed.media_type, repository, tag)

    def manifest(self, data: bytes, media_type: str, repository: str, tag: str) -> None:
        self.ask("PUT", f"{self._url}/{repository}/manifests/{tag}", data, **{"Content-Type": media_type})


def look(places: Mapping[str, Place] = PLACES, docker_config: pathlib.Path | None = None, addresses: Mapping[str, str] | None = None) -> Lookup:
    known = addresses or {}
    return Lookup(Registry(addresses=known, docker_config=docker_config, identity=Logins().find, pace=lookup.PACE), places, known)


def code(answer: Answer) -> tuple[str, bool]:
    assert isinstance(answer, Unresolved), answer
    return answer.code, answer.passing


def test_tags_digests_and_architectures(registry: str) -> None:
    one, two, push, ask = made(), made(), Pushing(registry), look()
    push.image(one, "team/tool", "one")
    push.image(two, "team/tool", "two")
    both = image_case.index([(one, AMD), (two, ARM)])
    push.manifest(both, image_case.OCI_INDEX, "team/tool", "both")
    name = f"{registry}/team/tool"
    assert ask(f"{name}:two", "local") == Resolved(f"{name}:two", two.digest, f"{name}@{two.digest}")
    assert ask(f"{name}:both", "local") == Resolved(f"{name}:both", one.digest, f"{name}@{one.digest}")
    assert ask(f"{name}:both", "arm") == Resolved(f"{name}:both", two.digest, f"{name}@{two.digest}")
    push.manifest(image_case.index([(two, ARM)]), image_case.OCI_INDEX, "team/tool", "both")
    assert code(ask(f"{name}:both", "local")) == (Code.IMAGE_ERROR, False), "the tag moved to an index without the architecture"
    assert code(ask(f"{name}@sha256:{'0' * 64}", "local")) == (Code.IMAGE_NOT_FOUND, False)
    assert code(ask(f"{name}:none", "local")) == (Code.IMAGE_NOT_FOUND, False)
    assert code(ask(f"{registry}/none", "local")) == (Code.IMAGE_NOT_FOUND, False)


def test_by_another_address(registry: str) -> None:
    one = made()
    Pushing(registry).image(one, "elsewhere", "1")
    answer = look(addresses={"127.0.0.1:5000": f"http://{registry}"})("127.0.0.1:5000/elsewhere:1", "kubernetes")
    assert isinstance(answer, Resolved)
    assert answer.pinned == f"127.0.0.1:5000/elsewhere@{one.digest}"


def test_a_burst_is_one_look_up(registry: str) -> None:
    one, ask, asked = made(), look(), list[str]()
    Pushing(registry).image(one, "burst", "1")
    name, heard = f"{registry}/burst:1", threading.Event()

    def counted(image: str, backend: str) -> Answer:
        asked.append(image)
        return ask(image, backend)

    resolver = LookupResolver(counted, ask.close)
    resolver.listen(heard.set)
    try:
        assert resolver.ask([name], "local") == {}
        assert heard.wait(20)
        for _ in range(500):
            assert resolver.ask([name], "local") == {name: Resolved(name, one.digest, f"{registry}/burst@{one.digest}")}
        assert asked == [name]
    finally:
        resolver.close()


def config(directory: pathlib.Path, host: str) -> pathlib.Path:
    file = directory / "config.json"
    file.write_text(json.dumps({"auths": {host: {"auth": BASIC.removeprefix("Basic ")}}}))
    return file


def test_a_registry_with_a_password(tmp_path: pathlib.Path) -> None:
    with registry_server.running(tmp_path, htpasswd=registry_server.HTPASSWD) as host:
        one = made()
        Pushing(host, BASIC).image(one, "private", "1")
        assert code(look()(f"{host}/private:1", "local")) == (Code.IMAGE_DENIED, False)
        answer = look(docker_config=config(tmp_path, host))(f"{host}/private:1", "local")
        assert isinstance(answer, Resolved)
        assert answer.digest == one.digest


def test_a_registry_with_a_token_server(docker_client: Any, tmp_path: pathlib.Path) -> None:
    user, password = registry_server.USER, registry_server.PASSWORD
    with token_server.running(tmp_path, user, password) as tokens, registry_server.running(tmp_path, tokens=tokens) as host:
        name = f"{host}/private:1"
        docker_client.tag("tes-test/static", name)
        try:
            said = list(docker_client.push(name, stream=True, decode=True, auth_config={"username": user, "password": password}))
        finally:
            docker_client.remove_image(name, noprune=True)
        (pushed,) = [event["aux"]["Digest"] for event in said if "aux" in event]
        assert code(look()(name, "local")) == (Code.IMAGE_DENIED, False)
        answer = look(docker_config=config(tmp_path, host))(name, "local")
        assert isinstance(answer, Resolved)
        assert answer.digest == pushed, "what Docker says that it pushed"
        assert tokens.scopes[-1] == "repository:private:pull"


def test_an_ecr_registry_by_the_server_s_own_identity(httpserver: HTTPServer, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ecr = "123456789012.dkr.ecr.eu-west-1.amazonaws.com"
    for name, value in {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_ENDPOINT_URL_ECR": httpserver.url_for("/")}.items():
        monkeypatch.setenv(name, value)
    token = {"authorizationToken": BASIC.removeprefix("Basic "), "proxyEndpoint": f"https://{ecr}"}
    httpserver.expect_request("/").respond_with_json({"authorizationData": [token]}, content_type="application/x-amz-json-1.1")
    with registry_server.running(tmp_path, htpasswd=registry_server.HTPASSWD) as host:
        one = made()
        Pushing(host, BASIC).image(one, "tools/bwa", "1")
        answer = look(addresses={ecr: f"http://{host}"})(f"{ecr}/tools/bwa:1", "aws_batch")
        assert answer == Resolved(f"{ecr}/tools/bwa:1", one.digest, f"{ecr}/tools/bwa@{one.digest}")
        assert len(httpserver.log) == 1


class TestDaemon:
    """Docker's or Podman's service on this machine."""

    def here(self, daemon: Daemon) -> Lookup:
        return look({"local": Place(here=True, look=kept.of_daemon(daemon))})

    def test_what_is_in_no_registry_is_its_id(self, daemon: daemons.Daemon) -> None:
        repository = f"127.0.0.1:1/{uuid.uuid4().hex}"
        name, client = f"{repository}:latest", daemon.client
        client.tag("tes-test/static", repository, "latest")
        with contextlib.closing(Daemon(daemon.url, daemon.product, kept.TIMEOUT)) as asked:
            ask = self.here(asked)
            try:
                known = "sha256:" + client.inspect_image(name)["Id"].removeprefix("sha256:")
                assert ask(repository, "local") == Resolved(repository, known, known, local=True)
                assert ask(known, "local") == Resolved(known, known, known, local=True)
                assert client.inspect_image(known)["Id"].removeprefix("sha256:") == known[7:], "which runs it, too"
            finally:
                client.remove_image(name, noprune=True)
            assert code(ask(name, "local")) == (Code.IMAGE_ERROR, True), "now nobody has it, and its registry does not answer"

    @pytest.mark.docker
    def test_what_a_registry_has_docker_runs_by_that_digest(self, docker_client: Any, registry: str) -> None:
        name = f"{registry}/static:{uuid.uuid4().hex}"
        docker_client.tag("tes-test/static", name)
        pinned = ""
        with contextlib.closing(Daemon("", timeout=kept.TIMEOUT)) as asked:
            try:
                (pushed,) = [event["aux"]["Digest"] for event in docker_client.push(name, stream=True, decode=True) if "aux" in event]
                answer = self.here(asked)(name, "local")
                assert isinstance(answer, Resolved)
                assert (answer.digest, answer.local) == (pushed, False)
                pinned = answer.pinned
                docker_client.remove_image(name, noprune=True)
                docker_client.pull(pinned)
                assert pinned in docker_client.inspect_image(pinned)["RepoDigests"]
            finally:
                for each in (name, pinned):
                    if each and docker_client.images(each):
                        docker_client.remove_image(each, noprune=True)

    def test_a_daemon_that_is_not_there_says_nothing(self, registry: str) -> None:
        one = made()
        Pushing(registry).image(one, "nodaemon", "1")
        answer = self.here(Daemon("tcp://127.0.0.1:1"))(f"{registry}/nodaemon:1", "local")
        assert isinstance(answer, Resolved)
        assert answer.digest == one.digest
