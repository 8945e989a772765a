"""Azure Resource Manager, as far as pools need it: pools that have identities, and the VM sizes of a region. By models of azure-mgmt-batch."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping
from typing import Any, cast

import azure.mgmt.batch.models

from tests.emulators.azure_batch import protocol
from tests.emulators.azure_batch.account import Account
from tests.emulators.azure_batch.pool_calls import PoolCalls
from tests.emulators.azure_batch.protocol import BatchError, Json
from tests.emulators.azure_batch.records import Pool
from tests.emulators.azure_batch.requests import Request
from tests.emulators.azure_batch.world import ACCOUNT, API_VERSION, LOCATION, SUBSCRIPTION, Machine

RESOURCE = "https://management.azure.com"
"""what tokens for it are for"""
POOL = re.compile(rf"/subscriptions/{SUBSCRIPTION}/resourceGroups/[^/]+/providers/Microsoft\.Batch/batchAccounts/{ACCOUNT}/pools/(?P<pool>[^/]+)")
SIZES = re.compile(rf"/subscriptions/{SUBSCRIPTION}/providers/Microsoft\.Batch/locations/(?P<location>[^/]+)/virtualMachineSkus")
SAME = ("displayName", "vmSize", "taskSlotsPerNode", "userAccounts", "metadata", "mountConfiguration")
"""properties of both services"""
LOWERED = ("type", "nodeFillType", "provision", "elevationLevel", "scope")
"""values that Resource Manager writes with capitals"""


def asked(path: str) -> bool:
    """Whether a path is Resource Manager's."""
    return path.startswith("/subscriptions/")


class Management:
    """Everything under the account's lock."""

    def __init__(self, account: Account, pools: PoolCalls) -> None:
        self._account = account
        self._pools = pools

    @staticmethod
    def name(method: str, path: str) -> str:
        """Of a call, for counters: as the SDK's operations."""
        if SIZES.fullmatch(path):
            return "location.list_supported_virtual_machine_skus"
        return {"PUT": "pool.create", "PATCH": "pool.update"}.get(method, "pool.get")

    def reply(self, method: str, path: str, query: Mapping[str, str], body: bytes) -> Json:
        """BatchError: it is refused."""
        if query.get("api-version") != API_VERSION:
            raise BatchError("InvalidApiVersionParameter", 400, f"The api-version must be {API_VERSION}.")
        if method == "GET" and (found := SIZES.fullmatch(path)):
            return self._sizes(found["location"])
        found = POOL.fullmatch(path)
        if found is None or method not in ("GET", "PUT", "PATCH"):
            raise BatchError("ResourceNotFound", 404, f"The emulator's Resource Manager knows no {method} {path}.")
        if method == "PUT":
            self._put(found["pool"], json.loads(body))
        elif method == "PATCH":
            self._patch(found["pool"], json.loads(body))
        told = _told(self._account.pool(found["pool"]), path)
        _check("Pool", told)
        return told

    def _sizes(self, location: str) -> Json:
        if location.lower() != LOCATION:
            raise BatchError("LocationNotSupported", 400, f"The location {location} is not supported.")
        sizes = [_sku(one) for one in self._account.world.machines]
        for size in sizes:
            _check("SupportedSku", size)
        return {"value": sizes}

    def _put(self, name: str, given: Json) -> None:
        """A new pool, or another start task and metadata for one that is there, whose size is left to the Batch service."""
        wrong = list(protocol.faults(given, _model("Pool"), request=True))
        if wrong:
            raise BatchError("InvalidRequestBody", 400, f"The request is not valid: {wrong[0].kind} {wrong[0].where} {wrong[0].words}")
        spec = {"id": name, **_spec(given.get("properties", {}))}
        protocol.read("BatchPoolCreateOptions", spec)
        pool = self._account.pools.get(name.lower())
        if pool is None:
            self._pools.create_pool(_request(name, spec))
            pool = self._account.pool(name)
        else:
            kept = {key: value for key, value in spec.items() if key in ("startTask", "metadata", "displayName")}
            self._pools.update_pool(_request(name, kept))
        _identify(pool, given)

    def _patch(self, name: str, given: Json) -> None:
        """Other identities, which nodes have that come after all others have gone: here, once there are none."""
        wrong = list(protocol.faults(given, _model("Pool"), request=True))
        if wrong or set(given) != {"identity"}:
            raise BatchError("InvalidRequestBody", 400, f"The emulator's Resource Manager changes identities only, not {sorted(given)} {wrong}.")
        pool = self._account.pool(name)
        assert not pool.nodes, "a pool with nodes would have two kinds of them"
        _identify(pool, given)


def _identify(pool: Pool, given: Json) -> None:
    if identity := given.get("identity"):
        users = [{"resourceId": one, "clientId": _id(one), "principalId": _id(one + "/principal")} for one in identity.get("userAssignedIdentities", {})]
        pool.spec["identity"] = {"type": identity["type"], "userAssignedIdentities": users}


def _sku(machine: Machine) -> Json:
    told = {"name": machine.name, "familyName": machine.name.rpartition("_")[0], "capabilities": _capabilities(machine)}
    return told | ({"batchSupportEndOfLife": f"{machine.retired}T00:00:00Z"} if machine.retired else {})


def _capabilities(machine: Machine) -> list[Json]:
    """As the Resource SKUs of Azure name them; sizes without GPUs do not name any."""
    told = {
        "MaxResourceVolumeMB": machine.disk_mib,
        "OSVhdSizeMB": 1047552,
        "vCPUs": machine.cores,
        "MemoryGB": f"{machine.memory_gib:g}",
        "LowPriorityCapable": machine.spot,
        **({"GPUs": machine.gpus} if machine.gpus else {}),
    }
    return [{"name": name, "value": str(value)} for name, value in told.items()]


def _model(name: str) -> type:
    return cast("type", getattr(azure.mgmt.batch.models, name))


def _check(name: str, told: Json) -> None:
    """AssertionError: a defect of the emulator."""
    found = list(protocol.faults(told, _model(name), request=False))
    assert not found, f"{name}: {found}"


def _request(name: str, body: Json) -> Request:
    return Request(path={"poolId": name}, query={}, headers={}, body=body, url="")


def _id(text: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, text))


def _spec(properties: Json) -> Json:
    """As the Batch service itself takes them."""
    spec: Json = {name: properties[name] for name in SAME if name in properties}
    machine = dict(properties.get("deploymentConfiguration", {}).get("virtualMachineConfiguration", {}))
    if "nodeAgentSkuId" in machine:
        machine["nodeAgentSKUId"] = machine.pop("nodeAgentSkuId")
    image = machine.get("imageReference", {})
    if "id" in image:
        machine["imageReference"] = {"virtualMachineImageId": image["id"]}
    if "containerConfiguration" in machine:
        kind = machine["containerConfiguration"]["type"]
        machine["containerConfiguration"] = {**machine["containerConfiguration"], "type": kind[0].lower() + kind[1:]}
    spec["virtualMachineConfiguration"] = machine
    if "interNodeCommunication" in properties:
        spec["enableInterNodeCommunication"] = properties["interNodeCommunication"] == "Enabled"
    for name in ("startTask", "taskSchedulingPolicy", "networkConfiguration"):
        if name in properties:
            spec[name] = _lowered(properties[name])
    scale = properties.get("scaleSettings", {})
    if "autoScale" in scale:
        spec |= {"enableAutoScale": True, "autoScaleFormula": scale["autoScale"]["formula"]}
        if "evaluationInterval" in scale["autoScale"]:
            spec["autoScaleEvaluationInterval"] = scale["autoScale"]["evaluationInterval"]
    else:
        fixed = scale.get("fixedScale", {})
        spec |= {name: fixed.get(name, 0) for name in ("targetDedicatedNodes", "targetLowPriorityNodes")}
    return spec


def _lowered(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: one.lower() if name in LOWERED and isinstance(one, str) else _lowered(one) for name, one in value.items()}
    return [_lowered(one) for one in value] if isinstance(value, list) else value


def _told(pool: Pool, path: str) -> Json:
    if pool.auto_scale:
        scale: Json = {"autoScale": {"formula": pool.formula, "evaluationInterval": f"PT{pool.interval:.0f}S"}}
    else:
        scale = {"fixedScale": {"targetDedicatedNodes": pool.dedicated, "targetLowPriorityNodes": pool.low_priority}}
    told: Json = {
        "id": path,
        "name": pool.id,
        "type": "Microsoft.Batch/batchAccounts/pools",
        "etag": pool.etag,
        "properties": {
            **{name: pool.spec[name] for name in SAME if name in pool.spec},
            "provisioningState": "Succeeded" if pool.state == "active" else "Deleting",
            "allocationState": pool.allocation.capitalize(),
            "currentDedicatedNodes": pool.count(dedicated=True),
            "currentLowPriorityNodes": pool.count(dedicated=False),
            "scaleSettings": scale,
        },
    }
    if identity := pool.spec.get("identity"):
        users = {one["resourceId"]: {"clientId": one["clientId"], "principalId": one["principalId"]} for one in identity["userAssignedIdentities"]}
        told["identity"] = {"type": identity["type"], "userAssignedIdentities": users}
    return told


def refused(error: BatchError) -> bytes:
    """An error as Resource Manager writes it."""
    return json.dumps({"error": {"code": error.code, "message": f"{error.message} {error.values or ''}".strip()}}).encode()
