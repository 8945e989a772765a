"""Who signed a request (Signature Version 4), and what that principal may do."""

from __future__ import annotations

import dataclasses
import fnmatch
import hmac
import re
import threading
from collections.abc import Mapping

import botocore.auth
import botocore.awsrequest
import botocore.credentials

from tests.emulators.aws_batch.protocol import AwsError

HEADER = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(?P<key>[^/]+)/(?P<date>\d{8})/(?P<region>[a-z0-9-]+)/(?P<service>[a-z0-9-]+)/aws4_request, "
    r"SignedHeaders=(?P<headers>[a-z0-9;-]+), Signature=(?P<signature>[0-9a-f]{64})"
)


@dataclasses.dataclass(eq=False)
class Principal:
    """A user or a role. `denied`: actions as policies name them, `batch:SubmitJob`, `sqs:*`."""

    arn: str
    secret: str
    token: str = ""
    denied: tuple[str, ...] = ()


class Keys:
    """Access keys that are known. Safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._principals: dict[str, Principal] = {}

    def add(self, key: str, principal: Principal) -> None:
        with self._lock:
            self._principals[key] = principal

    def check(self, method: str, url: str, headers: Mapping[str, str], body: bytes, service: str) -> Principal:
        """Who signed it. AwsError 403: nobody whom we know, or the signature is wrong."""
        found = HEADER.fullmatch(headers.get("authorization", ""))
        if found is None:
            raise AwsError("MissingAuthenticationTokenException", "Missing Authentication Token", 403)
        with self._lock:
            principal = self._principals.get(found["key"])
        if principal is None or headers.get("x-amz-security-token", "") != principal.token:
            raise AwsError("UnrecognizedClientException", "The security token included in the request is invalid.", 403)
        if found["service"] != service:
            raise AwsError("InvalidSignatureException", f"Credential should be scoped to correct service: '{service}'.", 403)
        if not hmac.compare_digest(found["signature"], _signature(principal, found, method, url, headers, body)):
            words = "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and signing method."
            raise AwsError("InvalidSignatureException", words, 403)
        return principal

    def allow(self, principal: Principal, service: str, operation: str, resource: str) -> None:
        """AwsError 403 where an action is denied to the principal."""
        action = f"{service}:{operation.removesuffix('Batch')}"  # those of SQS need the right to the single operation
        if any(fnmatch.fnmatchcase(action.lower(), denied.lower()) for denied in principal.denied):
            words = f"User: {principal.arn} is not authorized to perform: {action} on resource: {resource}"
            raise AwsError("AccessDeniedException", f"{words} because no identity-based policy allows the {action} action", 403)


def _signature(principal: Principal, found: re.Match[str], method: str, url: str, headers: Mapping[str, str], body: bytes) -> str:
    signed = {name: headers.get(name, "") for name in found["headers"].split(";")}
    request = botocore.awsrequest.AWSRequest(method=method, url=url, data=body, headers=signed)
    request.context["timestamp"] = headers.get("x-amz-date", "")
    auth = botocore.auth.SigV4Auth(botocore.credentials.Credentials("", principal.secret), found["service"], found["region"])
    auth.credentials.access_key = found["key"]
    return str(auth.signature(auth.string_to_sign(request, auth.canonical_request(request)), request))
