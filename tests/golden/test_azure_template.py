"""The ARM template of Azure Batch, evaluated: what must hold whatever its parameters are. `tests/integration` holds it against Azure's models."""

from __future__ import annotations

import ipaddress
import json
import pathlib
import re

import pytest
import yaml

from tes_server import app
from tes_server.runner import azure
from tests import arm, azure_template, helm
from tests.azure_template import deployment, made, one, template, texts
from tests.golden import test_chart

PAGE = azure_template.FILE.parents[2] / "docs" / "azure.md"

SITES = sorted(azure_template.SITES)

ROLES = {
    "7f951dda-4ed3-4680-a7ca-43fe172d538d": "AcrPull",
    "4633458b-17de-408a-b874-0445c86b69e6": "Key Vault Secrets User",
    "4d97b98b-1d4f-4787-a291-c67834d212e7": "Network Contributor",
    "ba92f5b4-2d11-453d-a403-e96b0029c9fe": "Storage Blob Data Contributor",
    "2a2b9908-6ea1-4ae2-8e65-a410df84e7d1": "Storage Blob Data Reader",
}
"""Azure's built-in roles (documentation, "Azure built-in roles")."""

ZONES = {
    "batchAccount": ["privatelink.batch.azure.com"],
    "nodeManagement": ["privatelink.batch.azure.com"],
    "blob": ["privatelink.blob.core.windows.net"],
    "MongoDB": ["privatelink.mongo.cosmos.azure.com"],
    "vault": ["privatelink.vaultcore.azure.net"],
    "registry": ["privatelink.azurecr.io"],
    "azuremonitor": [
        "privatelink.monitor.azure.com",
        "privatelink.oms.opinsights.azure.com",
        "privatelink.ods.opinsights.azure.com",
        "privatelink.agentsvc.azure-automation.net",
        "privatelink.blob.core.windows.net",
    ],
}
"""Parts of services that private endpoints lead to, and the zones with their names (documentation, "Private endpoint DNS zone values")."""

OPEN = {
    "Microsoft.Insights/components": "publicNetworkAccessForIngestion",
    "Microsoft.OperationalInsights/workspaces": "publicNetworkAccessForIngestion",
    "Microsoft.Batch/batchAccounts": "publicNetworkAccess",
    "Microsoft.ContainerRegistry/registries": "publicNetworkAccess",
    "Microsoft.DocumentDB/databaseAccounts": "publicNetworkAccess",
    "Microsoft.KeyVault/vaults": "publicNetworkAccess",
    "Microsoft.Storage/storageAccounts": "publicNetworkAccess",
}
"""Services that have a public endpoint unless told, and what tells them."""


# -- the template as such -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("site", SITES)
def test_everything_resolves(site: str) -> None:
    ids = [each.id.lower() for each in deployment(site).resources]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("site", SITES)
def test_a_resource_waits_for_what_it_names(site: str) -> None:
    """By `dependsOn` or `reference`, if by way of others: Azure makes all else at the same time, and refuses what is not there yet."""
    needs: dict[str, frozenset[str]] = {}
    for each in deployment(site).resources:
        needs[each.symbol] = needs.get(each.symbol, frozenset()) | each.needs

    def waits(symbol: str, behind: tuple[str, ...] = ()) -> set[str]:
        assert symbol not in behind, f"{symbol} waits for itself"
        return {symbol}.union(*(waits(each, (*behind, symbol)) for each in needs[symbol]))

    owners = {each.id: each.symbol for each in deployment(site).resources}
    group = f"{arm.GROUP}/providers/"
    for each in made(site):
        for text in texts(each.body):
            if text.startswith(group) and text != each.id:
                owner = [owners[found] for found in owners if text == found or text.startswith(f"{found}/")]
                assert owner, f"{each.symbol}: {text} is not in the template"
                assert owner[-1] in waits(each.symbol), f"{each.symbol} does not wait for {owner[-1]}"
        if "/" in each.body["name"]:
            parent = each.id.rpartition("/")[0].rpartition("/")[0]
            assert owners.get(parent, each.symbol) in waits(each.symbol), f"{each.symbol} does not wait for {parent}"


def test_every_condition_was_seen_both_ways() -> None:
    seen: dict[str, set[bool]] = {}
    for site in SITES:
        for each in deployment(site).resources:
            seen.setdefault(each.symbol, set()).add(each.made)
    conditional = {symbol for symbol, told in template()["resources"].items() if "condition" in told}
    assert {symbol for symbol, found in seen.items() if found == {True, False}} == conditional
    assert {symbol for symbol, found in seen.items() if found == {False}} == set()


def test_nothing_is_declared_in_vain() -> None:
    text = azure_template.FILE.read_text()
    for kind in ("parameters", "variables"):
        assert [name for name in template()[kind] if f"{kind}('{name}')" not in text] == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"name": "t"}, "name: 't' is not allowed"),
        ({"redundancy": "Standard_RAGRS"}, "is not allowed"),
        ({"spoolDays": 6}, "spoolDays: 6 is not allowed"),
        ({"officeAddresses": "10.0.0.0/8"}, "is no array"),
        ({"nodeInternet": True}, "no such parameters"),
    ],
)
def test_parameters_that_are_refused(given: arm.Object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        arm.Deployment(template(), given, azure_template.KNOWN)


@pytest.mark.parametrize("name", ["ab", "abcdefghij"])
def test_names_that_the_world_shares_are_taken_by_all_services(name: str) -> None:
    """Storage: 24 small letters and digits; vaults begin with a letter; registries have five at least."""
    account = arm.Deployment(template(), {"name": name}, azure_template.KNOWN).outputs["account"]
    assert re.fullmatch(r"[a-z][a-z0-9]{4,23}", account)


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("reference('nodes')", "reference('node')", r"reference\('node'\): it is not made"),
        ("variables('vault')", "variables('vualt')", "vualt"),
        ("[format('{0}-nodes', parameters('name'))]", "[format('{0}-nodes', parameters('name')]", "begins no expression|neither"),
        (".loginServer", ".loginServr", "no loginServr"),
        ("format('{0}/default', variables('unique'))", "format('{0}/default/x', variables('unique'))", "is not one of a"),
    ],
)
def test_the_evaluation_finds_a_planted_error(right: str, wrong: str, said: str) -> None:
    text = azure_template.FILE.read_text()
    assert right in text
    with pytest.raises((ValueError, KeyError), match=said):
        arm.Deployment(json.loads(text.replace(right, wrong)), {}, azure_template.KNOWN)


def test_each_parameter_and_output_is_explained() -> None:
    page = PAGE.read_text()
    assert [name for name in template()["parameters"] if f"`{name}`" not in page] == []
    assert [name for name in template()["outputs"] if f"outputs.{name}.value" not in page] == []
    assert [name for kind in ("parameters", "outputs") for name, told in template()[kind].items() if not told["metadata"]["description"]] == []


def test_no_secret_goes_in_or_out() -> None:
    assert {told["type"] for told in template()["parameters"].values()} == {"string", "int", "bool", "array", "object"}
    assert not re.search(r"list[A-Z]\w*\(|sharedAccessKey|connectionString|password", azure_template.FILE.read_text())


# -- network ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("site", SITES)
def test_nothing_is_reached_from_the_internet(site: str) -> None:
    for each in made(site):
        if each.type in OPEN:
            assert each.body["properties"][OPEN[each.type]] == "Disabled", each.symbol
        said = [name for name in each.body.get("properties", {}) if "publicNetworkAccess" in name]
        assert bool(said) == (each.type in OPEN), each.symbol
    assert {each.type for each in made(site)} >= set(OPEN)
    addresses = made(site, "Microsoft.Network/publicIPAddresses")
    assert [each.symbol for each in addresses] == (["natAddress"] if site != "in a hub" else [])
    assert {each["properties"]["defaultOutboundAccess"] for each in one("network", site)["subnets"]} == {False}


def test_logs_are_read_from_outside_only_where_that_is_said() -> None:
    for symbol in ("logs", "insights"):
        assert one(symbol)["publicNetworkAccessForQuery"] == "Disabled"
        assert one(symbol, "open where it can be")["publicNetworkAccessForQuery"] == "Enabled"


def test_services_take_no_key() -> None:
    assert one("batch")["allowedAuthenticationModes"] == ["AAD"]
    assert one("storage")["allowSharedKeyAccess"] is False
    assert one("storage")["allowBlobPublicAccess"] is False
    assert one("registry")["adminUserEnabled"] is False
    assert one("registry")["anonymousPullEnabled"] is False
    assert one("vault")["enableRbacAuthorization"] is True
    assert one("cluster")["disableLocalAccounts"] is True
    assert one("insights")["DisableLocalAuth"] is True
    assert one("logs")["features"]["disableLocalAuth"] is True


def rules(symbol: str, site: str, direction: str) -> list[tuple[str, str, str, str]]:
    """Access, from, to and ports of a group's rules, in the order in which they count."""
    found = [each["properties"] for each in one(symbol, site)["securityRules"] if each["properties"]["direction"] == direction]
    found.sort(key=lambda each: each["priority"])
    assert len({each["priority"] for each in found}) == len(found)

    def told(rule: arm.Object, name: str) -> str:
        return rule.get(name) or ",".join(rule[f"{name}s" if name.endswith("Range") else f"{name}es"])

    return [(each["access"], told(each, "sourceAddressPrefix"), each["destinationAddressPrefix"], told(each, "destinationPortRange")) for each in found]


@pytest.mark.parametrize(("site", "internet"), [("as it is", "Deny"), ("open where it can be", "Allow"), ("in a hub", "Deny")])
def test_what_nodes_and_executors_reach(site: str, internet: str) -> None:
    assert rules("nodesRules", site, "Inbound") == [("Deny", "*", "*", "*")]
    assert rules("nodesRules", site, "Outbound") == [
        ("Allow", "*", "10.90.80.0/24", "443"),
        ("Allow", "*", "BatchNodeManagement.westeurope", "443"),
        (internet, "*", "Internet", "443"),
        ("Deny", "*", "*", "*"),
    ]


def test_who_reaches_the_endpoints() -> None:
    assert rules("endpointsRules", "in a hub", "Inbound") == [
        ("Allow", "10.90.0.0/18,10.90.64.0/20,10.0.0.0/8", "*", "443"),
        ("Allow", "10.90.64.0/20", "*", "10250,10255,10256"),
        ("Deny", "*", "*", "*"),
    ]
    assert rules("clusterRules", "as it is", "Inbound") == [("Deny", "10.90.0.0/18", "*", "*")]


@pytest.mark.parametrize("site", SITES)
def test_subnets(site: str) -> None:
    network = one("network", site)
    [whole] = [ipaddress.IPv4Network(each) for each in network["addressSpace"]["addressPrefixes"]]
    blocks = {each["name"]: ipaddress.IPv4Network(each["properties"]["addressPrefix"]) for each in network["subnets"]}
    assert set(blocks) == {"nodes", "cluster", "endpoints"}
    inside = {"pods": ipaddress.IPv4Network("100.64.0.0/16"), "services": ipaddress.IPv4Network("100.65.0.0/16")}
    if site != "in a hub":
        told = one("cluster", site)["networkProfile"]
        assert [told["podCidr"], told["serviceCidr"]] == [str(each) for each in inside.values()]
        assert ipaddress.ip_address(told["dnsServiceIP"]) in inside["services"]
    assert all(each.subnet_of(whole) for each in blocks.values())
    everything = [*blocks.values(), *inside.values()]
    assert not [one for at, one in enumerate(everything) for other in everything[at + 1 :] if one.overlaps(other)]
    groups = {each["name"]: each["properties"]["networkSecurityGroup"]["id"].rpartition("/")[2] for each in network["subnets"]}
    name = azure_template.SITES[site].get("name", "tes")
    assert groups == {each: f"{name}-{each}" for each in blocks}


@pytest.mark.parametrize(
    ("site", "ways"),
    [
        ("as it is", {"nodes": "", "cluster": "natGateway", "endpoints": ""}),
        ("open where it can be", {"nodes": "natGateway", "cluster": "natGateway", "endpoints": ""}),
        ("in a hub", {"nodes": "routeTable", "cluster": "routeTable", "endpoints": ""}),
    ],
)
def test_ways_out(site: str, ways: dict[str, str]) -> None:
    found = {each["name"]: "".join({"natGateway", "routeTable"} & set(each["properties"])) for each in one("network", site)["subnets"]}
    assert found == ways
    if site != "in a hub":
        assert one("cluster", site)["networkProfile"]["outboundType"] == "userAssignedNATGateway"
    else:
        assert [each["properties"]["nextHopIpAddress"] for each in one("routes", site)["routes"]] == ["10.0.0.4"]


@pytest.mark.parametrize("site", SITES)
def test_every_service_has_its_private_endpoint_and_its_names(site: str) -> None:
    endpoints = made(site, "Microsoft.Network/privateEndpoints")
    names = {each.id.rpartition("/privateDnsZoneGroups")[0]: each for each in made(site, "Microsoft.Network/privateEndpoints/privateDnsZoneGroups")}
    found = {}
    for each in endpoints:
        [link] = each.body["properties"]["privateLinkServiceConnections"]
        [part] = link["properties"]["groupIds"]
        zones = [zone["properties"]["privateDnsZoneId"] for zone in names[each.id].body["properties"]["privateDnsZoneConfigs"]]
        group = azure_template.SITES[site].get("dnsZones", arm.GROUP)
        assert {zone.rpartition("/")[0] for zone in zones} == {f"{group}/providers/Microsoft.Network/privateDnsZones"}
        found[part] = [zone.rpartition("/")[2] for zone in zones]
        assert each.body["properties"]["subnet"]["id"].endswith("/subnets/endpoints")
    assert found == ZONES
    reached = {link["properties"]["privateLinkServiceId"] for each in endpoints for link in each.body["properties"]["privateLinkServiceConnections"]}
    monitored = {"Microsoft.Insights/components", "Microsoft.OperationalInsights/workspaces"}
    assert {each.id for each in made(site) if each.type in set(OPEN) - monitored} < reached
    linked = {each.body["properties"]["linkedResourceId"] for each in made(site, "Microsoft.Insights/privateLinkScopes/scopedResources")}
    assert linked == {each.id for each in made(site) if each.type in monitored}
    own = {each.body["name"] for each in made(site, "Microsoft.Network/privateDnsZones")}
    links = {each.body["name"].partition("/")[0] for each in made(site, "Microsoft.Network/privateDnsZones/virtualNetworkLinks")}
    assert own == links == (set() if site == "in a hub" else {zone for each in ZONES.values() for zone in each})


def test_the_cluster_is_private_unless_told_who_may_call_it() -> None:
    assert one("cluster")["apiServerAccessProfile"] == {"enablePrivateCluster": True, "enablePrivateClusterPublicFQDN": False}
    assert one("cluster", "open where it can be")["apiServerAccessProfile"] == {"enablePrivateCluster": False, "authorizedIPRanges": ["192.0.2.0/24"]}


# -- rights -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("site", SITES)
def test_who_may_what(site: str) -> None:
    told = template()["resources"]
    custom = {each.body["name"]: each.symbol for each in made(site, "Microsoft.Authorization/roleDefinitions")}
    found = set()
    for each in made(site, "Microsoft.Authorization/roleAssignments"):
        who = re.findall(r"reference\('(\w+)'\)", told[each.symbol]["properties"]["principalId"])
        assert each.body["properties"]["principalType"] == "ServicePrincipal"
        role = each.body["properties"]["roleDefinitionId"].rpartition("/")[2]
        found.add((*who, ROLES.get(role) or custom[role], "/".join(each.body["scope"].rsplit("/", 2)[1:])))
    account = deployment(site).outputs["account"]
    reads = azure_template.SITES[site].get("readContainers", ["reads"])
    writes = azure_template.SITES[site].get("writeContainers", ["results"])
    expected = {
        ("server", "runsTasks", f"batchAccounts/{account}"),
        ("server", "Storage Blob Data Contributor", "containers/spool"),
        *(("server", "Storage Blob Data Reader", f"containers/{each}") for each in (*reads, *writes)),
        *(("nodes", "Storage Blob Data Reader", f"containers/{each}") for each in reads),
        *(("nodes", "Storage Blob Data Contributor", f"containers/{each}") for each in ("spool", *writes)),
        ("nodes", "Key Vault Secrets User", f"vaults/{account}"),
        ("nodes", "AcrPull", f"registries/{account}"),
    }
    if site != "in a hub":
        expected |= {("clusterIdentity", "Network Contributor", "subnets/cluster"), ("cluster", "AcrPull", f"registries/{account}")}
        places = (f"batchAccounts/{account}", "userAssignedIdentities/tes-nodes", "subnets/nodes")
        expected |= {("server", "makesPools", place) for place in places}
    assert found == expected


def test_roles_of_our_own_name_what_they_allow() -> None:
    for symbol in ("runsTasks", "makesPools"):
        role = one(symbol)
        assert role["assignableScopes"] == [arm.GROUP]
        [allowed] = role["permissions"]
        assert not [action for actions in allowed.values() for action in actions if "*" in action]
        assert not [action for actions in allowed.values() for action in actions if "listkeys" in action.lower() or "roleAssignments" in action]
    assert "Microsoft.Batch/batchAccounts/pools/delete" not in one("runsTasks")["permissions"][0]["actions"]
    assert "Microsoft.ManagedIdentity/userAssignedIdentities/assign/action" not in one("runsTasks")["permissions"][0]["actions"]


# -- what the server gets -----------------------------------------------------------------------------------------------


def values(tmp_path: pathlib.Path, site: str) -> list[str]:
    """What helm is given: the output as it is, and all that the page would have in `site.yaml`."""
    (tmp_path / "azure.json").write_text(json.dumps(deployment(site).outputs["values"]))
    words = ["--values", str(tmp_path / "azure.json")]
    blocks = re.findall(r"^```yaml\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    for number, block in enumerate(blocks):
        [written, *_] = azure_template.SITES[site].get("writeContainers", ["results"])
        block = block.replace("ACCOUNT", deployment(site).outputs["account"]).replace("/results/", f"/{written}/")  # noqa: PLW2901
        (tmp_path / f"{number}.yaml").write_text(block)
        words += ["--values", str(tmp_path / f"{number}.yaml")]
    return words


@pytest.mark.parametrize("site", SITES)
def test_the_chart_and_the_server_take_the_values(site: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = test_chart.template(*values(tmp_path, site))
    assert {each["kind"] for each in objects}.isdisjoint({"Role", "RoleBinding"})
    told = test_chart.server_settings(objects, tmp_path)
    monkeypatch.setattr(app, "store_url", lambda _settings: "mongodb://db.example")
    app.check(told)
    batch = told.azure_batch
    account = deployment(site).outputs["account"]
    assert batch.url == "https://account.westeurope.batch.azure.com"
    assert batch.image.startswith("account.azurecr.io/tes-server:")
    assert batch.subnet == next(f"{each.id}/subnets/nodes" for each in made(site, "Microsoft.Network/virtualNetworks"))
    assert batch.identities == (batch.registry_identity,) == tuple(each.id for each in made(site) if each.symbol == "nodes")
    assert batch.public_ip is False
    assert f"/subscriptions/{batch.subscription}/resourceGroups/{batch.resource_group}" == arm.GROUP
    assert {each.vm_size for each in batch.pools.values() if each.spot} <= {each.vm_size for each in batch.pools.values() if not each.spot}
    assert all(azure.SECRET.fullmatch(url) for url in batch.secrets.values())
    assert set(batch.secrets) == {"portal"}
    containers = {each.body["name"].rpartition("/")[2] for each in made(site, "Microsoft.Storage/storageAccounts/blobServices/containers")}
    assert {each.url for each in told.storage} == {f"az://{account}/{each}" for each in containers}
    [spool] = [each for each in told.storage if told.spool.url.startswith(f"{each.url}/")]
    assert (spool.write, spool.tasks) == (True, False)
    [path] = told.paths
    assert path.url.startswith(f"az://{account}/")
    [lifecycle] = one("lifecycle", site)["policy"]["rules"]
    assert lifecycle["definition"]["filters"]["prefixMatch"] == ["spool/"]


def test_pods_sign_in_as_the_server_is_known(tmp_path: pathlib.Path) -> None:
    objects = yaml.safe_load_all(helm.run("template", "tes-server", str(helm.CHART), "--namespace", "tes", *values(tmp_path, "as it is")).stdout)
    found = [each for each in objects if each]
    [account] = [each for each in found if each["kind"] == "ServiceAccount" and not each["metadata"]["name"].endswith("-tasks")]
    told = one("serverPods")
    assert told["subject"] == f"system:serviceaccount:{account['metadata']['namespace']}:{account['metadata']['name']}"
    assert told["issuer"] == "https://issuer.example/cluster/"
    assert one("serverPods", "in a hub")["issuer"] == "https://issuer.example/ours/"
    assert account["metadata"]["annotations"] == {"azure.workload.identity/client-id": "client id"}
    for each in found:
        if each["kind"] == "Deployment":
            assert each["spec"]["template"]["metadata"]["labels"]["azure.workload.identity/use"] == "true"
            assert each["spec"]["template"]["spec"]["serviceAccountName"] == account["metadata"]["name"]


def test_alarms_use_metrics_that_there_are() -> None:
    # Supported metrics of Microsoft.Batch/batchaccounts (documentation of Azure Monitor).
    used = [each.body["properties"]["criteria"]["allOf"][0]["metricName"] for each in made("in a hub", "Microsoft.Insights/metricAlerts")]
    assert used == ["StartTaskFailedNodeCount", "UnusableNodeCount"]
