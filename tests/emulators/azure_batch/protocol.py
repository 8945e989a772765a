"""The SDK's models as the judge of requests and answers, and the errors of the service."""

from __future__ import annotations

import datetime
import enum
import functools
import inspect
import re
import sys
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import azure.batch.models

Json = dict[str, Any]
DURATION = re.compile(r"P(?=.)(\d+D)?(T(?=\d)(\d+H)?(\d+M)?(\d+(\.\d+)?S)?)?")


class BatchError(Exception):
    """An error that the service answers with: its code, the HTTP status, the words, what it says of details."""

    def __init__(self, code: str, status: int, message: str, values: Mapping[str, str] | None = None, retry_after: int | None = None) -> None:
        super().__init__(f"{code}: {message} {dict(values or {})}")
        self.code = code
        self.status = status
        self.message = message
        self.values = dict(values or {})
        self.retry_after = retry_after


def not_found(what: str) -> BatchError:
    """`what`: Pool, Node, Job, Task, File."""
    return BatchError(f"{what}NotFound", 404, f"The specified {what.lower()} does not exist.")


def invalid(name: str, value: object, reason: str) -> BatchError:
    """A property of the body has a value that the service does not take."""
    words = "The value provided for one of the properties in the request body is invalid."
    return BatchError("InvalidPropertyValue", 400, words, {"PropertyName": name, "PropertyValue": str(value), "Reason": reason})


def bad_query(name: str, value: object, reason: str) -> BatchError:
    words = "Value for one of the query parameters specified in the request URI is invalid"
    return BatchError("InvalidQueryParameterValue", 400, words, {"QueryParameterName": name, "QueryParameterValue": str(value), "Reason": reason})


class Fault(NamedTuple):
    """What is wrong with a part of a body. `kind`: missing, unknown, invalid."""

    where: str
    kind: str
    value: object
    words: str


class Field(NamedTuple):
    """A property of a model. `hint`: without its None."""

    hint: Any
    required: bool
    read_only: bool
    text: bool
    """a number that travels as text"""


@functools.cache
def fields(model: type) -> dict[str, Field]:
    """The properties of a model of the SDK, by their names in JSON."""
    model({})  # their names are only known once there has been one
    names = {"_models": sys.modules[model.__module__.rpartition(".")[0]], "datetime": datetime}
    found = {}
    for name, hint in typing.get_type_hints(model, localns=names).items():
        field = inspect.getattr_static(model, name, None)
        if hasattr(field, "_rest_name_input"):
            bare = [one for one in typing.get_args(hint) if one is not types.NoneType] if _is_union(hint) else [hint]
            optional = _is_union(hint) and types.NoneType in typing.get_args(hint)
            # Where text or an enumeration is meant, the enumeration says what the service takes.
            wanted = next((one for one in bare if isinstance(one, type) and issubclass(one, enum.Enum)), bare[0])
            found[str(field._rest_name_input)] = Field(wanted, not optional, field._visibility == ["read"], field._format == "str")
    return found


def model(name: str) -> type:
    """A model of the SDK; a few it does not export."""
    return typing.cast("type", getattr(azure.batch.models, name, None) or getattr(azure.batch.models._models, name))


def read(name: str, body: Any) -> Json:
    """A request's body. BatchError 400 where it is not what the model `name` describes: unknown and read-only properties included."""
    if not isinstance(body, dict):
        raise BatchError("InvalidRequestBody", 400, "The specified Request Body is not syntactically valid.", {"Reason": "no JSON object"})
    for fault in faults(body, model(name), request=True):
        if fault.kind == "missing":
            raise BatchError("MissingRequiredProperty", 400, "A required property was not specified in the request body.", {"PropertyName": fault.where})
        if fault.kind == "unknown":
            words = f"The property '{fault.where}' does not exist on type '{name}', or cannot be set."
            raise BatchError("InvalidRequestBody", 400, "The specified Request Body is not syntactically valid.", {"Reason": words})
        raise invalid(fault.where, fault.value, fault.words)
    return body


def check(name: str, answer: Any, *, whole: bool = True) -> None:
    """AssertionError: this is no answer that the service could give, which is a defect of the emulator. `whole`: nothing was left out by $select."""
    found = [fault for fault in faults(answer, model(name), request=False) if whole or fault.kind != "missing"]
    assert not found, f"{name}: {found}"


def faults(value: Any, shape: Any, where: str = "", *, request: bool) -> Iterator[Fault]:
    """What is wrong with a value."""
    if getattr(shape, "_is_model", False):
        if not isinstance(value, dict):
            yield Fault(where, "invalid", value, "not an object")
            return
        known = fields(shape)
        for name, field in known.items():
            if field.required and not (request and field.read_only) and value.get(name) is None:
                yield Fault(_joined(where, name), "missing", None, "")
        for name, one in value.items():
            if name not in known or (request and known[name].read_only):
                yield Fault(_joined(where, name), "unknown", one, "")
            elif known[name].text:
                if not (isinstance(one, str) and one.isdecimal()):
                    yield Fault(_joined(where, name), "invalid", one, "not a number as text")
            elif one is not None:
                yield from faults(one, known[name].hint, _joined(where, name), request=request)
    elif typing.get_origin(shape) is list:
        if not isinstance(value, list):
            yield Fault(where, "invalid", value, "not a list")
            return
        for index, one in enumerate(value):
            yield from faults(one, typing.get_args(shape)[0], f"{where}[{index}]", request=request)
    elif not _fits(value, shape):
        yield Fault(where, "invalid", value, f"not of type {getattr(shape, '__name__', shape)}")


def _joined(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def _fits(value: Any, shape: Any) -> bool:
    if isinstance(shape, type) and issubclass(shape, enum.Enum):
        return value in [one.value for one in shape]
    if shape is datetime.datetime:
        return isinstance(value, str) and _is_time(value)
    if shape is datetime.timedelta:
        return isinstance(value, str) and DURATION.fullmatch(value) is not None
    if shape is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if shape is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return not isinstance(shape, type) or isinstance(value, shape)


def _is_time(text: str) -> bool:
    try:
        return datetime.datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


def duration(text: str) -> float:
    """Seconds of an ISO 8601 duration."""
    found = DURATION.fullmatch(text)
    if found is None:
        raise ValueError(text)
    parts = (float(part[:-1]) if part else 0.0 for part in (found[1], found[3], found[4], found[5]))
    return sum(part * unit for part, unit in zip(parts, (86400, 3600, 60, 1), strict=True))


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def stamp(time: datetime.datetime) -> str:
    """As the service tells times: seven digits of a second."""
    return f"{time:%Y-%m-%dT%H:%M:%S}.{time.microsecond:06d}0Z"
