"""What a runner on a node of AWS asks AWS for: secrets that executors may have, and the login of a private ECR registry.

With the credentials of the job's role, which only the runner has. The server asks for logins, too, with its own. boto3 is an
extra, imported where it is used. This module must never put an answer into an error or a log.
"""

from __future__ import annotations

import base64
import contextlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from tes_server import errors
from tes_server.telemetry import Code

REGISTRY = re.compile(r"(?P<account>[0-9]{12})\.dkr\.ecr(?:-fips)?\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(?:\.cn)?/")
"""Images of a private ECR registry begin with this."""

SECRET = re.compile(r"arn:aws[a-z-]*:secretsmanager:(?P<region>[a-z0-9-]+):[0-9]{12}:secret:.+")
"""ARN of a secret."""

MISSING = frozenset({"ResourceNotFoundException", "InvalidRequestException"})
"""The latter: it is about to be deleted."""

PASSING = frozenset({"ThrottlingException", "TooManyRequestsException", "InternalServiceError", "ServerException", "RequestExpired", "ExpiredTokenException"})
"""Codes of errors that may pass, after botocore has tried again by itself."""


TRIES = 5
"""Times that a call is sent which fails in a passing way."""


class Refused(Exception):
    """AWS did not answer as it should. `code`: its own word; `transient`: a later try may work."""

    def __init__(self, code: str, transient: bool) -> None:
        super().__init__(code)
        self.code = code
        self.transient = transient


def secret(reference: str) -> str:
    """`vault.Look` for ARNs of Secrets Manager."""
    found = SECRET.fullmatch(reference)
    if found is None:
        raise errors.StagingError("what it leads to is no ARN of AWS Secrets Manager", Code.SECRET_ERROR)
    try:
        with _client("secretsmanager", found["region"]) as client:
            answer = client.get_secret_value(SecretId=reference)
    except Refused as cause:
        if cause.transient:
            raise errors.StagingError(f"AWS Secrets Manager does not answer: {cause.code}", Code.SECRET_ERROR, transient=True) from None
        if cause.code in MISSING:
            raise errors.StagingError(f"AWS Secrets Manager does not have it: {cause.code}", Code.SECRET_NOT_FOUND) from None
        raise errors.StagingError(f"AWS Secrets Manager does not give it: {cause.code}", Code.SECRET_DENIED) from None
    if "SecretString" not in answer:
        raise errors.StagingError("it is binary, and an environment variable is text", Code.SECRET_ERROR)
    return str(answer["SecretString"])


def login(image: str) -> Mapping[str, str] | None:
    """`docker_images.Login`: for images of a private ECR registry a token of twelve hours; None for others."""
    try:
        return given(image)
    except errors.EngineError as cause:
        raise errors.EngineError(f"{image}: {cause.public}", cause.code, cause.transient) from None


def given(image: str, profile: str = "", tries: int = TRIES) -> Mapping[str, str] | None:
    """The same; its errors leave it to the caller to name the image. `profile`: of the AWS configuration files, "" = the usual search for credentials."""
    found = REGISTRY.match(image)
    if found is None:
        return None
    try:
        with _client("ecr", found["region"], profile, tries) as client:
            told = client.get_authorization_token(registryIds=[found["account"]])["authorizationData"][0]
    except Refused as cause:
        code = Code.IMAGE_ERROR if cause.transient else Code.IMAGE_DENIED
        raise errors.EngineError(f"no login for its registry, ecr:GetAuthorizationToken says {cause.code}", code, cause.transient) from None
    username, _, password = base64.b64decode(told["authorizationToken"]).decode().partition(":")
    return {"username": username, "password": password}


@contextlib.contextmanager
def _client(service: str, region: str, profile: str = "", tries: int = TRIES) -> Iterator[Any]:
    """A client for one call. Failures of the call, or on the way to AWS, are Refused: without the words of AWS, which quote what was sent."""
    try:
        import boto3
        from botocore import config, exceptions
    except ModuleNotFoundError:
        raise Refused("tes-server[aws] is not installed here", transient=False) from None
    options = config.Config(connect_timeout=10, read_timeout=20, retries={"mode": "standard", "total_max_attempts": tries})
    try:
        with contextlib.closing(boto3.session.Session(profile_name=profile or None).client(service, region_name=region, config=options)) as client:
            yield client
    except exceptions.ClientError as cause:
        code = str(cause.response.get("Error", {}).get("Code", ""))
        status = cause.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        raise Refused(code, transient=code in PASSING or status >= 500) from None
    except (exceptions.NoCredentialsError, exceptions.PartialCredentialsError):
        raise Refused("no credentials of AWS are found here", transient=False) from None
    except exceptions.ProfileNotFound:
        raise Refused("the AWS configuration files have no such profile", transient=False) from None
    except exceptions.BotoCoreError as cause:
        raise Refused(type(cause).__name__, transient=True) from None
