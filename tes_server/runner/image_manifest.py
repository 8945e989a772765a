"""What an image is made of: manifests, indexes and configs of OCI and of Docker (schema 2), checked as they are decoded.

Pure: from bytes to values. All bytes come from strangers, so that each field is bounded or checked here. This module must
never ask a registry or touch a file.
"""

from __future__ import annotations

import hashlib
import platform
import posixpath
from typing import TypeVar

import msgspec

from tes_server import errors
from tes_server.model import image_names
from tes_server.telemetry import Code

INDEXES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
MANIFESTS = ("application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json")
CONFIGS = ("application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json")
_LAYERS = ("application/vnd.oci.image.layer.", "application/vnd.docker.image.rootfs.")
_OLD = "application/vnd.docker.distribution.manifest.v1+"

LARGEST = 4 * 1024 * 1024
"""Bytes of a manifest or index: what OCI distribution advises registries to take."""
LARGEST_CONFIG = 16 * 1024 * 1024
"""Bytes of a config, which also tells the history of the image."""
MOST_LAYERS = 1000
"""Docker itself stops at 127."""

_ARCHITECTURES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}
_VARIANTS = {"amd64": ("", "v1"), "arm64": ("", "v8")}
"""Variants that every machine of the architecture can run, in order of preference: the others are for newer ones."""

UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for bytes that are not the JSON they should be."""

S = TypeVar("S")


class Platform(msgspec.Struct, frozen=True):
    """For which machines an image is."""

    architecture: str = ""
    os: str = ""
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


class Blob(msgspec.Struct, frozen=True, rename="camel"):
    """A content of a registry, by its digest. `size` in bytes."""

    media_type: str
    digest: str
    size: int
    platform: Platform | None = None


class Manifest(msgspec.Struct, frozen=True):
    """One image for one platform; layers from the lowest up."""

    config: Blob
    layers: tuple[Blob, ...]


class Settings(msgspec.Struct, frozen=True, rename="pascal"):
    """How a container of the image is run, if nothing else is said. JSON null stands for nothing."""

    env: list[str] | None = None
    working_dir: str | None = None
    user: str | None = None


class _RootFs(msgspec.Struct, frozen=True):
    diff_ids: list[str]


class Config(msgspec.Struct, frozen=True):
    """The config of an image; `rootfs.diff_ids` are the digests of its layers once they are uncompressed."""

    rootfs: _RootFs
    architecture: str = ""
    os: str = ""
    config: Settings | None = None

    @property
    def env(self) -> dict[str, str]:
        """The environment; what is no assignment is left out, as Docker does."""
        return dict(item.split("=", 1) for item in (self.config and self.config.env) or () if item.partition("=")[0] and "=" in item)

    @property
    def workdir(self) -> str:
        """Absolute, or "" for none."""
        path = (self.config and self.config.working_dir) or ""
        return "/" + posixpath.normpath(path).lstrip("/") if path else ""

    @property
    def user(self) -> str:
        """`uid`, `name`, `uid:gid`, ... or "" for root."""
        return (self.config and self.config.user) or ""


class _Document(msgspec.Struct, frozen=True, rename="camel"):
    """Either of index and manifest: a document that is both is a trick to show one image to a scanner and another to us."""

    media_type: str = ""
    config: Blob | None = None
    layers: tuple[Blob, ...] | None = None
    manifests: tuple[Blob, ...] | None = None


def unusable(words: str) -> errors.EngineError:
    """The image is not one that can be run here; it will not be the next time either."""
    return errors.EngineError(words, Code.IMAGE_ERROR)


def shown(text: str, most: int = 100) -> str:
    """A stranger's word in a line of ours."""
    return "".join(letter if letter.isprintable() else " " for letter in text[:most])


def digest_of(data: bytes) -> str:
    """The digest by which a registry knows `data`."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def decoded(data: bytes, kind: type[S], what: str) -> S:
    """A stranger's JSON; `what` is what it should be."""
    try:
        return msgspec.json.decode(data, type=kind)
    except UNDECODABLE as cause:
        raise unusable(f"its {what} cannot be read: {cause}") from cause


def decode(data: bytes, media_type: str) -> Manifest | tuple[Blob, ...]:
    """A manifest, or the entries of an index. `media_type` is what the registry says of it, "" = nothing."""
    if media_type.startswith(_OLD):
        raise unusable("the registry has it only in Docker's first format, which nobody takes any more; push it again")
    document = decoded(data, _Document, "manifest")
    said = document.media_type or media_type
    if document.manifests is not None:
        if document.config is not None or document.layers is not None or said in MANIFESTS:
            raise unusable("its manifest is an index as well")
        return tuple(map(_checked, document.manifests))
    if document.config is None or document.layers is None or said in INDEXES:
        raise unusable(f"it has no manifest of an image but {shown(said) or 'something else'}")
    if document.config.media_type not in CONFIGS:
        raise unusable(f"it is no container image but {shown(document.config.media_type)}")
    for layer in document.layers:
        if not layer.media_type.startswith(_LAYERS) or layer.media_type.endswith("+encrypted"):
            raise unusable(f"a layer is {shown(layer.media_type)}, which cannot be unpacked")
    if len(document.layers) > MOST_LAYERS:
        raise unusable(f"it has more than {MOST_LAYERS} layers")
    return Manifest(_checked(document.config), tuple(map(_checked, document.layers)))


def choose(entries: tuple[Blob, ...], machine: str = "") -> Blob:
    """The entry of an index that is for this machine (`machine` as `uname -m` has it)."""
    architecture = architecture_of(machine)
    fitting = [entry for entry in entries if entry.platform and entry.platform.os == "linux" and entry.platform.architecture == architecture]
    for variant in _VARIANTS[architecture]:
        for entry in fitting:
            if entry.platform is not None and entry.platform.variant == variant:
                return entry
    known = sorted({shown(str(entry.platform)) for entry in entries if entry.platform and entry.platform.os != "unknown"})
    raise unusable(f"it is not for linux/{architecture}, only for {', '.join(known[:20]) or 'nothing that it names'}")


def config(data: bytes, layers: int, machine: str = "") -> Config:
    """The config of an image of so many layers, for this machine."""
    found = decoded(data, Config, "config")
    check_platform(found, machine)
    if len(found.rootfs.diff_ids) != layers:
        raise unusable(f"its config tells of {len(found.rootfs.diff_ids)} layers, its manifest of {layers}")
    if any("\0" in text for text in (*found.env, *found.env.values(), found.workdir, found.user)):
        raise unusable("its config has a NUL character in it")
    return found


def check_platform(found: Config, machine: str = "") -> None:
    """Refuse a config that says that its image is for other machines; one that says nothing is taken for all."""
    architecture = architecture_of(machine)
    if found.os not in ("", "linux") or found.architecture not in ("", architecture):
        raise unusable(f"it is not for linux/{architecture}, only for {shown(found.os) or 'linux'}/{shown(found.architecture)}")


def architecture_of(machine: str = "") -> str:
    """A machine (`uname -m`; "" = this one) in the words of images."""
    machine = machine or platform.machine()
    try:
        return _ARCHITECTURES[machine.lower()]
    except KeyError:
        raise unusable(f"images are run on x86-64 and arm64, not on {machine}") from None


def _checked(blob: Blob) -> Blob:
    if not image_names.is_digest(blob.digest):
        raise unusable(f"{blob.digest[:100]!r} is no sha256 digest")
    if blob.size < 0:
        raise unusable("a size is negative")
    return blob
