"""Query parameters of one operation: parsed and coerced as connexion does, checked by compiled schemas.

A pure function of the query string, and clients repeat themselves, so results are remembered. What is returned is
shared between requests and must never be changed.
"""

from __future__ import annotations

import functools
import types
import urllib.parse
from collections.abc import Mapping
from typing import Any

import jsonschema_rs
from connexion.operations import OpenAPIOperation
from connexion.uri_parsing import OpenAPIURIParser

from tes_server import errors
from tes_server.api import wording

REMEMBERED = 1024
"""Query strings whose result is kept, for each operation."""

LONGEST_REMEMBERED = 512
"""Bytes of a query string that is kept at most, so that REMEMBERED bounds memory too."""


class URIParser(OpenAPIURIParser):  # type: ignore[misc]  # connexion is not typed
    """connexion's parser, except that arrays come from repeated keys only.

    Stock connexion joins repeated values with commas and splits them again, which tears a tag value that holds a comma
    and so pairs the wrong `tag_key` and `tag_value`. OpenAPI's `explode: true`, the default, says no such thing.
    """

    @staticmethod
    def _resolve_param_duplicates(values: list[str], param_defn: Mapping[str, Any], _in: str) -> list[str]:  # noqa: ARG004 - connexion's signature
        return values

    @staticmethod
    def _split(value: list[str], param_defn: Mapping[str, Any], _in: str) -> list[str]:  # noqa: ARG004 - connexion's signature
        return value


class Query:
    """The query parameters that one operation declares; others are ignored."""

    def __init__(self, operation: OpenAPIOperation) -> None:
        declared = [parameter for parameter in operation.parameters if parameter["in"] == "query"]
        self._parser = operation.uri_parser_class(declared, {})
        self._checks = {parameter["name"]: jsonschema_rs.Draft4Validator(parameter["schema"]) for parameter in declared}
        self._defaults = {p["name"]: p["schema"]["default"] for p in declared if "default" in p["schema"]}
        self._remembered = functools.lru_cache(REMEMBERED)(self._parsed)

    def parse(self, query_string: bytes) -> Mapping[str, Any]:
        """Parameter values by name, with defaults. Raises `errors.Invalid`, whose pointer is the parameter's name."""
        return (self._remembered if len(query_string) <= LONGEST_REMEMBERED else self._parsed)(query_string)

    def _parsed(self, query_string: bytes) -> Mapping[str, Any]:
        given: dict[str, list[str]] = {}
        for name, value in urllib.parse.parse_qsl(query_string.decode("latin-1"), keep_blank_values=True):
            if name in self._checks:
                given.setdefault(name, []).append(value)
        values = self._parser.resolve_query(given)
        for name, value in values.items():
            try:
                self._checks[name].validate(value)
            except jsonschema_rs.ValidationError as failure:
                raise errors.Invalid(wording.explain(failure)[1], name) from None
        return types.MappingProxyType(self._defaults | values)
