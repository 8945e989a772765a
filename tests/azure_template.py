"""The ARM template of deploy/azure, evaluated, for its tests."""

from __future__ import annotations

import functools
import json
import pathlib
from typing import Any

from tests import arm

FILE = pathlib.Path(__file__).parents[1] / "deploy" / "azure" / "tes-azure.json"

KNOWN: dict[str, arm.Object] = {
    "Microsoft.Batch/batchAccounts": {"accountEndpoint": "account.westeurope.batch.azure.com"},
    "Microsoft.ContainerRegistry/registries": {"loginServer": "account.azurecr.io"},
    "Microsoft.ContainerService/managedClusters": {
        "oidcIssuerProfile": {"issuerURL": "https://issuer.example/cluster/"},
        "identityProfile": {"kubeletidentity": {"objectId": "kubelet's object id"}},
    },
    "Microsoft.KeyVault/vaults": {"vaultUri": "https://account.vault.azure.net/"},
    "Microsoft.ManagedIdentity/userAssignedIdentities": {"principalId": "object id", "clientId": "client id"},
}
"""What the template asks Azure for, by `reference`."""

SITES: dict[str, arm.Object] = {
    "as it is": {},
    "open where it can be": {"nodesInternet": True, "apiServerFrom": ["192.0.2.0/24"], "logQueries": "public", "alarmEmail": "on-call@example.org"},
    "in a hub": {
        "name": "seq",
        "firewall": "10.0.0.4",
        "dnsZones": f"/subscriptions/{arm.SUBSCRIPTION}/resourceGroups/hub",
        "clusterIssuer": "https://issuer.example/ours/",
        "serverMakesPools": False,
        "officeAddresses": ["10.0.0.0/8"],
        "readContainers": [],
        "writeContainers": ["one", "two"],
        "alarmEmail": "on-call@example.org",
    },
}
"""Parameters that reach each condition of the template both ways."""


@functools.cache
def template() -> arm.Object:
    found: arm.Object = json.loads(FILE.read_text())
    return found


@functools.cache
def deployment(site: str = "as it is") -> arm.Deployment:
    """With one of SITES."""
    return arm.Deployment(template(), SITES[site], KNOWN)


def made(site: str = "as it is", kind: str = "") -> list[arm.Resource]:
    """The resources that are made, of one type if given."""
    return [each for each in deployment(site).resources if each.made and kind in ("", each.type)]


def one(symbol: str, site: str = "as it is") -> Any:
    """The properties of the resource with that symbolic name."""
    [found] = [each for each in deployment(site).resources if each.symbol == symbol]
    return found.body["properties"]


def texts(value: Any) -> list[str]:
    """All texts in a value, keys included."""
    if isinstance(value, dict):
        return [text for key, each in value.items() for text in (key, *texts(each))]
    if isinstance(value, list):
        return [text for each in value for text in texts(each)]
    return [value] if isinstance(value, str) else []
