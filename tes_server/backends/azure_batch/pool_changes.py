"""How a pool that is there differs from the one that is wanted, and when each difference can be removed. Pure.

What a pool is made of (size, image, network, slots, identities) can be changed only while it has no nodes. Comparison is of what we ask for, not of
all that Azure fills in; without regard to case where Azure has none.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from tes_server.backends.azure_batch import formula, names, pools
from tes_server.backends.azure_batch.pools import Json, Pool


class When(enum.Enum):
    """When a difference can be removed."""

    NOW = "now"
    EMPTY = "empty"
    """while the pool has no nodes"""
    CHANCE = "chance"
    """as EMPTY, and nobody need wait for it"""


class Change(NamedTuple):
    """One difference. `what`: the setting (of the pool, or of azure_batch) that it comes from; `there` and `wanted` in short, "" where they are long."""

    what: str
    when: When
    there: str = ""
    wanted: str = ""

    def __str__(self) -> str:
        return f"{self.what}: {self.there or 'none'} -> {self.wanted or 'none'}" if self.there or self.wanted else self.what


def nodes(there: Mapping[str, Any]) -> int:
    """Nodes that a pool (as `get_pool` tells of it) has now, or is about to get."""
    have = int(there.get("currentDedicatedNodes") or 0) + int(there.get("currentLowPriorityNodes") or 0)
    wanted = int(there.get("targetDedicatedNodes") or 0) + int(there.get("targetLowPriorityNodes") or 0)
    return max(have, wanted) if there.get("allocationState") == "resizing" else have


def drains(there: Mapping[str, Any]) -> bool:
    """True if the pool was told to become empty."""
    return bool(there.get("autoScaleFormula")) and _script(there) == _lines(formula.DRAIN)


def changes(there: Mapping[str, Any], pool: Pool) -> list[Change]:
    """All differences, in the order of the settings. `there`: as `get_pool` tells of it."""
    wanted = {**pools.created(pool), "identity": {"userAssignedIdentities": [{"resourceId": one} for one in pool.identities]}}
    found = [Change(what, when, text(there), text(wanted)) for what, when, text in _SHORT if text(there).casefold() != text(wanted).casefold()]
    if _start(there) != _start(wanted):
        found.append(Change("start task", When.NOW))
    if metadata(there, pool) is not None:
        found.append(Change("metadata", When.NOW))
    if not there.get("enableAutoScale") or _script(there) != _lines(pool.formula):
        found.append(Change("formula", When.NOW))
    return found


def metadata(there: Mapping[str, Any], pool: Pool) -> list[Json] | None:
    """The pool's metadata with our items as they must be, and all others; None if nothing is to be changed."""
    has = {str(item.get("name")): str(item.get("value")) for item in there.get("metadata") or ()}
    wanted = {**{name: value for name, value in has.items() if not name.startswith(pools.NOTES)}, **pools.notes(pool)}
    return None if has == wanted else pools.items(wanted)


def owner(there: Mapping[str, Any]) -> str:
    """The name of the server whose pool it is; "" if it bears none."""
    return next((str(item.get("value")) for item in there.get("metadata") or () if item.get("name") == names.SERVER), "")


def _at(pool: Mapping[str, Any], *path: str) -> Any:
    found: Any = pool
    for name in path:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _image(pool: Mapping[str, Any]) -> str:
    image = _at(pool, "virtualMachineConfiguration", "imageReference") or {}
    named = [str(image.get(name)) for name in ("publisher", "offer", "sku", "version") if image.get(name)]
    return str(image.get("virtualMachineImageId") or ":".join(named))


def _containers(pool: Mapping[str, Any]) -> Mapping[str, Any]:
    return _at(pool, "virtualMachineConfiguration", "containerConfiguration") or {}


def _registries(pool: Mapping[str, Any]) -> str:
    told = _containers(pool).get("containerRegistries") or ()
    return ", ".join(sorted(f"{one.get('registryServer')} by {_at(one, 'identityReference', 'resourceId') or one.get('username')}" for one in told))


def _identities(pool: Mapping[str, Any]) -> str:
    return ", ".join(sorted(str(one.get("resourceId")).casefold() for one in _at(pool, "identity", "userAssignedIdentities") or ()))


def _public(pool: Mapping[str, Any]) -> str:
    provision = str(_at(pool, "networkConfiguration", "publicIPAddressConfiguration", "provision") or "batchmanaged")
    return "false" if provision.lower() == "nopublicipaddresses" else "true"


def _agent(pool: Mapping[str, Any]) -> str:
    return str(_at(pool, "virtualMachineConfiguration", "nodeAgentSKUId") or "")


_SHORT: tuple[tuple[str, When, Callable[[Mapping[str, Any]], str]], ...] = (
    ("vm_size", When.EMPTY, lambda pool: str(pool.get("vmSize") or "")),
    ("slots", When.EMPTY, lambda pool: str(pool.get("taskSlotsPerNode") or 1)),
    ("vm_image", When.EMPTY, _image),
    ("vm_image.node_agent", When.EMPTY, _agent),
    ("containers", When.EMPTY, lambda pool: str(_containers(pool).get("type") or "")),
    ("registry_identity", When.EMPTY, _registries),
    ("identities", When.EMPTY, _identities),
    ("subnet", When.EMPTY, lambda pool: str(_at(pool, "networkConfiguration", "subnetId") or "")),
    ("public_ip", When.EMPTY, _public),
    ("node fill", When.CHANCE, lambda pool: str(_at(pool, "taskSchedulingPolicy", "nodeFillType") or "spread")),
    ("image", When.CHANCE, lambda pool: ", ".join(_containers(pool).get("containerImageNames") or ())),
)
"""What to compare, as words: its setting, when it can be changed, how it is read from a pool."""


def _start(pool: Mapping[str, Any]) -> tuple[Any, ...]:
    task = pool.get("startTask") or {}
    user = _at(task, "userIdentity", "autoUser") or {}
    return task.get("commandLine"), user.get("scope"), user.get("elevationLevel"), task.get("waitForSuccess"), task.get("maxTaskRetryCount")


def _script(pool: Mapping[str, Any]) -> list[str]:
    return _lines(str(pool.get("autoScaleFormula") or ""))


def _lines(script: str) -> list[str]:
    return [line.strip() for line in script.splitlines() if line.strip()]
