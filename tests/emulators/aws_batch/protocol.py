"""botocore's descriptions of the services as the judge of requests and answers."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import botocore.session
import botocore.validate

from tests.emulators.faults import Bucket

Json = dict[str, Any]


class AwsError(Exception):
    """An error that a service answers with: its code, the words, the HTTP status."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status


THROTTLED = AwsError("TooManyRequestsException", "Too Many Requests", 429)
BROKEN = AwsError("ServerException", "Service Internal Error", 500)


def limit(bucket: Bucket) -> Callable[[str], None]:
    """What calls of SubmitJob take their tokens from."""

    def limit(call: str) -> None:
        if call == "batch.SubmitJob" and not bucket.take():
            raise THROTTLED

    return limit


def client_error(message: str) -> AwsError:
    """What AWS Batch answers to requests that are wrong."""
    return AwsError("ClientException", message)


@functools.cache
def service(name: str) -> Service:
    """There is one of each: descriptions are large."""
    return Service(name)


class Service:
    """One service of AWS: which operation a request is for, and whether requests and answers have the shapes that AWS gives them."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._model = botocore.session.get_session().get_service_model(name)
        self._validator = botocore.validate.ParamValidator()
        self.rest = self._model.metadata["protocol"] == "rest-json"
        self.target = "" if self.rest else str(self._model.metadata["targetPrefix"])
        self.signing = str(self._model.signing_name)
        paths = {self._model.operation_model(found).http["requestUri"]: str(found) for found in self._model.operation_names} if self.rest else {}
        self._paths: dict[str, str] = paths

    def operation(self, path: str, target: str) -> str | None:
        """The operation that a POST to `path`, or one with the header X-Amz-Target, asks for; None if it is another service's."""
        if self.rest:
            return self._paths.get(path)
        prefix, _, operation = target.partition(".")
        return operation if prefix == self.target and operation in self._model.operation_names else None

    def read(self, operation: str, body: bytes) -> Json:
        """The parameters of a request. AwsError where they are not what the service takes: unknown members included."""
        try:
            given = json.loads(body or b"{}")
        except ValueError as error:
            raise self._refusal("the body is no JSON") from error
        shape = self._model.operation_model(operation).input_shape
        if shape is None:
            return {}
        if words := self._faults(given, shape):
            raise self._refusal(words)
        assert isinstance(given, dict)
        return given

    def write(self, operation: str, answer: Mapping[str, Any]) -> bytes:
        """An answer as JSON. AssertionError: it is not one that the service could give, which is a defect of the emulator."""
        shape = self._model.operation_model(operation).output_shape
        if shape is not None:
            words = self._faults(_complete(answer), shape)
            assert not words, f"{operation}: {words}"
        return json.dumps(answer).encode() if answer or self.rest or shape is not None else b""

    def _refusal(self, words: str) -> AwsError:
        return client_error(words) if self.rest else AwsError("SerializationException" if "JSON" in words else "ValidationException", words)

    def _faults(self, given: Any, shape: Any) -> str:
        report = self._validator.validate(given, shape)
        return str(report.generate_report()) if report.has_errors() else "; ".join(_against(given, shape, ""))


def _complete(answer: Any) -> Any:
    """The service's description requires `startedAt` of every job, yet the service leaves it out until a job has started."""
    if isinstance(answer, dict):
        whole = {name: _complete(value) for name, value in answer.items()}
        return {"startedAt": 0, **whole} if {"jobId", "jobQueue", "status"} <= whole.keys() else whole
    return [_complete(value) for value in answer] if isinstance(answer, list) else answer


def _against(value: Any, shape: Any, where: str) -> Iterator[str]:
    """What botocore's own validator leaves to the service: enumerations, patterns, upper bounds."""
    if shape.type_name == "structure":
        for name, member in value.items():
            yield from _against(member, shape.members[name], f"{where}.{name}")
    elif shape.type_name == "list":
        yield from _too_large(len(value), shape, where)
        for index, member in enumerate(value):
            yield from _against(member, shape.member, f"{where}[{index}]")
    elif shape.type_name == "map":
        yield from _too_large(len(value), shape, where)
        for name, member in value.items():
            yield from _against(name, shape.key, f"{where}.{name}")
            yield from _against(member, shape.value, f"{where}.{name}")
    elif shape.type_name == "string":
        yield from _too_large(len(value), shape, where)
        if getattr(shape, "enum", None) and value not in shape.enum:
            yield f"{where}: {value} is none of {', '.join(shape.enum)}"
        if (pattern := shape.metadata.get("pattern")) and not re.search(pattern, value):
            yield f"{where}: {value!r} does not match {pattern}"
    elif shape.type_name in ("integer", "long"):
        yield from _too_large(value, shape, where)


def _too_large(size: int, shape: Any, where: str) -> Iterator[str]:
    if size > shape.metadata.get("max", size):
        yield f"{where}: {size} is more than {shape.metadata['max']}"
