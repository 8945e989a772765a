"""Shared keys, tokens of Entra ID and of managed identities: checked on every call."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import urllib.parse
from typing import Any

import azure.core.exceptions
import azure.identity
import pytest
from azure.batch import BatchClient
from azure.core.credentials import AzureNamedKeyCredential

from tests.emulators.azure_batch.emulator import Emulator
from tests.emulators.azure_batch.world import ACCOUNT, CLIENT, KEY
from tests.unit.emulators.azure_batch.conftest import group, job, pool, refusal

SCOPE = "https://batch.core.windows.net//.default"


def ask(emulator: Emulator, path: str, headers: dict[str, str]) -> tuple[int, Any]:
    context = ssl.create_default_context(cafile=str(emulator.ca))
    connection = http.client.HTTPSConnection(urllib.parse.urlsplit(emulator.url).netloc, context=context)
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def test_a_shared_key_signs_every_kind_of_call(client: BatchClient) -> None:
    """With and without a body, with queries, with pages."""
    client.create_pool(pool())
    client.create_job(job())
    client.create_task_collection("job", group("a", "b", "c"))
    assert [found.id for found in client.list_tasks("job", max_results=1, select=["id"], filter="startswith(id, 'a') or id ge 'b'")] == ["a", "b", "c"]
    client.terminate_task("job", "a")
    client.delete_task("job", "b")
    client.disable_pool_auto_scale("spot")


@pytest.mark.parametrize(("account", "key"), [("other", KEY), (ACCOUNT, base64.b64encode(b"guessed").decode())])
def test_a_wrong_key_is_403(emulator: Emulator, account: str, key: str) -> None:
    with emulator.client(AzureNamedKeyCredential(account, key)) as client:
        assert refusal(lambda: list(client.list_pools())) == ("AuthenticationFailed", 403)
    assert emulator.calls.refused == {"list_pools AuthenticationFailed": 1}


def test_without_a_signature_it_is_401(emulator: Emulator) -> None:
    status, told = ask(emulator, "/pools?api-version=2025-06-01", {})
    assert (status, told["code"], told["message"]["lang"]) == (401, "AuthenticationFailed", "en-US")


def test_an_old_signature_is_403(emulator: Emulator) -> None:
    headers = {"Authorization": f"SharedKey {ACCOUNT}:{KEY}", "ocp-date": "Sun, 22 Nov 2020 05:00:00 GMT"}
    status, told = ask(emulator, "/pools?api-version=2025-06-01", headers)
    assert (status, told["values"][0]["key"]) == (403, "AuthenticationErrorDetail")
    assert "too far" in told["values"][0]["value"]


def test_a_token_of_entra_id(emulator: Emulator) -> None:
    credential = emulator.credential()
    with credential, emulator.client(credential) as client:
        client.create_pool(pool())
        assert [found.id for found in client.list_pools()] == ["spot"]
    assert emulator.identities.given == [(CLIENT, "https://batch.core.windows.net/")]


def test_a_federated_token(emulator: Emulator, tmp_path: Any) -> None:
    """As workload identity on AKS."""
    (tmp_path / "token").write_text("a token of the cluster")
    credential = azure.identity.WorkloadIdentityCredential(
        tenant_id="99999999-8888-7777-6666-555555555555",
        client_id=CLIENT,
        token_file_path=str(tmp_path / "token"),
        authority=urllib.parse.urlsplit(emulator.url).netloc,
        disable_instance_discovery=True,
        connection_verify=str(emulator.ca),
    )
    with credential, emulator.client(credential) as client:
        assert list(client.list_jobs()) == []


def test_a_secret_that_is_wrong(emulator: Emulator) -> None:
    with emulator.credential(secret="guessed") as credential, pytest.raises(azure.core.exceptions.ClientAuthenticationError, match="AADSTS7000215"):
        credential.get_token(SCOPE)


def test_tokens_for_something_else_and_expired_ones_are_401(emulator: Emulator) -> None:
    other = emulator.identities.token(CLIENT, "https://storage.azure.com/")["access_token"]
    status, told = ask(emulator, "/jobs?api-version=2025-06-01", {"Authorization": f"Bearer {other}"})
    assert (status, told["code"]) == (401, "AuthenticationFailed")
    with emulator.credential() as credential, emulator.client(credential) as client:
        assert list(client.list_jobs()) == []
        emulator.bad_days.expire_tokens()
        assert refusal(lambda: list(client.list_jobs())) == ("AuthenticationFailed", 401)


def test_who_may_not_do_it_is_told_so(emulator: Emulator) -> None:
    emulator.bad_days.deny("limited", ["create_*"], "secret")
    with emulator.credential("limited", "secret") as credential, emulator.client(credential) as client:
        assert list(client.list_pools()) == []
        assert refusal(client.create_pool, pool()) == ("InsufficientAccountPermissions", 403)


def test_a_managed_identity(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", emulator.metadata.url)
    with azure.identity.ManagedIdentityCredential(client_id=CLIENT) as credential, emulator.client(credential) as client:
        assert list(client.list_pools()) == []
    assert [(seen.path, seen.status) for seen in emulator.metadata.seen] == [("/metadata/identity/oauth2/token", 200)]


def test_instance_metadata_wants_its_header(emulator: Emulator) -> None:
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(emulator.metadata.url).netloc)
    try:
        for headers, status in (({}, 400), ({"Metadata": "true"}, 200), ({"Metadata": "true", "X-Forwarded-For": "10.0.0.1"}, 400)):
            connection.request("GET", "/metadata/instance?api-version=2021-02-01", headers=headers)
            answer = connection.getresponse()
            assert (answer.status, bool(answer.read())) == (status, True)
    finally:
        connection.close()


def test_the_authority_is_trusted_by_the_environment_too(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    key = AzureNamedKeyCredential(ACCOUNT, KEY)
    with BatchClient(emulator.url, key, retry_total=0) as client, pytest.raises(azure.core.exceptions.ServiceRequestError, match="certificate verify failed"):
        list(client.list_pools())
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(emulator.ca))
    with BatchClient(emulator.url, key, retry_total=0) as client:
        assert list(client.list_pools()) == []
