"""Calls of AWS Batch and SQS by boto3, and what their errors mean. The only module here that knows the SDK.

Throttling is met by botocore's adaptive mode: each process slows down to what the account lets through, so that several share its 50 SubmitJobs a
second without knowing each other. No error of the SDK leaves this module.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from tes_server import errors

CONNECT = 5.0
"""Seconds to connect."""

READ = 15.0
"""Seconds of silence."""

TRIES = 3
"""Times that a call is sent."""

POLL = 20
"""Seconds of one long poll: the longest that SQS takes."""

CONNECTIONS = 16

SLOWEST = 0.5
"""Requests a second of all threads together to which adaptive back-off slows down at most (botocore)."""

LONGEST = max(TRIES * (CONNECT + READ) + 20.0, TRIES * CONNECTIONS / SLOWEST + 4.0)
"""Seconds after which a call has ended: without an answer, or throttled; its waits between tries included."""

_THROTTLED = frozenset({"TooManyRequestsException", "ThrottlingException", "Throttling", "RequestLimitExceeded", "RequestThrottled", "SlowDown"})
_FAULTY = frozenset({"ClientException", "ValidationException", "ParamValidationError"})
_DENIED = frozenset(
    {
        "AccessDeniedException",
        "AccessDenied",
        "UnrecognizedClientException",
        "InvalidClientTokenId",
        "ExpiredTokenException",
        "ExpiredToken",
        "InvalidSignatureException",
        "SignatureDoesNotMatch",
        "MissingAuthenticationTokenException",
        "OptInRequired",
    }
)


class Refused(errors.Unavailable):
    """AWS answered with an error. `code` is its own; `status` that of HTTP."""

    def __init__(self, public: str, code: str, status: int) -> None:
        super().__init__(public)
        self.code = code
        self.status = status

    @property
    def throttled(self) -> bool:
        """Later it may be done."""
        return self.code in _THROTTLED or self.status == 429

    @property
    def denied(self) -> bool:
        """This server's credentials do not allow it, or are not good."""
        return self.code in _DENIED or self.status in (401, 403, 407)

    @property
    def ours(self) -> bool:
        """The request was at fault: nothing was done, and nothing would be if it were sent again."""
        return 400 <= self.status < 500 and not self.throttled and not self.denied

    @property
    def faulty(self) -> bool:
        """AWS, or the SDK before it was sent, found fault with what the request asks for: it will at every try."""
        return self.code in _FAULTY or self.status == 413


class Silent(errors.Unavailable):
    """No answer: nobody knows whether it was done."""


class NotSent(errors.Unavailable):
    """Nothing was sent: no connection, or no credentials."""


class Calls:
    """Clients of one account and region. Thread-safe."""

    def __init__(self, region: str = "", profile: str = "") -> None:
        """Raises SettingsError where boto3 is missing, the profile is unknown, or nothing names a region."""
        try:
            import boto3
            import botocore.config
            import botocore.exceptions
        except ModuleNotFoundError as cause:
            raise errors.SettingsError("AWS Batch needs more: pip install 'tes-server[aws]'", "aws_batch.queue") from cause
        try:
            session = boto3.session.Session(region_name=region or None, profile_name=profile or None)
        except botocore.exceptions.ProfileNotFound as cause:
            raise errors.SettingsError(str(cause), "aws_batch.profile") from cause
        if not session.region_name:
            raise errors.SettingsError("must be named: neither AWS_REGION nor the profile does", "aws_batch.region")
        self.region = str(session.region_name)

        def config(read: float) -> Any:
            return botocore.config.Config(
                connect_timeout=CONNECT,
                read_timeout=read,
                retries={"mode": "adaptive", "total_max_attempts": TRIES},
                max_pool_connections=CONNECTIONS,
                user_agent_extra="tes-server",
            )

        try:
            self._batch = session.client("batch", config=config(READ))
            self._submit = session.client("batch", config=config(READ))  # slowed down alone: its limit is a low one
            self._sqs = session.client("sqs", config=config(POLL + READ))
        except (botocore.exceptions.BotoCoreError, ValueError) as cause:
            raise errors.SettingsError(str(cause), "aws_batch.region") from cause

    def batch(self, operation: str, request: Mapping[str, Any]) -> dict[str, Any]:
        """One call of AWS Batch, by the name of its method (`submit_job`). Raises Refused, Silent or NotSent."""
        with _told(f"AWS Batch {operation}"):
            answer: dict[str, Any] = getattr(self._submit if operation == "submit_job" else self._batch, operation)(**request)
        return answer

    def sqs(self, operation: str, request: Mapping[str, Any]) -> dict[str, Any]:
        """One call of SQS."""
        with _told(f"SQS {operation}"):
            answer: dict[str, Any] = getattr(self._sqs, operation)(**request)
        return answer

    def close(self) -> None:
        """Close idle connections."""
        self._batch.close()
        self._submit.close()
        self._sqs.close()


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """The SDK's errors as ours. Its words name no secret."""
    from botocore import exceptions

    try:
        yield
    except exceptions.ClientError as cause:
        error = cause.response.get("Error", {})
        status = int(cause.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        raise Refused(f"{what}: {error.get('Message') or error.get('Code') or status}", str(error.get("Code", "")), status) from cause
    except exceptions.ParamValidationError as cause:  # never sent: the SDK's model refuses it
        raise Refused(f"{what}: {cause}", "ParamValidationError", 400) from cause
    except (exceptions.EndpointConnectionError, exceptions.ConnectTimeoutError, exceptions.ProxyConnectionError) as cause:
        raise NotSent(f"{what}: {cause}") from cause
    except (exceptions.NoCredentialsError, exceptions.CredentialRetrievalError, exceptions.TokenRetrievalError, exceptions.SSOError) as cause:
        raise NotSent(f"{what}: {cause}") from cause
    except exceptions.BotoCoreError as cause:
        raise Silent(f"{what}: {cause}") from cause
