"""Logins of the clouds' registries by the server's own identity: emulated clouds, and their refusals in our words."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator

import pytest
from pytest_httpserver import HTTPServer

from tes_server import errors
from tes_server.digests import logins
from tes_server.digests.logins import Logins
from tes_server.telemetry import Code
from tests.emulators.azure_batch.emulator import Emulator
from tests.emulators.azure_batch.world import CLIENT, World

ECR = "123456789012.dkr.ecr.eu-west-1.amazonaws.com"
ACR = "lab.azurecr.io"
OTHER = "cccccccc-0000-0000-0000-000000000001"
OTHERS = ["docker.io", "ghcr.io", "localhost:5000", "public.ecr.aws", f"{ECR}.evil.org", f"{ACR}.evil.org", f"{ACR}:443", f"{ECR}:8443"]


@pytest.fixture(scope="module")
def emulated() -> Iterator[Emulator]:
    with Emulator(World(), metadata="loopback", pretend=True) as made:
        yield made
        assert made.small_services.refused == []


@pytest.mark.parametrize("registry", OTHERS)
def test_other_registries_get_none(registry: str) -> None:
    assert Logins().find(registry) is None


class TestEcr:
    @pytest.fixture
    def service(self, httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[HTTPServer]:
        for name, value in {
            "AWS_ACCESS_KEY_ID": "k",
            "AWS_SECRET_ACCESS_KEY": "s",
            "AWS_ENDPOINT_URL_ECR": httpserver.url_for("/"),
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": "/nonexistent",
            "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
        }.items():
            monkeypatch.setenv(name, value)
        yield httpserver
        httpserver.check()

    def answer(self, service: HTTPServer, status: int, body: object) -> None:
        service.expect_request("/", method="POST").respond_with_json(body, status=status, content_type="application/x-amz-json-1.1")

    def test_a_login_is_asked_for_once(self, service: HTTPServer) -> None:
        token = base64.b64encode(b"AWS:pass:word").decode()
        self.answer(service, 200, {"authorizationData": [{"authorizationToken": token, "proxyEndpoint": f"https://{ECR}"}]})
        known = Logins()
        for _ in range(3):
            login = known.find(ECR)
            assert login is not None
            assert (login.user, login.password) == ("AWS", "pass:word")
            assert "pass" not in repr(login)
        assert [json.loads(request.get_data()) for request, _ in service.log] == [{"registryIds": ["123456789012"]}]

    @pytest.mark.parametrize(("status", "kind", "code"), [(400, "AccessDeniedException", Code.IMAGE_DENIED), (500, "ServerException", Code.IMAGE_ERROR)])
    def test_a_refusal(self, service: HTTPServer, status: int, kind: str, code: Code) -> None:
        self.answer(service, status, {"__type": kind, "message": "no"})
        with pytest.raises(errors.EngineError, match=f"no login for its registry, ecr:GetAuthorizationToken says {kind}") as raised:
            Logins().find(ECR)
        assert (raised.value.code, raised.value.transient) == (code, code == Code.IMAGE_ERROR)
        assert len(service.log) == (logins.TRIES if status == 500 else 1)

    def test_a_profile_that_there_is_not(self, service: HTTPServer) -> None:
        with pytest.raises(errors.EngineError, match="no such profile"):
            Logins(profile="lab").find(ECR)
        assert service.log == []


class TestAcr:
    @pytest.fixture
    def azure(self, emulated: Emulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
        """This server has an identity: a service principal, which azure-identity finds in the environment."""
        for name, value in {**emulated.environment, **emulated.node_environment, "no_proxy": "127.0.0.1"}.items():
            monkeypatch.setenv(name, value)
        emulated.calls.reset()
        emulated.identities.given.clear()
        yield emulated
        emulated.bad_days.mend()

    def test_a_login_is_asked_for_once(self, azure: Emulator) -> None:
        known = Logins()
        for _ in range(3):
            login = known.find(ACR)
            assert login is not None
            assert azure.small_services.exchanged[login.password] == (ACR, CLIENT)
        assert azure.calls.seen["exchange"] == 1

    def test_one_that_does_not_know_the_identity_may_let_anybody_read(
        self, azure: Emulator, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        azure.bad_days.deny(OTHER, ["exchange"], "another")
        monkeypatch.setenv("AZURE_CLIENT_ID", OTHER)
        monkeypatch.setenv("AZURE_CLIENT_SECRET", "another")
        assert Logins().find(ACR) is None
        told = [(record.getMessage(), record.fields["error"]) for record in caplog.records if record.name == logins.__name__]  # type: ignore[attr-defined]
        assert told == [("image.login.refused", f"{ACR} says no: status 401 (UNAUTHORIZED)")]

    def test_no_identity(self, azure: Emulator, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
        monkeypatch.setenv("AZURE_CLIENT_SECRET", "another")
        known = Logins()
        assert [known.find(ACR), known.find(ACR)] == [None, None]
        told = [record.fields["error"] for record in caplog.records if record.name == logins.__name__]  # type: ignore[attr-defined]
        assert told == ["Microsoft Entra ID gives this server no token (ClientAuthenticationError)"]
        assert azure.calls.seen["exchange"] == 0

    def test_one_that_is_not_well(self, azure: Emulator) -> None:
        azure.bad_days.fail("exchange")
        with pytest.raises(errors.EngineError, match=f"no login for its registry: {ACR} says no: status 500") as raised:
            Logins().find(ACR)
        assert (raised.value.code, raised.value.transient) == (Code.IMAGE_ERROR, True)
