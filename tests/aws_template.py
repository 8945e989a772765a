"""The CloudFormation template of deploy/aws, for its tests."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Iterator
from typing import Any

from cfnlint.decode import cfn_yaml

FILE = pathlib.Path(__file__).parents[1] / "deploy" / "aws" / "tes-batch.yaml"

Object = dict[str, Any]


@functools.cache
def template() -> Object:
    """With the long form of functions: `{"Ref": …}`, `{"Fn::GetAtt": […]}`."""
    found: Object = cfn_yaml.load(str(FILE))
    return found


def resource(name: str) -> Object:
    """The properties of a resource."""
    found: Object = template()["Resources"][name]["Properties"]
    return found


def of_type(kind: str) -> dict[str, Object]:
    """The properties of all resources of a type, by name."""
    return {name: each["Properties"] for name, each in template()["Resources"].items() if each["Type"] == kind}


def walk(value: Any) -> Iterator[Object]:
    """All objects in a value, itself included."""
    if isinstance(value, dict):
        yield value
        for each in value.values():
            yield from walk(each)
    elif isinstance(value, list):
        for each in value:
            yield from walk(each)


def statements(value: Any) -> list[Object]:
    """The statements of all policies in a value."""
    return [each for each in walk(value) if "Effect" in each]


def several(value: Any) -> list[Any]:
    """One, or a list."""
    return value if isinstance(value, list) else [value]
