"""The structs have the fields of the OpenAPI file, no more, no fewer, and of the same kinds."""

from __future__ import annotations

import datetime
import types
import typing
from typing import Any

import msgspec
import pytest
import yaml

from tes_server.api import application
from tes_server.model import task, views
from tes_server.model.states import State

SCHEMAS: dict[str, Any] = yaml.safe_load(application.description_file().read_text())["components"]["schemas"]

STRUCTS: dict[str, type[msgspec.Struct]] = {
    "tesInput": task.Input,
    "tesOutput": task.Output,
    "tesExecutor": task.Executor,
    "tesResources": task.Resources,
    "tesTask": task.Task,
    "tesExecutorLog": task.ExecutorLog,
    "tesOutputFileLog": task.OutputFileLog,
    "tesTaskLog": views._TaskLog,
}

SERVER_SETS = {"id", "state", "logs", "creation_time"}
"""What a submitted task has not."""

LATER_KNOWN = {("tesExecutorLog", "exit_code")}
"""Required by the file, absent until known (deviations.RESPONSES)."""


def kind(schema: dict[str, Any]) -> Any:
    """What a schema is in Python; times are texts there and datetimes here."""
    match schema:
        case {"$ref": reference}:
            name = reference.rpartition("/")[2]
            return {"tesFileType": task.FileType, "tesState": State}.get(name) or STRUCTS[name]
        case {"type": "array", "items": items}:
            return types.GenericAlias(tuple, (kind(items), ...))
        case {"type": "object", "additionalProperties": {"type": "string"}}:
            return dict[str, str]
        case {"type": name}:
            return {"string": str, "number": float, "integer": int, "boolean": bool}[name]
        case _:
            raise AssertionError(schema)


def given_kind(hint: Any) -> Any:
    """The kind of a field, without None."""
    if isinstance(hint, types.UnionType):
        (hint,) = (part for part in typing.get_args(hint) if part is not type(None))
    return str if hint is datetime.datetime else hint


@pytest.mark.parametrize("name", STRUCTS)
def test_a_struct_has_the_fields_of_its_schema(name: str) -> None:
    schema, struct = SCHEMAS[name], STRUCTS[name]
    declared = {field: kind(inner) for field, inner in schema["properties"].items() if name != "tesTask" or field not in SERVER_SETS}
    hints = typing.get_type_hints(struct)
    assert {field: given_kind(hints[field]) for field in struct.__struct_fields__} == declared


@pytest.mark.parametrize("name", STRUCTS)
def test_a_struct_needs_what_its_schema_requires(name: str) -> None:
    required = {field for field in SCHEMAS[name].get("required", ()) if (name, field) not in LATER_KNOWN}
    assert {field.name for field in msgspec.structs.fields(STRUCTS[name]) if field.required} == required


def test_an_answer_has_every_field_of_a_task() -> None:
    assert set(views._Task.__struct_fields__) == SCHEMAS["tesTask"]["properties"].keys()


@pytest.mark.parametrize(("name", "enum"), [("tesState", State), ("tesFileType", task.FileType)])
def test_enumerations(name: str, enum: type[State | task.FileType]) -> None:
    assert [member.value for member in enum] == SCHEMAS[name]["enum"]
