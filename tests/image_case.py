"""Images made by hand: layers from entries, a config, a manifest, and where they are served or unpacked from."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from tes_server.runner import image_manifest

OCI_MANIFEST, DOCKER_MANIFEST = image_manifest.MANIFESTS
OCI_INDEX, DOCKER_INDEX = image_manifest.INDEXES
OCI_CONFIG, DOCKER_CONFIG = image_manifest.CONFIGS
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"

Entry = tuple[tarfile.TarInfo, bytes]


def entry(name: str, content: bytes = b"", **fields: Any) -> Entry:
    """A regular file, unless `fields` (of TarInfo) say else."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    info.mode = 0o644
    for key, value in fields.items():
        setattr(info, key, value)
    return info, content


def directory(name: str, mode: int = 0o755, **fields: Any) -> Entry:
    return entry(name, type=tarfile.DIRTYPE, mode=mode, **fields)


def link(name: str, target: str) -> Entry:
    return entry(name, type=tarfile.SYMTYPE, linkname=target)


def hard_link(name: str, target: str) -> Entry:
    return entry(name, type=tarfile.LNKTYPE, linkname=target)


def layer(*entries: Entry, form: int = tarfile.PAX_FORMAT) -> bytes:
    """An uncompressed layer."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for info, content in entries:
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


class Packed(msgspec.Struct):
    """An image as a registry keeps it."""

    manifest: bytes
    blobs: dict[str, bytes]
    media_type: str = OCI_MANIFEST

    @property
    def digest(self) -> str:
        return image_manifest.digest_of(self.manifest)


def pack(layers: Sequence[bytes], *, compress: Any = gzip.compress, config: dict[str, Any] | None = None, **of_config: Any) -> Packed:
    """An image of uncompressed `layers`. `config` is how it runs, `of_config` replaces what is beside that."""
    stored = [compress(data) for data in layers]
    text = json.dumps(
        {
            "architecture": image_manifest.architecture_of(),
            "os": "linux",
            "config": config or {},
            "rootfs": {"type": "layers", "diff_ids": [image_manifest.digest_of(data) for data in layers]},
            **of_config,
        }
    ).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": described(text, OCI_CONFIG),
        "layers": [described(data, OCI_LAYER + "+gzip") for data in stored],
    }
    return Packed(json.dumps(manifest).encode(), {image_manifest.digest_of(data): data for data in (text, *stored)})


def described(data: bytes, media_type: str, **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "size": len(data), "digest": image_manifest.digest_of(data), **more}


def index(packed: Iterable[tuple[Packed, dict[str, str]]], media_type: str = OCI_INDEX) -> bytes:
    """An index of images, each with its platform."""
    entries = [described(one.manifest, one.media_type, platform=platform) for one, platform in packed]
    return json.dumps({"schemaVersion": 2, "mediaType": media_type, "manifests": entries}).encode()


def layout(image: Packed, annotations: dict[str, str] | None = None, spoiled: bytes = b"") -> bytes:
    """An archive of OCI's image layout."""
    listed = {"schemaVersion": 2, "manifests": [described(image.manifest, image.media_type, annotations=annotations or {})]}
    contents = {**image.blobs, image.digest: spoiled or image.manifest}
    files = [entry(f"blobs/sha256/{digest[7:]}", data) for digest, data in contents.items()]
    return layer(entry("oci-layout", b'{"imageLayoutVersion": "1.0.0"}'), entry("index.json", json.dumps(listed).encode()), *files)
