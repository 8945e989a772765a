"""Requests to registries: who is asked, with which secrets, and who must not get them."""

from __future__ import annotations

import base64
import json
import logging
import pathlib
import shutil
import ssl
import subprocess
import urllib.parse

import pytest

from tes_server import errors
from tes_server.runner import image_access
from tes_server.runner.image_registry import Mirror
from tes_server.telemetry import Code
from tests import image_registry
from tests.contract.web_server import Answer, Request, serving
from tests.image_case import Packed, entry, layer, pack
from tests.unit.runner.conftest import Maker

Registry = image_registry.Registry
BASIC = "Basic " + base64.b64encode(b"me:se:cret").decode()


@pytest.fixture
def image() -> Packed:
    return pack([layer(entry("file", b"content"))])


def logins(tmp_path: pathlib.Path, **auths: object) -> pathlib.Path:
    """Docker's config.json."""
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"auths": auths}))
    return file


def login(tmp_path: pathlib.Path, host: str) -> pathlib.Path:
    return logins(tmp_path, **{host: {"auth": base64.b64encode(b"me:se:cret").decode()}})


class Gate:
    """A registry that wants tokens, and the server that gives them. `uses`: requests that one token is good for."""

    def __init__(self, registry: Registry, tokens: Registry, *, uses: int = 1000, realm: str = "") -> None:
        self.registry = registry
        self.given: list[Request] = []
        self.refuse: int = 0
        self._left = 0
        self._uses = uses
        self._realm = realm or f"{tokens.server.url}/token?x=1"
        registry.lie = self.guard
        tokens.lie = self.give

    def guard(self, request: Request) -> Answer | None:
        self._left -= 1
        if request.headers.get("authorization") == f"Bearer t{len(self.given)}" and self._left >= 0:
            return None
        repository = request.path.removeprefix("/v2/").rpartition("/")[0].rpartition("/")[0]
        return Answer(401, headers={"WWW-Authenticate": f'Bearer realm="{self._realm}",service="a, \\"b\\"",scope="repository:{repository}:pull,push"'})

    def give(self, request: Request) -> Answer:
        self.given.append(request)
        self._left = self._uses
        return Answer(self.refuse or 200, json.dumps({"token": f"t{len(self.given)}", "access_token": None, "expires_in": 300}).encode())


def query(request: Request) -> dict[str, str]:
    return dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(request.path).query))


def denied(make: Maker, name: str, **options: object) -> str:
    with pytest.raises(errors.EngineError) as caught:
        make(**options).prepare(name)
    assert (caught.value.code, caught.value.transient) == (Code.IMAGE_DENIED, False)
    assert "cret" not in str(caught.value)
    return caught.value.public


def test_anybody_gets_a_token_for_what_is_public(make: Maker, registry: Registry, other: Registry, image: Packed) -> None:
    gate = Gate(registry, other)
    make().prepare(registry.push(image, "team/tool"))
    (asked,) = gate.given
    assert query(asked) == {"x": "1", "service": 'a, "b"', "scope": "repository:team/tool:pull,push", "client_id": "tes-server"}
    assert "authorization" not in asked.headers


def test_a_token_is_for_one_repository(make: Maker, registry: Registry, other: Registry, image: Packed) -> None:
    gate = Gate(registry, other)
    images = make()
    images.prepare(registry.push(image, "one"))
    registry.push(image, "two")
    images.prepare(f"{registry.host}/two")
    assert [query(request)["scope"] for request in gate.given] == ["repository:one:pull,push", "repository:two:pull,push"]


def test_tokens_of_many_repositories_do_not_pile_up(make: Maker, registry: Registry, other: Registry, image: Packed, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(registry, other)
    monkeypatch.setattr(image_access, "MOST", 2)
    images = make()
    for name in ("one", "two", "three", "one"):
        registry.push(image, name)
        images.pull(f"{registry.host}/{name}")
    assert len(gate.given) == 4, "the first one's was dropped"
    images.pull(f"{registry.host}/three")
    assert len(gate.given) == 5, "the gate knows the last token only"


def test_a_token_that_ended_is_replaced(make: Maker, registry: Registry, other: Registry, image: Packed) -> None:
    gate = Gate(registry, other, uses=1)
    make().prepare(registry.push(image))
    assert len(gate.given) == 4, "for HEAD, manifest, config and layer"


def test_the_password_goes_to_the_token_server_only(make: Maker, registry: Registry, other: Registry, image: Packed, tmp_path: pathlib.Path) -> None:
    gate = Gate(registry, other)
    make(docker_config=login(tmp_path, registry.host)).prepare(registry.push(image))
    assert [request.headers["authorization"] for request in gate.given] == [BASIC]
    assert BASIC not in {request.headers.get("authorization") for request in registry.server.requests}


def test_an_identity_token_is_exchanged(make: Maker, registry: Registry, other: Registry, image: Packed, tmp_path: pathlib.Path) -> None:
    gate = Gate(registry, other)
    config = logins(tmp_path, **{f"http://{registry.host}/v1/": {"auth": base64.b64encode(b"00000000:").decode(), "identitytoken": "refresh/me"}})
    make(docker_config=config).prepare(registry.push(image))
    (asked,) = gate.given
    assert asked.method == "POST"
    assert urllib.parse.parse_qs(asked.body.decode())["refresh_token"] == ["refresh/me"]
    assert urllib.parse.parse_qs(asked.body.decode())["grant_type"] == ["refresh_token"]


def test_a_refused_token_is_told(make: Maker, registry: Registry, other: Registry, image: Packed, tmp_path: pathlib.Path) -> None:
    gate = Gate(registry, other)
    gate.refuse = 401
    name = registry.push(image)
    assert "without a login" in denied(make, name)
    assert "login that this server has" in denied(make, name, docker_config=login(tmp_path, registry.host))


def test_a_token_that_does_not_help_is_told(make: Maker, registry: Registry, other: Registry, image: Packed) -> None:
    gate = Gate(registry, other, uses=0)
    assert "denies it" in denied(make, registry.push(image))
    assert len(gate.given) == 1


def test_a_busy_token_server_is_asked_again(make: Maker, registry: Registry, other: Registry, image: Packed) -> None:
    gate = Gate(registry, other)
    other.lie = lambda request: Answer(503) if request.number < 2 else gate.give(request)
    make().prepare(registry.push(image))


def test_a_token_that_is_no_text_is_told(make: Maker, registry: Registry, other: Registry, image: Packed) -> None:
    Gate(registry, other)
    other.lie = lambda _: Answer(200, b'{"token": "\xff"}')
    with pytest.raises(errors.EngineError, match="something else than a token"):
        make().prepare(registry.push(image))


def test_basic(make: Maker, registry: Registry, image: Packed, tmp_path: pathlib.Path) -> None:
    def guard(request: Request) -> Answer | None:
        return None if request.headers.get("authorization") == BASIC else Answer(401, headers={"WWW-Authenticate": 'Basic realm="x"'})

    registry.lie = guard
    name = registry.push(image)
    assert "wants a user" in denied(make, name)
    asked = len(registry.server.requests)
    make(docker_config=login(tmp_path, registry.host)).prepare(name)
    assert len(registry.server.requests) == asked + 5, "one 401, then HEAD, manifest, config and layer"


def test_a_wrong_password_is_told(make: Maker, registry: Registry, image: Packed, tmp_path: pathlib.Path) -> None:
    registry.lie = lambda _: Answer(401, headers={"WWW-Authenticate": "Basic"})
    assert "denies it" in denied(make, registry.push(image), docker_config=login(tmp_path, registry.host))
    registry.lie = lambda _: Answer(401, headers={"WWW-Authenticate": "Negotiate"})
    assert "not known here" in denied(make, registry.push(image))
    registry.lie = lambda _: Answer(401)
    assert "not known here" in denied(make, registry.push(image))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_secrets_do_not_follow_a_redirect(make: Maker, registry: Registry, other: Registry, image: Packed, tmp_path: pathlib.Path, status: int) -> None:
    """Registries send blobs to an object store, whose urls are signed: it wants no other sign-in, and must not learn ours."""
    name = registry.push(image)
    other.push(image)

    def guard(request: Request) -> Answer | None:
        if request.headers.get("authorization") != BASIC:
            return Answer(401, headers={"WWW-Authenticate": "Basic"})
        return Answer(status, headers={"Location": f"{other.server.url}{request.path}"}) if "/blobs/" in request.path else None

    registry.lie = guard
    make(docker_config=login(tmp_path, registry.host)).prepare(name)
    assert len(other.server.requests) == 2
    assert not any("authorization" in request.headers for request in other.server.requests)


def test_a_redirect_on_the_same_host_keeps_them(make: Maker, registry: Registry, image: Packed, tmp_path: pathlib.Path) -> None:
    def guard(request: Request) -> Answer | None:
        if request.headers.get("authorization") != BASIC:
            return Answer(401, headers={"WWW-Authenticate": "Basic"})
        if request.path.startswith("/moved"):
            return registry.truth(request._replace(path=request.path.removeprefix("/moved")))
        return Answer(307, headers={"Location": f"/moved{request.path}"})

    registry.lie = guard
    make(docker_config=login(tmp_path, registry.host)).prepare(registry.push(image))


def test_redirects_in_a_circle_end(make: Maker, registry: Registry, image: Packed) -> None:
    registry.lie = lambda request: Answer(302, headers={"Location": request.path})
    with pytest.raises(errors.EngineError, match="redirects more than 5 times"):
        make().prepare(registry.push(image))


def test_secrets_are_not_logged(
    make: Maker, registry: Registry, other: Registry, image: Packed, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    Gate(registry, other)
    with caplog.at_level(logging.DEBUG):
        make(docker_config=login(tmp_path, registry.host)).prepare(registry.push(image))
    said = " ".join(f"{record.getMessage()} {getattr(record, 'fields', '')}" for record in caplog.records)
    assert "image.pulled" in said
    assert "cret" not in said
    assert BASIC not in said
    assert "Bearer" not in said


# -- mirrors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prefix", "path", "there"),
    [("{host}", "", "team/tool"), ("{host}/team", "", "tool"), ("{host}", "/proxy/", "proxy/team/tool"), ("{host}/team/tool", "/a/b", "a/b")],
)
def test_a_mirror_is_asked_first(make: Maker, registry: Registry, other: Registry, image: Packed, prefix: str, path: str, there: str) -> None:
    other.push(image, there)
    images = make(mirrors=(Mirror(prefix.format(host=registry.host), other.server.url + path),))
    assert images.prepare(f"{registry.host}/team/tool").digest == image.digest
    assert registry.server.requests == []


@pytest.mark.parametrize("prefix", ["elsewhere.org", "{host}/te", "{host}/team/tool/x"])
def test_a_mirror_of_something_else_is_not(make: Maker, registry: Registry, other: Registry, image: Packed, prefix: str) -> None:
    make(mirrors=(Mirror(prefix.format(host=registry.host), other.server.url),)).prepare(registry.push(image, "team/tool"))
    assert other.server.requests == []


@pytest.mark.parametrize("answer", [Answer(404), Answer(500), Answer(401), Answer(403), Answer(200, b"{}")])
def test_what_a_mirror_does_not_have_comes_from_the_registry(make: Maker, registry: Registry, other: Registry, image: Packed, answer: Answer) -> None:
    other.lie = lambda request: answer if ("/manifests/" in request.path and request.method == "GET") or answer.status != 200 else None
    other.push(image)
    gone = Mirror(registry.host, "http://127.0.0.1:1")
    name = registry.push(image)
    assert (
        make(mirrors=(gone, Mirror(registry.host, other.server.url))).prepare(f"{registry.host}/x@{image.digest}" if answer.status == 200 else name).digest
        == image.digest
    )
    assert len(registry.asked("/manifests/")) >= 1


def test_a_mirror_that_does_not_answer_is_passed_over_for_a_while(make: Maker, registry: Registry, other: Registry, image: Packed) -> None:
    other.lie = lambda _: Answer(503)
    mirrors = (Mirror(registry.host, other.server.url),)
    images = make(mirrors=mirrors)
    images.prepare(registry.push(image))
    assert len(other.server.requests) == 1, "not for each blob"
    other.lie = lambda _: Answer(404)
    make(mirrors=mirrors, fresh=0).prepare(f"{registry.host}/x")
    assert len(other.server.requests) == 2
    another = registry.push(pack([layer(entry("file", b"another"))]), "y")
    make(mirrors=mirrors).prepare(another)
    assert len(other.server.requests) == 2 + 4, "one that has nothing of this image may have the next: digest, manifest, config and layer"


def test_a_mirror_has_its_own_login(make: Maker, registry: Registry, other: Registry, image: Packed, tmp_path: pathlib.Path) -> None:
    other.push(image)
    other.lie = lambda request: None if request.headers.get("authorization") == BASIC else Answer(401, headers={"WWW-Authenticate": "Basic"})
    make(mirrors=(Mirror(registry.host, other.server.url),), docker_config=login(tmp_path, other.host)).prepare(f"{registry.host}/x")
    assert registry.server.requests == []


# -- challenges --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("challenge", "scheme", "parameters"),
    [
        (
            'Bearer realm="https://a/token",service="b",scope="repository:x:pull,push"',
            "bearer",
            {"realm": "https://a/token", "service": "b", "scope": "repository:x:pull,push"},
        ),
        ('BEARER Realm = "a" , service=b', "bearer", {"realm": "a", "service": "b"}),
        ('Negotiate realm="x", Basic realm="a \\"b\\""', "basic", {"realm": 'a "b"'}),
        ("Basic", "basic", {}),
        ("Negotiate", "", {}),
        ('Digest realm="a", nonce="b", Bearer realm="c"', "bearer", {"realm": "c"}),
        ("", "", {}),
        ('"', "", {}),
    ],
)
def test_challenges_are_read(challenge: str, scheme: str, parameters: dict[str, str]) -> None:
    assert image_access.parse(challenge) == (scheme, parameters)


ODD = ["http://[x", "http://[::::]/", "http://x:99999999/", "http://a..b/", "http:///"]


@pytest.mark.parametrize("address", ODD)
def test_an_address_that_is_none_ends_a_pull(make: Maker, registry: Registry, image: Packed, address: str) -> None:
    name = registry.push(image)
    for answer in (Answer(307, headers={"Location": address}), Answer(401, headers={"WWW-Authenticate": f'Bearer realm="{address}"'})):
        registry.lie = lambda request, answer=answer: answer if request.method == "GET" else None  # type: ignore[misc]
        with pytest.raises(errors.EngineError, match=r"address|redirects") as caught:
            make().prepare(name)
        assert not caught.value.transient


@pytest.mark.parametrize("realm", ["http://tokens.example/", "ftp://x/", "", "token"])
def test_a_token_server_without_tls_gets_no_password(realm: str) -> None:
    def send(*_: object, **__: object) -> object:
        raise AssertionError

    with pytest.raises(errors.EngineError, match="TLS"):
        image_access.Access().sign_in("https://registry.example", "x", f'Bearer realm="{realm}"', None, send)  # type: ignore[arg-type]


# -- connections -------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")
def test_a_private_authority_is_trusted_by_the_usual_variable(
    make: Maker, image: Packed, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*words, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with serving(context) as server:
        registry = Registry(server)
        registry.push(image)
        mirrors = (Mirror("registry.invalid", server.url),)
        with caplog.at_level(logging.INFO), pytest.raises(errors.EngineError, match="cannot be resolved"):
            make(mirrors=mirrors).prepare("registry.invalid/x")
        (said,) = [record.fields["error"] for record in caplog.records if record.getMessage() == "image.mirror.failed"]  # type: ignore[attr-defined]
        assert said.startswith(f"the certificate of {server.url.removeprefix('https://')} is not trusted here, or it does not speak TLS")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert make(mirrors=mirrors).prepare("registry.invalid/x").digest == image.digest


def test_a_registry_without_tls_must_be_named(make: Maker, registry: Registry, image: Packed, monkeypatch: pytest.MonkeyPatch) -> None:
    """By way of a proxy, as no other host is here that could be asked."""
    registry.push(image)
    asked: list[str] = []

    def forward(request: Request) -> Answer:
        asked.append(request.path)
        return registry.truth(request._replace(path=request.path.removeprefix("http://plain.invalid")))

    registry.lie = forward
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("http_proxy", registry.server.url)
    options = {"plain_http": frozenset({"plain.invalid"})}
    assert make(**options).prepare("plain.invalid/x").digest == image.digest
    assert set(asked) >= {"http://plain.invalid/v2/x/manifests/latest"}
    count = len(asked)
    with pytest.raises(errors.EngineError, match="cannot be resolved"):
        make(fresh=0).prepare("other.invalid/x")
    monkeypatch.setenv("no_proxy", "plain.invalid")
    with pytest.raises(errors.EngineError, match="cannot be resolved"):
        make(**options).pull("plain.invalid/x")
    assert len(asked) == count
