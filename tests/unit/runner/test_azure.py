"""What a runner asks Azure for: an emulated node's answers, and refusals in our words."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from pytest_httpserver import HTTPServer

from tes_server import errors
from tes_server.runner import azure
from tes_server.telemetry import Code
from tests.emulators.azure_batch.emulator import Emulator
from tests.emulators.azure_batch.identities import Principal
from tests.emulators.azure_batch.world import CLIENT, World

VALUE = "s3cr3t"  # of nothing
VAULT = "https://lab.vault.azure.net/secrets"
URL = f"{VAULT}/db"
IMAGE = "lab.azurecr.io/tools/bwa:1"
OTHER = "cccccccc-0000-0000-0000-000000000001"
SOVEREIGN = [("vault.azure.net", "azurecr.io"), ("vault.azure.cn", "azurecr.cn"), ("vault.usgovcloudapi.net", "azurecr.us")]


@pytest.fixture(scope="module")
def emulated() -> Iterator[Emulator]:
    with Emulator(World(secrets={"lab/db": VALUE}), metadata="loopback", pretend=True) as made:
        yield made
        assert made.endpoint.defects == []
        assert made.small_services.refused == []


@pytest.fixture
def node(emulated: Emulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """Tests are on a node."""
    for name, value in emulated.node_environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(azure, "PAUSES", (0.0,) * 3)
    emulated.calls.reset()
    emulated.identities.given.clear()
    yield emulated
    emulated.bad_days.mend()


@contextlib.contextmanager
def refused(code: Code, transient: bool, words: str, kind: type[errors.StagingError | errors.EngineError] = errors.StagingError) -> Iterator[None]:
    with pytest.raises(kind, match=words) as raised:
        yield
    assert isinstance(raised.value, errors.StagingError | errors.EngineError)
    assert (raised.value.code, raised.value.transient) == (code, transient)
    assert VALUE not in raised.value.public
    assert "eyJ" not in raised.value.public, "no token either"


class TestSecrets:
    @pytest.mark.parametrize(("vaults", "_"), SOVEREIGN)
    def test_one_of_each_cloud(self, node: Emulator, vaults: str, _: str) -> None:
        assert azure.secret(f"https://lab.{vaults}/secrets/db") == VALUE
        assert node.identities.given == [(CLIENT, f"https://{vaults}")]

    def test_a_version_of_it(self, node: Emulator) -> None:
        with refused(Code.SECRET_NOT_FOUND, False, "SecretNotFound"):
            azure.secret(f"{URL}/{'0' * 32}")

    def test_by_another_identity_of_the_node(self, node: Emulator) -> None:
        node.identities.add(Principal(OTHER))
        assert azure.secret(URL, OTHER) == VALUE
        assert node.identities.given == [(OTHER, "https://vault.azure.net")]

    def test_what_is_missing(self, node: Emulator) -> None:
        with refused(Code.SECRET_NOT_FOUND, False, r"Azure Key Vault says no: status 404 \(SecretNotFound\)"):
            azure.secret(f"{VAULT}/other")
        assert node.calls.seen["get_secret"] == 1

    def test_what_the_identity_may_not_read(self, node: Emulator) -> None:
        node.bad_days.deny(OTHER, ["get_secret"])
        with refused(Code.SECRET_DENIED, False, r"status 403 \(Forbidden, ForbiddenByRbac\)"):
            azure.secret(URL, OTHER)

    def test_a_node_without_that_identity(self, node: Emulator) -> None:
        with refused(Code.SECRET_DENIED, False, r"the node's metadata service says no: status 400 \(invalid_request\)"):
            azure.secret(URL, "nobody")
        assert node.calls.seen["get_secret"] == 0

    def test_what_passes_is_asked_again(self, node: Emulator) -> None:
        node.bad_days.throttle("get_secret", times=1)
        node.bad_days.busy("get_secret", times=1)
        node.bad_days.fail("get_secret", times=1)
        assert azure.secret(URL) == VALUE
        assert node.calls.seen["get_secret"] == 4

    def test_what_does_not_pass_is_transient(self, node: Emulator) -> None:
        node.bad_days.throttle("get_secret")
        with refused(Code.SECRET_ERROR, True, r"status 429 \(TooManyRequests\)"):
            azure.secret(URL)

    def test_a_lost_answer(self, node: Emulator) -> None:
        node.bad_days.lose_answers(times=4, calls="get_secret")
        with refused(Code.SECRET_ERROR, True, "Azure Key Vault does not answer: .* lab.vault.azure.net"):
            azure.secret(URL)

    def test_an_authority_that_is_not_trusted(self, node: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("SSL_CERT_FILE")
        with refused(Code.SECRET_ERROR, False, "the certificate of lab.vault.azure.net is not trusted here"):
            azure.secret(URL)

    @pytest.mark.parametrize(
        "url",
        [
            "arn:aws:secretsmanager:eu-west-1:123456789012:secret:db-a1B2c3",
            "http://lab.vault.azure.net/secrets/db",
            "https://lab.vault.azure.net/keys/db",
            "https://lab.vault.azure.net.evil.org/secrets/db",
            "https://evil.org/lab.vault.azure.net/secrets/db",
            "https://lab.vault.azure.net/secrets/db?x=1",
        ],
    )
    def test_other_urls_get_no_token(self, node: Emulator, url: str) -> None:
        with refused(Code.SECRET_ERROR, False, "no url of a secret in Azure Key Vault"):
            azure.secret(url)
        assert node.identities.given == []


class TestMetadata:
    """The service on the node, where it is not well."""

    def serve(self, server: HTTPServer, monkeypatch: pytest.MonkeyPatch, *statuses: int) -> None:
        monkeypatch.setattr(azure, "PAUSES", (0.0,) * 3)
        monkeypatch.setenv(azure.METADATA, server.url_for("").rstrip("/"))
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # nothing is there
        for status in statuses:
            server.expect_ordered_request("/metadata/identity/oauth2/token", headers={"Metadata": "true"}).respond_with_data("{}", status=status)

    def test_while_it_is_updated_it_is_waited_for(self, httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
        self.serve(httpserver, monkeypatch, 404, 410, 429, 500)
        with refused(Code.SECRET_ERROR, True, "the node's metadata service says no: status 500"):
            azure.secret(URL)
        httpserver.check()

    def test_an_answer_without_a_token(self, httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
        self.serve(httpserver, monkeypatch, 200, 200, 200, 200)
        with refused(Code.SECRET_ERROR, True, "gives an answer that cannot be read"):
            azure.secret(URL)

    def test_nobody_is_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(azure, "PAUSES", ())
        monkeypatch.setenv(azure.METADATA, "http://127.0.0.1:1")
        with refused(Code.SECRET_ERROR, True, "the node's metadata service does not answer"):
            azure.secret(URL)


class TestLogins:
    @pytest.mark.parametrize(("_", "registries"), SOVEREIGN)
    def test_of_each_cloud(self, node: Emulator, _: str, registries: str) -> None:
        given = azure.login(f"lab.{registries}/tools/bwa:1")
        assert given is not None
        assert given["username"] == "00000000-0000-0000-0000-000000000000"
        assert node.small_services.exchanged[given["password"]] == (f"lab.{registries}", CLIENT)
        assert node.identities.given == [(CLIENT, "https://containerregistry.azure.net")]

    def test_by_another_identity_of_the_node(self, node: Emulator) -> None:
        node.identities.add(Principal(OTHER))
        given = azure.login(IMAGE, OTHER)
        assert given is not None
        assert node.small_services.exchanged[given["password"]] == ("lab.azurecr.io", OTHER)

    @pytest.mark.parametrize("image", ["ubuntu", "mcr.microsoft.com/x", f"localhost:5000/{IMAGE}", "lab.azurecr.io.evil.org/y", "evil.org/lab.azurecr.io/y"])
    def test_other_registries_get_no_token(self, node: Emulator, image: str) -> None:
        assert azure.login(image) is None
        assert node.identities.given == []

    def test_one_that_does_not_know_the_identity_may_let_anybody_read(self, node: Emulator, caplog: pytest.LogCaptureFixture) -> None:
        node.bad_days.deny(OTHER, ["exchange"])
        assert azure.login(IMAGE, OTHER) is None
        assert azure.login(IMAGE, "nobody") is None
        told = [(record.getMessage(), record.fields["error"]) for record in caplog.records]  # type: ignore[attr-defined]
        assert told == [
            ("node.login.refused", "lab.azurecr.io says no: status 401 (UNAUTHORIZED)"),
            ("node.login.refused", "the node's metadata service says no: status 400 (invalid_request)"),
        ]

    def test_one_that_is_away_is_tried_again_by_another_attempt(self, node: Emulator) -> None:
        node.bad_days.fail("exchange")
        with refused(Code.IMAGE_ERROR, True, f"{IMAGE}: no login for its registry: lab.azurecr.io says no: status 500", errors.EngineError):
            azure.login(IMAGE)
        assert node.calls.seen["exchange"] == 4
