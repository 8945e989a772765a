"""Unpacks layers: from a tar archive's entries to an image's tree (OCI image specification, "Filesystem Layers").

`tarfile` only reads headers here. This module must never open a file itself: `image_tree` puts every entry in its place.
"""

from __future__ import annotations

import os
import sys
import tarfile
from typing import Any, cast

from tes_server.runner import image_manifest, image_stream, image_tree
from tes_server.runner.image_blobs import Bytes
from tes_server.runner.image_stream import TarStream
from tes_server.runner.image_tree import Tree

_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
_AUFS = ".wh..wh."
"""Names that AUFS kept for itself; they mean nothing to anybody else."""

_LEFT_OUT = (tarfile.CHRTYPE, tarfile.BLKTYPE)
"""Devices: an ordinary user cannot make them, and the sandbox's own /dev lies over those of images."""


def unpack(blob: Bytes, diff_id: str, tree: Tree, largest: int) -> int:
    """Put one layer on `tree`, and check it against its digest; the number of bytes it has once uncompressed, at most `largest`.

    EngineError IMAGE_ERROR for what cannot be an image's layer; OSError of the disk.
    """
    tree.begin_layer()
    with TarStream(blob, largest) as stream:
        try:
            with tarfile.open(fileobj=cast("Any", stream), mode="r:", encoding=sys.getfilesystemencoding(), errors="surrogateescape") as archive:
                _unpack(archive, stream, tree)
        except (tarfile.TarError, ValueError, OverflowError) as cause:  # ValueError: numbers in headers
            raise image_manifest.unusable(f"a layer's archive is damaged: {cause}") from cause
        if stream.finish() != diff_id:
            raise image_manifest.unusable("a layer is another than its config tells of")
        return stream.tell()


def _unpack(archive: tarfile.TarFile, stream: TarStream, tree: Tree) -> None:
    while True:
        stream.allow(image_stream.HEADERS)
        entry = archive.next()
        if entry is None:
            break
        cast("Any", archive).members = []  # it keeps them all else
        _put(archive, entry, stream, tree)
    # tarfile takes a damaged header for the end.
    if stream.last.strip(b"\0"):
        raise image_manifest.unusable("a layer's archive is damaged")


def _put(archive: tarfile.TarFile, entry: tarfile.TarInfo, stream: TarStream, tree: Tree) -> None:
    path = _path(entry.name)
    above, _, name = path.rpartition("/")
    if name.startswith(_WHITEOUT):
        if name == _OPAQUE:
            tree.make_opaque(above)
        elif not name.startswith(_AUFS):
            hidden = name.removeprefix(_WHITEOUT)
            if hidden in ("", ".", ".."):
                raise image_manifest.unusable(f"{name!r} takes nothing away")
            tree.white_out(f"{above}/{hidden}")
        return
    meta = image_tree.meta(entry.mode, entry.uid, entry.gid, entry.mtime)
    if entry.isdir():
        tree.directory(path, meta)
    elif entry.issym():
        tree.link(path, meta, entry.linkname)
    elif entry.islnk():
        tree.hard_link(path, _path(entry.linkname))
    elif entry.isfifo():
        tree.pipe(path, meta)
    elif entry.isreg():
        tree.file(path, meta, _content(archive, entry, stream), entry.size)
    elif entry.type not in _LEFT_OUT:
        raise image_manifest.unusable(f"{entry.name[:100]!r} is of a kind ({entry.type!r}) that no image has")


def _content(archive: tarfile.TarFile, entry: tarfile.TarInfo, stream: TarStream) -> Any:
    if not entry.issparse():
        stream.seek(entry.offset_data)
        return stream.take(entry.size)
    stream.allow(entry.size)
    file = archive.extractfile(entry)
    return iter(lambda: memoryview(file.read(1 << 20) if file else b""), b"")


def _path(name: str) -> str:
    """Relative to the image's root, which is where a leading / leads too; "" is the root itself."""
    if "\0" in name or len(os.fsencode(name)) >= image_tree.LONGEST:
        raise image_manifest.unusable("a layer has an entry with a name that cannot be")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise image_manifest.unusable(f"{name[:100]!r} leads upwards")
    return "/".join(parts)
