"""What a runner asks AWS for: the answers of an HTTP server in its place, and its refusals in our words."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pytest_httpserver import HTTPServer

from tes_server import errors
from tes_server.runner import aws
from tes_server.telemetry import Code

ARN = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:db-a1B2c3"
IMAGE = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/tools/bwa:1"

Service = Callable[[int, dict[str, Any]], HTTPServer]


@pytest.fixture
def service(httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "k",
        "AWS_SECRET_ACCESS_KEY": "s",
        "AWS_ENDPOINT_URL_SECRETS_MANAGER": httpserver.url_for("/"),
        "AWS_ENDPOINT_URL_ECR": httpserver.url_for("/"),
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/nonexistent",
        "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
    }.items():
        monkeypatch.setenv(name, value)

    def answer(status: int, body: dict[str, Any]) -> HTTPServer:
        httpserver.expect_request("/", method="POST").respond_with_json(body, status=status, content_type="application/x-amz-json-1.1")
        return httpserver

    yield answer
    httpserver.check()


def test_a_secret(service: Service) -> None:
    server = service(200, {"ARN": ARN, "Name": "db", "SecretString": "s3cr3t"})
    assert aws.secret(ARN) == "s3cr3t"
    request = server.log[0][0]
    assert request.headers["X-Amz-Target"] == "secretsmanager.GetSecretValue"
    assert "/eu-west-1/secretsmanager/" in request.headers["Authorization"]
    assert json.loads(request.get_data()) == {"SecretId": ARN}


@pytest.mark.parametrize(
    ("status", "kind", "code", "transient"),
    [
        (400, "ResourceNotFoundException", Code.SECRET_NOT_FOUND, False),
        (400, "InvalidRequestException", Code.SECRET_NOT_FOUND, False),
        (400, "AccessDeniedException", Code.SECRET_DENIED, False),
        (400, "DecryptionFailure", Code.SECRET_DENIED, False),
        (400, "UnrecognizedClientException", Code.SECRET_DENIED, False),
        (400, "ExpiredTokenException", Code.SECRET_ERROR, True),
    ],
)
def test_refusals_of_a_secret(service: Service, status: int, kind: str, code: Code, transient: bool) -> None:
    service(status, {"__type": kind, "message": "long words with s3cr3t"})
    with pytest.raises(errors.StagingError, match=kind) as raised:
        aws.secret(ARN)
    assert (raised.value.code, raised.value.transient) == (code, transient)
    assert "s3cr3t" not in raised.value.public


def test_throttling_passes(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.0)
    server = service(400, {"__type": "ThrottlingException", "message": "slow down"})
    with pytest.raises(errors.StagingError, match="does not answer: ThrottlingException") as raised:
        aws.secret(ARN)
    assert raised.value.transient
    assert len(server.log) == 5


def test_a_binary_secret_and_what_is_no_arn(service: Service) -> None:
    service(200, {"ARN": ARN, "SecretBinary": base64.b64encode(b"s3cr3t").decode()})
    with pytest.raises(errors.StagingError, match="binary"):
        aws.secret(ARN)
    with pytest.raises(errors.StagingError, match="no ARN of AWS Secrets Manager"):
        aws.secret("https://vault.example/db")


def test_a_node_without_credentials(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(errors.StagingError, match="no credentials of AWS are found here") as raised:
        aws.secret(ARN)
    assert (raised.value.code, raised.value.transient) == (Code.SECRET_DENIED, False)


def test_the_login_of_a_private_registry(service: Service) -> None:
    token = base64.b64encode(b"AWS:pass:word").decode()
    server = service(200, {"authorizationData": [{"authorizationToken": token, "proxyEndpoint": "https://x"}]})
    assert aws.login(IMAGE) == {"username": "AWS", "password": "pass:word"}
    assert json.loads(server.log[0][0].get_data()) == {"registryIds": ["123456789012"]}
    assert "/eu-west-1/ecr/" in server.log[0][0].headers["Authorization"]


@pytest.mark.parametrize(
    "image", ["ubuntu", "public.ecr.aws/x/y", f"localhost:5000/{IMAGE}", "1234.dkr.ecr.x.amazonaws.com/y", "123456789012.dkr.ecr.x.amazonaws.com.evil.org/y"]
)
def test_other_registries_are_the_login_files(image: str) -> None:
    assert aws.login(image) is None


def test_a_login_that_is_refused(service: Service) -> None:
    service(400, {"__type": "AccessDeniedException", "message": "no"})
    with pytest.raises(errors.EngineError, match="ecr:GetAuthorizationToken says AccessDeniedException") as raised:
        aws.login(IMAGE)
    assert (raised.value.code, raised.value.transient) == (Code.IMAGE_DENIED, False)
