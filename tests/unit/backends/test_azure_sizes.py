"""Sizes of virtual machines, from what Azure Resource Manager tells of them."""

from __future__ import annotations

from typing import Any

import pytest

from tes_server import errors
from tes_server.backends.azure_batch import sizes


def sku(name: str, *, ends: str = "", **capabilities: object) -> dict[str, Any]:
    told = {"name": name, "familyName": "family", "capabilities": [{"name": key, "value": str(value)} for key, value in capabilities.items()]}
    return told | ({"batchSupportEndOfLife": ends} if ends else {})


D4 = sku("Standard_D4s_v3", MaxResourceVolumeMB=32768, OSVhdSizeMB=1047552, vCPUs=4, MemoryGB=16, LowPriorityCapable=True, vCPUsAvailable=4)
KNOWN = sizes.table([D4, sku("Standard_D8s_v3", vCPUs=8, MemoryGB=32), sku("Standard_E8s_v5", vCPUs=8, MemoryGB=64)])


def test_what_a_node_has() -> None:
    assert KNOWN["standard_d4s_v3"] == sizes.Size("Standard_D4s_v3", cpus=4.0, ram_gb=17.2, disk_gb=30.9)


@pytest.mark.parametrize(
    ("told", "field", "value"),
    [
        (sku("A", vCPUs=64, vCPUsAvailable=16, MemoryGB=1), "cpus", 16.0),  # constrained cores
        (sku("A", vCPUs=64, MemoryGB="0.75"), "ram_gb", 0.8),
        (sku("A", vCPUs=6, MemoryGB=112, GPUs=1), "gpus", 1),
        (sku("A", vCPUs=6, MemoryGB=112), "disk_gb", 0.0),
        (sku("A", vCPUs=6, MemoryGB=112, MaxResourceVolumeMB="?"), "disk_gb", 0.0),
        (sku("A", vCPUs=6, MemoryGB=112, LowPriorityCapable=False), "spot", False),
        (sku("A", vCPUs=6, MemoryGB=112), "spot", True),
        (sku("A", vCPUs=6, MemoryGB=112, ends="2027-09-30T00:00:00Z"), "retired", "2027-09-30"),
    ],
)
def test_one_fact(told: dict[str, Any], field: str, value: object) -> None:
    assert getattr(sizes.table([told])["a"], field) == value


def test_sizes_of_which_too_little_is_told_are_left_out() -> None:
    assert sizes.table([sku("A", vCPUs=4), sku("B", MemoryGB=4), {"name": "C"}, {}]) == {}


def test_found_whatever_its_case() -> None:
    assert sizes.find(KNOWN, "standard_d4S_V3", "here").name == "Standard_D4s_v3"


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("D4s_v3", "did you mean Standard_D4s_v3?"),
        ("Standard_D4_v3", "did you mean Standard_D4s_v3 or Standard_D8s_v3?"),
        ("gp3", "there are 3 others"),
    ],
)
def test_a_name_that_is_none(typed: str, said: str) -> None:
    with pytest.raises(errors.SettingsError) as caught:
        sizes.find(KNOWN, typed, "azure_batch.pools.big.vm_size")
    assert str(caught.value) == f"azure_batch.pools.big.vm_size: Azure Batch has no size {typed!r} there: {said}"
