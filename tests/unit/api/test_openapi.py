"""The OpenAPI file keeps the structure of TES 1.1; what differs is listed with its reason in `deviations`."""

from __future__ import annotations

import pathlib
from typing import Any

import jsonschema_rs
import pytest
import yaml

from tes_server.api import application
from tests.unit.api import deviations

SPEC = pathlib.Path(__file__).parents[4] / "shared" / "spec"

WORDS = {"description", "summary", "example", "examples", "title", "tags", "info", "externalDocs", "x-codegen-request-body-name"}


REMOTE = "https://raw.githubusercontent.com/ga4gh-discovery/ga4gh-service-info/v1.0.0/service-info.yaml#/components/schemas/"


def ours() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(application.description_file().read_text())
    return loaded


def theirs() -> dict[str, Any]:
    """The GA4GH file; what it takes from the service-info file stands in it under the names that ours uses."""
    if not (SPEC / "tes-v1.1.openapi.yaml").exists():
        pytest.skip("the GA4GH files are not here")
    local = "#/components/schemas/"
    loaded: dict[str, Any] = yaml.safe_load((SPEC / "tes-v1.1.openapi.yaml").read_text().replace(REMOTE, f"{local}ga4gh"))
    service_info = yaml.safe_load((SPEC / "ga4gh-service-info-v1.0.0.openapi.yaml").read_text().replace(local, f"{local}ga4gh"))
    loaded["components"]["schemas"] |= {f"ga4gh{name}": schema for name, schema in service_info["components"]["schemas"].items()}
    return loaded


def leaves(node: Any, pointer: str = "", *, names: bool = False) -> dict[str, Any]:
    """Every leaf by its JSON pointer, words left out. `names`: the keys are names of properties, so none of them is a word."""
    match node:
        case dict():
            found: dict[str, Any] = {}
            for key, value in node.items():
                if names or key not in WORDS:
                    step = str(key).replace("~", "~0").replace("/", "~1")
                    found |= leaves(value, f"{pointer}/{step}", names=key in {"properties", "schemas"} and not names)
            return found or {pointer: {}}
        case list() if all(isinstance(item, str) for item in node):
            return {pointer: sorted(node)}
        case [{"name": _}, *_]:
            return leaves({item.get("name") or item["$ref"]: item for item in node}, pointer)
        case list():
            return leaves(dict(enumerate(node)), pointer)
        case _:
            return {pointer: node}


def differences(one: dict[str, Any], other: dict[str, Any]) -> set[str]:
    """Pointers of leaves that differ. A shared schema is compared where it is declared, a reference by its text."""
    missing = object()
    flat, there = leaves(one), leaves(other)
    return {pointer for pointer in flat.keys() | there.keys() if flat.get(pointer, missing) != there.get(pointer, missing)}


def test_structure_is_that_of_tes_1_1_but_for_the_listed_deviations() -> None:
    assert differences(ours(), theirs()) == deviations.STRUCTURE.keys()


def test_comparison_notices_planted_errors() -> None:
    changed = ours()
    changed["components"]["schemas"]["tesOutput"]["required"] = ["path"]
    del changed["components"]["schemas"]["tesTask"]["properties"]["description"]
    changed["paths"]["/tasks"]["post"]["operationId"] = "Create"
    assert differences(changed, ours()) == {
        "/components/schemas/tesOutput/required",
        "/components/schemas/tesTask/properties/description/type",
        "/paths/~1tasks/post/operationId",
    }


def test_no_reference_leaves_the_file() -> None:
    references = [line for line in application.description_file().read_text().splitlines() if "$ref" in line]
    assert references
    assert all("'#/components/" in line for line in references)


def test_every_word_is_ours() -> None:
    def texts(node: Any) -> set[str]:
        match node:
            case {"description": str(text), **rest}:
                return {text.strip()} | texts(rest)
            case dict():
                return set().union(*(texts(value) for value in node.values()))
            case list():
                return set().union(*(texts(value) for value in node))
            case _:
                return set()

    assert {text for text in texts(ours()) & texts(theirs()) if len(text.split()) > 4} == set()


def test_every_example_keeps_its_schema() -> None:
    examples = [
        (schema, schema["example"])
        for declared in ours()["components"]["schemas"].values()
        for schema in declared.get("properties", {}).values()
        if "example" in schema and "$ref" not in str(schema)
    ]
    assert len(examples) > 20
    for schema, example in examples:
        jsonschema_rs.Draft4Validator(schema).validate(example)
