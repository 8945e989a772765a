"""Prints the JSON schema of the chart's values: `python charts/schema.py > charts/tes-server/values.schema.json`.

It is read off `values.yaml`: types are those of the defaults, descriptions the comments above, and a value without a comment is an error. `settings` are
the server's own. Needs tes_server and PyYAML; a test holds the file equal to what this prints.
"""

from __future__ import annotations

import json
import pathlib
import sys
from typing import Any

import yaml

from tes_server import configuration

CHART = pathlib.Path(__file__).parent / "tes-server"

NARROWER: dict[str, dict[str, Any]] = {
    "api.disruptionBudget.maxUnavailable": {"type": ["integer", "string"]},
    "image.digest": {"pattern": "^(sha256:[0-9a-f]{64})?$"},
    "image.pullPolicy": {"enum": ["IfNotPresent", "Always", "Never"]},
    "reconciler.disruptionBudget.maxUnavailable": {"type": ["integer", "string"]},
    "service.externalTrafficPolicy": {"enum": ["", "Cluster", "Local"]},
    "service.type": {"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
}
"""What a default does not tell of its value."""

TYPES = {"str": "string", "int": "integer", "bool": "boolean", "null": "null", "seq": "array", "map": "object"}
"""JSON's names of YAML's types."""


def schema(text: str) -> dict[str, Any]:
    """The schema of the values whose defaults `text` (YAML) holds. Raises ValueError for one that has no comment."""
    root = yaml.compose(text, yaml.SafeLoader)
    server = configuration.schema()
    tree = _table(root, text.splitlines(), "")
    # Helm gives each chart the values that all share.
    tree["properties"]["global"] = {"type": "object"}
    tree["properties"]["settings"] = {"description": tree["properties"]["settings"]["description"], "$ref": server["$ref"]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **tree, "$defs": server["$defs"]}


def _table(node: Any, lines: list[str], prefix: str) -> dict[str, Any]:
    properties = {}
    for key, value in node.value:
        name = f"{prefix}{key.value}"
        text = _comment(lines, key.start_mark.line)
        kind = TYPES[value.tag.rpartition(":")[2]]
        if kind == "object" and _explained(value, lines):
            inside = _table(value, lines, f"{name}.")
        elif text:
            inside = {"type": kind, **({"minimum": 0} if kind == "integer" else {})}
        else:
            raise ValueError(f"values.yaml: {name} has no comment")
        properties[key.value] = {**({"description": text} if text else {}), **inside, **NARROWER.get(name, {})}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _explained(node: Any, lines: list[str]) -> bool:
    """Whether something in a table has a comment. Else it is one value: an object of Kubernetes, mostly."""
    return isinstance(node, yaml.MappingNode) and any(_comment(lines, key.start_mark.line) or _explained(value, lines) for key, value in node.value)


def _comment(lines: list[str], number: int) -> str:
    """The comment right above a line."""
    found: list[str] = []
    for line in reversed(lines[:number]):
        if not line.lstrip().startswith("#"):
            break
        found.insert(0, line.strip(" #"))
    return " ".join(found)


if __name__ == "__main__":
    json.dump(schema((CHART / "values.yaml").read_text()), sys.stdout, indent=1, ensure_ascii=False)
    sys.stdout.write("\n")
