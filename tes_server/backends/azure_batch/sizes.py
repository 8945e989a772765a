"""Sizes of virtual machines, as Azure Resource Manager tells of them: what a node of each has. Nothing is known of any size beforehand.

Pure: `arm` asks.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from tes_server import errors

GIB = 2**30
MIB = 2**20
GB = 10**9

DISK = 0.9
"""Part of a node's temporary disk that tasks may have: the file system and the agent need the rest."""

LIKE = 4
"""Sizes that are offered for a name that is none."""


class Size(NamedTuple):
    """A size: what one node has. Memory and disk in 10^9 bytes."""

    name: str
    cpus: float
    ram_gb: float
    disk_gb: float
    """what tasks may have of its temporary disk; 0: it has none that is ready to be used"""
    gpus: int = 0
    spot: bool = True
    """Azure offers it as Spot virtual machines"""
    retired: str = ""
    """The day from which Azure Batch makes no such nodes any more, if one is set."""


def table(told: Iterable[Mapping[str, Any]]) -> dict[str, Size]:
    """By name in lower case, from `SupportedSku` objects as JSON. Those of which cores or memory are not told are left out: nothing fits them."""
    found = (_size(one) for one in told)
    return {size.name.lower(): size for size in found if size.name and size.cpus and size.ram_gb}


def find(sizes: Mapping[str, Size], name: str, where: str) -> Size:
    """The size of that name. SettingsError at the key `where` if there is none, with those that are like it."""
    size = sizes.get(name.lower())
    if size is None:
        like = _like(name.lower(), list(sizes))
        said = f"did you mean {_either([sizes[one].name for one in like])}?" if like else f"there are {len(sizes)} others"
        raise errors.SettingsError(f"Azure Batch has no size {name!r} there: {said}", where)
    return size


def _size(told: Mapping[str, Any]) -> Size:
    has = {str(one.get("name", "")): str(one.get("value", "")) for one in told.get("capabilities") or ()}
    return Size(
        name=str(told.get("name") or ""),
        cpus=_number(has, "vCPUsAvailable") or _number(has, "vCPUs"),  # fewer are there in sizes with constrained cores
        ram_gb=round(_number(has, "MemoryGB") * GIB / GB, 1),  # counted by 2^30, whatever its name says
        disk_gb=round(_number(has, "MaxResourceVolumeMB") * MIB * DISK / GB, 1),
        gpus=int(_number(has, "GPUs")),
        spot=has.get("LowPriorityCapable", "True").lower() != "false",
        retired=str(told.get("batchSupportEndOfLife") or "")[:10],
    )


def _number(has: Mapping[str, str], name: str) -> float:
    try:
        return float(has.get(name, ""))
    except ValueError:
        return 0.0


def _like(name: str, known: Sequence[str]) -> list[str]:
    """Names that are nearly the same; people leave out `standard_` above all."""
    whole = name if name.startswith(("standard_", "basic_")) else f"standard_{name}"
    if whole in known:
        return [whole]
    return difflib.get_close_matches(whole, known, LIKE, 0.8)


def _either(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
