"""What the tables of the configuration are made of: their base, and numbers with bounds. Data only."""

from __future__ import annotations

from typing import Annotated

import msgspec

Count = Annotated[int, msgspec.Meta(ge=0)]
Number = Annotated[int, msgspec.Meta(ge=1)]
Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
Amount = Annotated[float, msgspec.Meta(ge=0)]
Pause = Annotated[float, msgspec.Meta(gt=0)]


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of the configuration."""


class HostMountSettings(Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A directory that every machine has on which tasks run: reference data on a shared file system (EFS, FSx for Lustre, Azure Files, NFS)."""

    path: str
    """Its absolute path on the machines, by which tasks name what is in it (`file://` urls)."""
    read_only: bool = True
    """Tasks may only read it."""
