"""Where the mounts of a cell are to be in its sandbox, and from what, with every link already followed.

bwrap makes mount points through any link that it meets, an image's or one that an earlier executor left, and some lead to the
host. So it only ever gets places that no link leads to: in the image they are resolved within its root, in the volume none is
followed. While this runs nothing of the task does.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable

from tes_server import errors
from tes_server.filer import rooted
from tes_server.plan.steps import Mount, MountKind
from tes_server.runner import bwrap, host, volume
from tes_server.runner.engine import Cell
from tes_server.telemetry import Code


def binds(cell: Cell, realm: rooted.Realm, show: Callable[[pathlib.Path, str], str], *, shows_host: bool) -> list[bwrap.Bind]:
    """The mounts of `cell` in the image `realm`, outer ones first. `show` gives bwrap's path of a LIVE source (see `bwrap.Stage`).

    Makes mount points in the volume. Raises `errors.EngineError` (REJECTED) for what cannot be mounted.
    """
    made: list[tuple[Mount, bwrap.Bind]] = []
    for number, mount in enumerate(sorted(cell.mounts, key=lambda mount: mount.path)):
        outer = next((bind for above, bind in reversed(made) if _inside(mount, above)), None)
        place = outer.place + mount.path.removeprefix(outer.path) if outer else _resolve(realm, mount)
        if shows_host and (host.covers(mount.path) or host.covers(place)):
            raise _refusal(mount.path, "the image `host` is read-only there; let the task use another path")
        for above, bind in made:
            if _touch(place, bind.place) and not _inside(mount, above):
                raise _refusal(mount.path, f"in this image it is the same place as {above.path}, or inside of it")
        # Inside of a ROOT the mount point is a place in the volume.
        inside = any(above.kind is MountKind.ROOT and _inside(mount, above) for above, _ in made)
        made.append((mount, _bind(cell, mount, place, f"live{number}", show, inside=inside)))
    return [bind for _, bind in made]


def _bind(cell: Cell, mount: Mount, place: str, name: str, show: Callable[[pathlib.Path, str], str], *, inside: bool) -> bwrap.Bind:
    if mount.kind is MountKind.ENGINE:
        raise errors.EngineError("the sandbox has no container engine to give to a scanner", Code.REJECTED)
    live = mount.kind is MountKind.LIVE
    if inside or not live:
        volume.place(cell.volume, mount.path, directory=mount.kind is not MountKind.FILE)
    if not live:
        return bwrap.Bind(path=mount.path, place=place, read_only=mount.kind is MountKind.FILE)
    source = pathlib.Path(mount.source)
    if source.resolve() != source or not source.is_dir():
        raise errors.EngineError(f"{source} is no directory, or is reached by a link: it is not mounted", Code.REJECTED)
    return bwrap.Bind(path=mount.path, place=place, source=show(source, name))


def _resolve(realm: rooted.Realm, mount: Mount) -> str:
    try:
        found = realm.place(mount.path)
    except OSError as cause:
        raise _refusal(mount.path, f"in the image, {cause.strerror}") from cause
    file = bool(found.status is not None and found.rest)  # of whatever kind
    if found.real == "/" or (found.status is not None and file is not (mount.kind is MountKind.FILE)):
        raise _refusal(mount.path, "the image has something else there")
    return found.real


def _inside(mount: Mount, above: Mount) -> bool:
    return mount.path.startswith(above.path + "/")


def _touch(one: str, other: str) -> bool:
    return one == other or one.startswith(other + "/") or other.startswith(one + "/")


def _refusal(path: str, why: str) -> errors.EngineError:
    return errors.EngineError(f"{path} cannot be mounted: {why}", Code.REJECTED)
