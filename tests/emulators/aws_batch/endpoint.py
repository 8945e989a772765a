"""The HTTP endpoint of all services: finds the operation, checks who asks, has shapes checked, answers as AWS does."""

from __future__ import annotations

import json
import traceback
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import botocore

from tests.emulators.aws_batch import protocol
from tests.emulators.aws_batch.protocol import AwsError, Json, Service
from tests.emulators.aws_batch.signing import Keys
from tests.emulators.faults import Calls
from tests.emulators.http_server import Answer, Server, loopback

ADMIN = "/_emulator/"
"""Where `POST NAME` with JSON calls the emulator itself."""
OLD_NAMES = {"QueueDoesNotExist": "AWS.SimpleQueueService.NonExistentQueue", "ReceiptHandleIsInvalid": "ReceiptHandleIsInvalid"}
"""SQS repeats errors under the codes of its old protocol."""


class Operations(Protocol):
    """A service's operations are its methods, by botocore's names of them."""

    def resource(self, operation: str, given: Json) -> str:
        """What the operation is about, as in messages of denied access."""


class Endpoint:
    """All services behind one address. `url` is known before any service is added."""

    def __init__(self, calls: Calls, keys: Keys, port: int = 0) -> None:
        self._calls = calls
        self._keys = keys
        self._services: list[tuple[Service, Operations]] = []
        self._admin: Callable[[str, Json], Any] = lambda _name, _given: None
        self.defects: list[str] = []
        """answers that no such service would give, and handlers that failed: tests look at it"""
        self._server = Server(loopback(port), self._reply)
        self.url = f"http://127.0.0.1:{self._server.port}"

    def add(self, service: str, operations: Operations) -> None:
        self._services.append((protocol.service(service), operations))

    def start(self, admin: Callable[[str, Json], Any]) -> None:
        self._admin = admin
        self._server.start()

    def close(self) -> None:
        self._server.close()

    def _reply(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer | None:
        if path.startswith(ADMIN):
            return self._administer(path.removeprefix(ADMIN), body)
        for service, operations in self._services:
            operation = service.operation(path, headers.get("x-amz-target", ""))
            if operation is not None and method == "POST":
                return self._call(service, operations, operation, path, headers, body)
        return Answer(404, b'{"message": "the emulator knows no such operation"}', {"x-amzn-errortype": "UnknownOperationException"})

    def _call(self, service: Service, operations: Operations, operation: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer | None:
        call = f"{service.name}.{operation}"
        try:
            lost = self._calls.begin(call)
            who = self._keys.check("POST", self.url + path, headers, body, service.signing)
            act: Callable[[Json], Json] | None = getattr(operations, botocore.xform_name(operation), None)
            if act is None:
                raise AwsError("UnknownOperationException", f"the emulator does not know {call}", 404)
            given = service.read(operation, body)
            self._keys.allow(who, service.signing, operation, operations.resource(operation, given))
            answer = service.write(operation, act(given))
        except AwsError as error:
            self._calls.refuse(call, error.code)
            return _refusal(service, error)
        except Exception:  # noqa: BLE001 - whatever it is, the client gets an answer, and the tests hear of it
            self.defects.append(traceback.format_exc())
            return _refusal(service, AwsError("InternalFailure", "a defect of the emulator", 500))
        return None if lost else Answer(200, answer, {"Content-Type": _content_type(service), "x-amzn-RequestId": str(uuid.uuid4())})

    def _administer(self, name: str, body: bytes) -> Answer:
        try:
            return Answer(200, json.dumps(self._admin(name, json.loads(body or b"{}")), default=str).encode() + b"\n", {})
        except (AttributeError, TypeError, ValueError, LookupError, AssertionError) as error:
            return Answer(400, f"{type(error).__name__}: {error}\n".encode(), {"Content-Type": "text/plain"})


def _content_type(service: Service) -> str:
    return "application/json" if service.rest else "application/x-amz-json-1.0"


def _refusal(service: Service, error: AwsError) -> Answer:
    headers = {"Content-Type": _content_type(service), "x-amzn-RequestId": str(uuid.uuid4()), "x-amzn-errortype": error.code}
    if service.name == "sqs":
        fault = "Receiver" if error.status >= 500 else "Sender"
        headers["x-amzn-query-error"] = f"{OLD_NAMES.get(error.code, error.code)};{fault}"
    told = {"message": error.message} if service.rest else {"__type": f"com.amazonaws.{service.name}#{error.code}", "message": error.message}
    return Answer(error.status, json.dumps(told).encode(), headers)
