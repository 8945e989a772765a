"""The ARM template held against the models of Azure's own SDKs: the names, values and kinds that Resource Manager would take. Nothing leaves this machine."""

from __future__ import annotations

import copy
import importlib
import re
from typing import Any

import pytest

from tests import azure_models, azure_template

SITES = sorted(azure_template.SITES)


def resource(symbol: str) -> tuple[str, dict[str, Any]]:
    [found] = [each for each in azure_template.deployment().resources if each.symbol == symbol]
    return found.type, copy.deepcopy(found.body)


@pytest.mark.parametrize("site", SITES)
def test_azure_knows_what_is_asked_for(site: str) -> None:
    found = azure_template.made(site)
    assert len(found) > 50
    assert [mistake for each in found for mistake in azure_models.mistakes(each.type, each.body)] == []


@pytest.mark.parametrize(
    ("symbol", "path", "value", "said"),
    [
        ("storage", ("allowSharedKeyAcces",), False, "no property allowSharedKeyAcces"),
        ("storage", ("allowSharedKeyAccess",), "false", "is not of the type"),
        ("storage", ("publicNetworkAccess",), "Disabld", "is none of"),
        ("network", ("subnets", 0, "properties", "defaultOutboundAcess"), False, "no property defaultOutboundAcess"),
        ("network", ("subnets",), {}, "is no list"),
        ("database", ("backupPolicy", "continuousModeProperties", "tire"), "Continuous7Days", "no property tire"),
        ("cluster", ("networkProfile", "outboundType"), "nat", "is none of"),
        ("server", ("clientId",), "mine", "only Azure sets it"),
        ("insights", ("Application_Typ",), "web", "no property Application_Typ"),
        ("diagnostics", ("logs", 0, "categoriesGroup"), "allLogs", "no property categoriesGroup"),
        ("serverBatch", ("principalKind",), "ServicePrincipal", "no property principalKind"),
    ],
)
def test_a_planted_error_is_found(symbol: str, path: tuple[Any, ...], value: Any, said: str) -> None:
    kind, body = next((each.type, copy.deepcopy(each.body)) for each in azure_template.deployment().resources if each.symbol == symbol)
    assert azure_models.mistakes(kind, body) == []
    at = body.setdefault("properties", {})
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    [mistake] = azure_models.mistakes(kind, body)
    assert said in mistake


def test_what_must_be_given_is_missed() -> None:
    kind, body = resource("batch")
    del body["location"]
    assert azure_models.mistakes(kind, body) == [f"{kind}: location must be given"]


# Each operation of azure-mgmt-network has its own version.
@pytest.mark.parametrize("kind", sorted(kind for kind, (package, _) in azure_models.MODELS.items() if package != "network"))
def test_versions_are_not_newer_than_the_models(kind: str) -> None:
    package, _ = azure_models.MODELS[kind]
    if found := re.search(r"\.v(\d{4})_(\d\d)_(\d\d)", package):
        newest = "-".join(found.groups())
    else:
        module = importlib.import_module(f"azure.mgmt.{package}._configuration")
        [configuration] = [each for name, each in vars(module).items() if name.endswith("ClientConfiguration")]
        newest = configuration(object(), "subscription").api_version
    used = {each.version[:10] for site in SITES for each in azure_template.made(site, kind)}
    assert used, "no resource of this type"
    assert max(used) <= newest


@pytest.mark.parametrize("kind", sorted(azure_template.KNOWN))
def test_what_is_asked_of_azure_is_told_by_it(kind: str) -> None:
    package = azure_models.MODELS[kind][0]
    answers = {"batch": "BatchAccount", "keyvault": "Vault"}
    told = azure_models.fields(getattr(importlib.import_module(f"azure.mgmt.{package}.models"), answers.get(package, azure_models.MODELS[kind][1])))
    properties = told["properties"].kind
    known = properties[...].kind if isinstance(properties, dict) else azure_models.fields(properties)
    assert set(azure_template.KNOWN[kind]) <= set(known)
