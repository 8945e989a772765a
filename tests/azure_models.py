"""Whether a resource of a template is one that Azure's SDK knows: names, values and what must be given, by the models of `azure-mgmt-*`.

These models are made of Azure's published descriptions of its interfaces. They are of two generations, `_attribute_map` with flattened `properties`, whose
enumerations are plain texts, and typed fields. Neither refuses an unknown name by itself.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import importlib
import re
import sys
import typing
from collections.abc import Iterator, Sequence
from typing import Any

MODELS = {
    "Microsoft.Authorization/roleAssignments": ("authorization.v2022_04_01", "RoleAssignmentCreateParameters"),
    "Microsoft.Authorization/roleDefinitions": ("authorization.v2022_04_01", "RoleDefinition"),
    "Microsoft.Batch/batchAccounts": ("batch", "BatchAccountCreateParameters"),
    "Microsoft.ContainerRegistry/registries": ("containerregistry", "Registry"),
    "Microsoft.ContainerService/managedClusters": ("containerservice", "ManagedCluster"),
    "Microsoft.DocumentDB/databaseAccounts": ("cosmosdb", "DatabaseAccountCreateUpdateParameters"),
    "Microsoft.Insights/actionGroups": ("monitor.v2023_01_01", "ActionGroupResource"),
    "Microsoft.Insights/components": ("applicationinsights.v2020_02_02", "ApplicationInsightsComponent"),
    "Microsoft.Insights/diagnosticSettings": ("monitor.v2021_05_01_preview", "DiagnosticSettingsResource"),
    "Microsoft.Insights/metricAlerts": ("monitor.v2018_03_01", "MetricAlertResource"),
    "Microsoft.Insights/privateLinkScopes": ("monitor.v2021_07_01_preview", "AzureMonitorPrivateLinkScope"),
    "Microsoft.Insights/privateLinkScopes/scopedResources": ("monitor.v2021_07_01_preview", "ScopedResource"),
    "Microsoft.KeyVault/vaults": ("keyvault", "VaultCreateOrUpdateParameters"),
    "Microsoft.ManagedIdentity/userAssignedIdentities": ("msi.v2024_11_30", "Identity"),
    "Microsoft.ManagedIdentity/userAssignedIdentities/federatedIdentityCredentials": ("msi.v2024_11_30", "FederatedIdentityCredential"),
    "Microsoft.Network/natGateways": ("network", "NatGateway"),
    "Microsoft.Network/networkSecurityGroups": ("network", "NetworkSecurityGroup"),
    "Microsoft.Network/privateDnsZones": ("privatedns", "PrivateZone"),
    "Microsoft.Network/privateDnsZones/virtualNetworkLinks": ("privatedns", "VirtualNetworkLink"),
    "Microsoft.Network/privateEndpoints": ("network", "PrivateEndpoint"),
    "Microsoft.Network/privateEndpoints/privateDnsZoneGroups": ("network", "PrivateDnsZoneGroup"),
    "Microsoft.Network/publicIPAddresses": ("network", "PublicIPAddress"),
    "Microsoft.Network/routeTables": ("network", "RouteTable"),
    "Microsoft.Network/virtualNetworks": ("network", "VirtualNetwork"),
    "Microsoft.OperationalInsights/workspaces": ("loganalytics", "Workspace"),
    "Microsoft.Storage/storageAccounts": ("storage", "StorageAccountCreateParameters"),
    "Microsoft.Storage/storageAccounts/blobServices": ("storage", "BlobServiceProperties"),
    "Microsoft.Storage/storageAccounts/blobServices/containers": ("storage", "BlobContainer"),
    "Microsoft.Storage/storageAccounts/managementPolicies": ("storage", "ManagementPolicy"),
}
"""By type of resource, package and class of the SDK."""

OF_THE_TEMPLATE = {"type", "apiVersion", "name", "scope"}
"""What names a resource, and is not in its body."""

PLAIN: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("str", "iso-8601", "duration"), (str,)),
    **dict.fromkeys(("int", "long"), (int,)),
    **dict.fromkeys(("float",), (int, float)),
    "bool": (bool,),
    "object": (object,),
}


@dataclasses.dataclass(frozen=True)
class Field:
    kind: Any
    read_only: bool = False
    required: bool = False


def model(kind: str) -> type:
    package, name = MODELS[kind]
    return typing.cast("type", getattr(importlib.import_module(f"azure.mgmt.{package}.models"), name))


def mistakes(kind: str, body: dict[str, Any]) -> list[str]:
    """What is wrong with a resource of that type, in words."""
    return list(_check(model(kind), {key: value for key, value in body.items() if key not in OF_THE_TEMPLATE}, kind))


def _check(kind: Any, value: Any, where: str) -> Iterator[str]:
    if isinstance(kind, list):
        if not isinstance(value, list):
            yield f"{where}: {value!r} is no list"
            return
        for at, each in enumerate(value):
            yield from _check(kind[0], each, f"{where}[{at}]")
    elif isinstance(kind, dict):
        if isinstance(kind.get(...), Field):  # flattened properties
            yield from _fields(kind[...].kind, value, where)
        else:
            for name, each in value.items():
                yield from _check(kind["*"], each, f"{where}.{name}")
    elif isinstance(kind, type) and issubclass(kind, enum.Enum):
        if value not in {each.value for each in kind}:
            yield f"{where}: {value!r} is none of {sorted(each.value for each in kind)}"
    elif isinstance(kind, tuple):
        # bool is an int to Python, not to Azure.
        if not isinstance(value, kind) or (isinstance(value, bool) and bool not in kind and object not in kind):
            yield f"{where}: {value!r} is not of the type"
    elif not isinstance(value, dict):
        yield f"{where}: {value!r} is no object"
    else:
        yield from _fields(fields(_special(kind, value)), value, where)


def _fields(known: dict[str, Field], value: dict[str, Any], where: str) -> Iterator[str]:
    for name, each in value.items():
        if name not in known:
            yield f"{where}: no property {name}; there are {sorted(known)}"
        elif known[name].read_only:
            yield f"{where}.{name}: only Azure sets it"
        else:
            yield from _check(known[name].kind, each, f"{where}.{name}")
    for name, field in known.items():
        if field.required and not field.read_only and name not in value:
            yield f"{where}: {name} must be given"


def _special(kind: Any, value: dict[str, Any]) -> Any:
    """The subclass that the value's discriminator names."""
    if subtypes := getattr(kind, "_subtype_map", None):
        [(attribute, by_value)] = subtypes.items()
        key = kind._attribute_map[attribute]["key"].replace("\\.", ".")
        return _class(kind, by_value[value[key]]) if value.get(key) in by_value else kind
    by_value = getattr(kind, "__mapping__", {})
    found = [by_value[each] for each in value.values() if isinstance(each, str) and each in by_value]
    return found[0] if found else kind


def _class(beside: type, name: str) -> Any:
    return getattr(sys.modules[beside.__module__], name, None) or getattr(importlib.import_module(beside.__module__.rpartition(".")[0]), name)


def fields(kind: Any) -> dict[str, Field]:
    """The properties of a model by their names in JSON."""
    return _old_fields(kind) if hasattr(kind, "_attribute_map") else _new_fields(kind)


def _old_fields(kind: Any) -> dict[str, Field]:
    made: dict[str, Field] = {}
    for attribute, told in kind._attribute_map.items():
        *path, name = re.split(r"(?<!\\)\.", told["key"])
        here = made
        for part in path:
            here = here.setdefault(part, Field({...: Field({})})).kind[...].kind
        rules = kind._validation.get(attribute, {})
        here[name.replace("\\.", ".")] = Field(_old_kind(kind, told["type"]), bool(rules.get("readonly")), bool(rules.get("required")))
    return made


def _old_kind(beside: type, text: str) -> Any:
    if text[0] == "[":
        return [_old_kind(beside, text[1:-1])]
    if text[0] == "{":
        return {"*": _old_kind(beside, text[1:-1])}
    return PLAIN.get(text) or _class(beside, text)


def _new_fields(kind: Any) -> dict[str, Field]:
    kind.__new__(kind)  # the first one settles the names
    models = importlib.import_module(kind.__module__.rpartition(".")[0])
    hints = typing.get_type_hints(kind, localns={"_models": models})
    made = {}
    for attribute, field in kind._attr_to_rest_field.items():
        inside = [each for each in typing.get_args(hints[attribute]) if each is not type(None)]
        optional = len(inside) < len(typing.get_args(hints[attribute]))
        made[field._rest_name] = Field(_either(inside if optional else [hints[attribute]]), field._visibility == ["read"], not optional)
    return made


def _either(hints: Sequence[Any]) -> Any:
    """A text that is one of an enumeration, mostly."""
    enums = [each for each in hints if isinstance(each, type) and issubclass(each, enum.Enum)]
    return enums[0] if enums else _new_kind(hints[0]) if len(hints) == 1 else (object,)


def _new_kind(hint: Any) -> Any:
    inside = typing.get_args(hint)
    origin = typing.get_origin(hint)
    if origin is list:
        return [_new_kind(inside[0])]
    if origin is dict:
        return {"*": _new_kind(inside[1])}
    if origin is typing.Literal:
        return (str,)
    if origin is typing.Union:
        return _either(inside)
    if hint in (datetime.datetime, datetime.timedelta):
        return (str,)
    if hint is typing.Any:
        return (object,)
    if hint is float:
        return (int, float)
    return hint if hasattr(hint, "_calculated") or issubclass(hint, enum.Enum) else (hint,)
