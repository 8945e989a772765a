"""What a deployment makes of an ARM template, as far as that can be known without Azure: parameters, conditions, loops and expressions evaluated.

For templates in language version 2.0 in one resource group. Knows the functions that ours uses and refuses others. What only Azure knows of a resource
(an identity's ids, an endpoint) is given by the test, by type.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import ipaddress
import re
import uuid
from collections.abc import Callable, Mapping
from typing import Any

Object = dict[str, Any]

SUBSCRIPTION = "00000000-1111-2222-3333-444444444444"
TENANT = "55555555-6666-7777-8888-999999999999"
GROUP = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/genomics"
LOCATION = "westeurope"

TOKEN = re.compile(r"\s*(?:(?P<text>'(?:[^']|'')*')|(?P<number>-?\d+)|(?P<word>[A-Za-z]\w*)|(?P<mark>[()\[\],.]))")

KINDS: dict[str, Any] = {"string": str, "int": int, "bool": bool, "array": list, "object": dict}


@dataclasses.dataclass(frozen=True)
class Resource:
    """A resource as it would be put. `body` has `properties`, `sku`, … evaluated; `needs` are the symbolic names that it waits for."""

    symbol: str
    type: str
    version: str
    id: str
    body: Object
    needs: frozenset[str]
    made: bool


class Deployment:
    """`template` deployed with the parameters `given`. Raises ValueError for whatever does not resolve."""

    def __init__(self, template: Object, given: Object, known: Mapping[str, Object]) -> None:
        """`known`: by resource type, the properties that Azure adds (what `reference` finds beside the template's)."""
        self.template = template
        self.known = known
        self.given = given
        self.variables: Object = {}
        self.parameters = {name: self._parameter(name, told) for name, told in template["parameters"].items()}
        if extra := set(given) - set(template["parameters"]):
            raise ValueError(f"no such parameters: {extra}")
        for name in template["variables"]:
            self.variable(name)
        self.resources = [each for symbol in template["resources"] for each in self._expand(symbol)]
        self.outputs = {name: self.value(told["value"]) for name, told in template["outputs"].items()}

    def _parameter(self, name: str, told: Object) -> Any:
        value = self.given[name] if name in self.given else self.value(told["defaultValue"])
        if type(value) is not KINDS[told["type"]]:
            raise ValueError(f"{name}: {value!r} is no {told['type']}")
        size: int = value if isinstance(value, int) else len(value)
        least = [told[bound] for bound in ("minValue", "minLength") if bound in told]
        most = [told[bound] for bound in ("maxValue", "maxLength") if bound in told]
        if min([size, *most]) < size or max([size, *least]) > size or value not in told.get("allowedValues", [value]):
            raise ValueError(f"{name}: {value!r} is not allowed")
        return value

    def variable(self, name: str) -> Any:
        if name not in self.variables:
            self.variables[name] = self.value(self.template["variables"][name])
        return self.variables[name]

    def _expand(self, symbol: str) -> list[Resource]:
        told = self.template["resources"][symbol]
        count = self.value(told["copy"]["count"]) if "copy" in told else 1
        return [self._resource(symbol, told, index) for index in range(count)]

    def _resource(self, symbol: str, told: Object, index: int) -> Resource:
        seen: set[str] = set()
        frame = {"index": index, "seen": seen}
        body = {key: self.value(value, frame) for key, value in told.items() if key not in ("copy", "dependsOn", "comments", "condition")}
        parts, names = body["type"].split("/"), str(body["name"]).split("/")
        if len(parts) != len(names) + 1:
            raise ValueError(f"{symbol}: the name {body['name']} is not one of a {body['type']}")
        where = f"{body.get('scope', GROUP)}/providers/{parts[0]}/" + "/".join(f"{kind}/{name}" for kind, name in zip(parts[1:], names, strict=True))
        for needed in told.get("dependsOn", []):
            if needed not in self.template["resources"]:
                raise ValueError(f"{symbol} depends on {needed}, which there is not")
        return Resource(symbol, body["type"], body["apiVersion"], where, body, frozenset(told.get("dependsOn", [])) | seen, self._made(symbol))

    def _made(self, symbol: str) -> bool:
        made = self.value(self.template["resources"][symbol].get("condition", True))
        if not isinstance(made, bool):
            raise ValueError(f"{symbol}: the condition is {made!r}")
        return made

    def reference(self, symbol: str, seen: set[str] | None) -> Object:
        """What Azure says of a resource: its properties. Raises ValueError where it is not made."""
        if symbol not in self.template["resources"] or not self._made(symbol):
            raise ValueError(f"reference('{symbol}'): it is not made")
        if seen is not None:
            seen.add(symbol)
        told = self.template["resources"][symbol]
        return {**self.value(told.get("properties", {})), **self.known.get(told["type"], {})}

    def value(self, told: Any, frame: Object | None = None) -> Any:
        """A value of the template with its expressions evaluated. Properties that come out as null are left out, as Azure takes them."""
        if isinstance(told, dict):
            made = {self.value(key, frame): self.value(each, frame) for key, each in told.items()}
            return {key: each for key, each in made.items() if each is not None}
        if isinstance(told, list):
            return [self.value(each, frame) for each in told]
        if isinstance(told, str) and told.startswith("[") and not told.startswith("[["):
            return self._evaluate(parse(told[1:-1]), frame or {})
        return told

    def _evaluate(self, tree: Any, frame: Object) -> Any:
        match tree:
            case ("literal", value):
                return value
            case ("at", inner, key):
                found, at = self._evaluate(inner, frame), self._evaluate(key, frame)
                if isinstance(found, dict) and at not in found:
                    raise ValueError(f"no {at} in {sorted(found)}")
                return found[at]
            case ("call", "if", [condition, yes, no]):
                return self._evaluate(yes if self._evaluate(condition, frame) else no, frame)
            case ("call", "lambda", [name, body]):
                return lambda each: self._evaluate(body, {**frame, "lambda": {**frame.get("lambda", {}), name[1]: each}})
            case ("call", name, parts):
                return self._call(name, [self._evaluate(each, frame) for each in parts], frame)
        raise ValueError(tree)

    def _call(self, name: str, given: list[Any], frame: Object) -> Any:
        if name in FUNCTIONS:
            return FUNCTIONS[name](*given)
        inside: dict[str, Callable[..., Any]] = {
            "parameters": lambda name: self.parameters[name],
            "variables": self.variable,
            "copyIndex": lambda: frame["index"],
            "lambdaVariables": lambda name: frame["lambda"][name],
            "reference": lambda symbol: self.reference(symbol, frame.get("seen")),
        }
        if name not in inside:
            raise ValueError(f"no function {name}")
        return inside[name](*given)


@functools.cache
def parse(text: str) -> Any:
    """The tree of an expression: ("literal", value), ("call", name, parts) or ("at", tree, key)."""
    tokens, at = [], 0
    while text[at:].strip():
        if not (found := TOKEN.match(text, at)):
            raise ValueError(f"{text}: not understood from {text[at:]!r} on")
        tokens.append((found.lastgroup, found.group(found.lastgroup or 0)))
        at = found.end()
    tree, left = _expression([*tokens, ("end", "")])
    if len(left) > 1:
        raise ValueError(f"{text}: not understood from {left[0][1]!r} on")
    return tree


def _expression(tokens: list[Any]) -> tuple[Any, list[Any]]:
    (kind, word), left = tokens[0], tokens[1:]
    tree: Any
    if kind == "text":
        tree = ("literal", word[1:-1].replace("''", "'"))
    elif kind == "number":
        tree = ("literal", int(word))
    elif kind == "word" and left[0][1] == "(":
        parts: list[Any] = []
        left = left[1:]
        while left[0][1] != ")":
            part, left = _expression(left)
            parts.append(part)
            if left[0][1] not in (",", ")"):
                raise ValueError(f"{word}(: {left[0][1]!r} is neither , nor )")
            left = left[1:] if left[0][1] == "," else left
        tree, left = ("call", word, parts), left[1:]
    else:
        raise ValueError(f"{word!r} begins no expression")
    while left[0][1] in (".", "["):
        if left[0][1] == ".":
            tree, left = ("at", tree, ("literal", left[1][1])), left[2:]
        else:
            key, left = _expression(left[1:])
            if left[0][1] != "]":
                raise ValueError("a [ without ]")
            tree, left = ("at", tree, key), left[1:]
    return tree, left


def _format(pattern: str, *parts: Any) -> str:
    found = pattern.format(*parts)
    if set(re.findall(r"\{(\d+)\}", pattern)) != {str(index) for index in range(len(parts))}:
        raise ValueError(f"format('{pattern}') of {len(parts)} parts")
    return found


def _resource_id(kind: str, *names: str, before: str = GROUP) -> str:
    provider, *kinds = kind.split("/")
    return f"{before}/providers/{provider}/" + "/".join(f"{kind}/{name}" for kind, name in zip(kinds, names, strict=True))


def _cidr_subnet(block: str, size: int, index: int) -> str:
    return str(list(ipaddress.ip_network(block).subnets(new_prefix=size))[index])


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "and": lambda *parts: all(parts),
    "cidrSubnet": _cidr_subnet,
    "concat": lambda *parts: sum(parts[1:], parts[0]),
    "contains": lambda where, what: what in where,
    "createArray": lambda *parts: list(parts),
    "createObject": lambda *parts: dict(zip(parts[::2], parts[1::2], strict=True)),
    "empty": lambda value: not value,
    "environment": lambda: {"suffixes": {"storage": "core.windows.net"}},
    "equals": lambda left, right: left == right,
    "false": lambda: False,
    "format": _format,
    "guid": lambda *parts: str(uuid.uuid5(uuid.NAMESPACE_URL, "-".join(parts))),
    "length": len,
    "map": lambda parts, made: [made(each) for each in parts],
    "not": lambda value: not value,
    "null": lambda: None,
    "replace": lambda text, old, new: text.replace(old, new),
    "resourceGroup": lambda: {"id": GROUP, "name": GROUP.rpartition("/")[2], "location": LOCATION},
    "resourceId": _resource_id,
    "subscription": lambda: {"id": f"/subscriptions/{SUBSCRIPTION}", "subscriptionId": SUBSCRIPTION, "tenantId": TENANT},
    "subscriptionResourceId": lambda kind, *names: _resource_id(kind, *names, before=f"/subscriptions/{SUBSCRIPTION}"),
    "true": lambda: True,
    "uniqueString": lambda *parts: "u" + hashlib.sha256("-".join(parts).encode()).hexdigest()[:12],
}
"""Of Azure's template functions, those that need nothing of the template."""
