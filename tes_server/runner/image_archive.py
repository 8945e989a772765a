"""Images in a file: what `docker save` writes (one or several), and archives of OCI's image layout.

Nothing is unpacked here: an image is its config and a reader for each layer. This module must never write but to a file
without a name, where the archive itself is compressed.
"""

from __future__ import annotations

import contextlib
import pathlib
import posixpath
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from typing import IO, BinaryIO

import msgspec

from tes_server.model import image_names
from tes_server.runner import image_manifest, image_stream
from tes_server.runner.image_blobs import Bytes
from tes_server.runner.image_manifest import Blob

_LINKS = 10
"""Links followed inside of an archive: older Dockers wrote a layer that two images share as a link."""

_FULL_NAME = "io.containerd.image.name"
_REFERENCE = "org.opencontainers.image.ref.name"


class Packed:
    """An image in a file (`image_blobs.Source`).

    `digest` is its manifest's; where the file has none (docker save), its config's: Docker's image id.
    """

    compressed = 0

    def __init__(self, digest: str, names: tuple[str, ...], config: image_manifest.Config, layers: Sequence[Bytes]) -> None:
        self.digest = digest
        self.names = names
        self._config = config
        self._layers = layers

    def config(self, _: pathlib.Path, /) -> image_manifest.Config:
        """See `Source`."""
        return self._config

    def layers(self, _: pathlib.Path, /) -> contextlib.AbstractContextManager[Sequence[Bytes]]:
        """See `Source`."""
        return contextlib.nullcontext(self._layers)


class _Saved(msgspec.Struct, rename="pascal"):
    """An entry of docker save's manifest.json."""

    config: str
    layers: list[str]
    repo_tags: list[str] | None = None


class _Entry(msgspec.Struct, rename="camel"):
    media_type: str
    digest: str
    size: int
    annotations: dict[str, str] = {}
    platform: image_manifest.Platform | None = None


class _Index(msgspec.Struct):
    manifests: list[_Entry]


@contextlib.contextmanager
def opened(file: BinaryIO, directory: pathlib.Path) -> Iterator[list[Packed]]:
    """The images in `file`, readable until the end. `directory`: where a compressed archive is uncompressed. EngineError IMAGE_ERROR."""
    with contextlib.ExitStack() as stack:
        try:
            archive = stack.enter_context(tarfile.open(fileobj=stack.enter_context(_plain(file, directory)), mode="r:"))
            contents = _Contents(archive)
        except (OSError, tarfile.TarError, ValueError) as cause:
            raise image_manifest.unusable(f"it cannot be read as a tar archive: {cause}") from cause
        yield list(contents.images())


@contextlib.contextmanager
def _plain(file: BinaryIO, directory: pathlib.Path) -> Iterator[IO[bytes]]:
    head = file.read(4)
    file.seek(0)
    if not image_stream.is_compressed(head):
        yield file
        return
    with tempfile.TemporaryFile(dir=directory) as plain:
        for piece in image_stream.uncompressed(file):
            plain.write(piece)
        plain.seek(0)
        yield plain


class _Contents:
    def __init__(self, archive: tarfile.TarFile) -> None:
        self._archive = archive
        self._members = {posixpath.normpath(member.name): member for member in archive}

    def images(self) -> Iterator[Packed]:
        if "index.json" in self._members:  # Docker's own file lies beside it since Docker 25
            for entry in image_manifest.decoded(self._text("index.json"), _Index, "index.json").manifests:
                yield self._by_layout(entry)
        elif "manifest.json" in self._members:
            for saved in image_manifest.decoded(self._text("manifest.json"), list[_Saved], "manifest.json"):
                yield self._by_docker(saved)
        else:
            raise image_manifest.unusable("it is neither what `docker save` writes nor OCI's image layout")

    def _by_docker(self, saved: _Saved) -> Packed:
        text = self._text(saved.config)
        digest = image_manifest.digest_of(text)
        if posixpath.basename(saved.config).removesuffix(".json") != digest.removeprefix("sha256:"):
            raise image_manifest.unusable(f"{saved.config[:100]} is damaged: its digest is another")
        config = image_manifest.config(text, len(saved.layers))
        return Packed(digest, tuple(saved.repo_tags or ()), config, [self._open(layer) for layer in saved.layers])

    def _by_layout(self, entry: _Entry) -> Packed:
        names = [entry.annotations[key] for key in (_FULL_NAME, _REFERENCE) if key in entry.annotations]
        blob = Blob(entry.media_type, entry.digest, entry.size, entry.platform)
        found = image_manifest.decode(self._blob_text(blob), blob.media_type)
        while not isinstance(found, image_manifest.Manifest):
            blob = image_manifest.choose(found)
            found = image_manifest.decode(self._blob_text(blob), blob.media_type)
        config = image_manifest.config(self._blob_text(found.config), len(found.layers))
        # A reference may be a bare tag, which is no name.
        whole = tuple(name for name in names[:1] if "/" in name or ":" in name)
        return Packed(blob.digest, whole, config, [self._open(_path(layer)) for layer in found.layers])

    def _blob_text(self, blob: Blob) -> bytes:
        text = self._text(_path(blob))
        if image_manifest.digest_of(text) != blob.digest:
            raise image_manifest.unusable(f"{blob.digest} is damaged: its digest is another")
        return text

    def _text(self, path: str) -> bytes:
        text = self._open(path).read(image_manifest.LARGEST_CONFIG + 1)
        if len(text) > image_manifest.LARGEST_CONFIG:
            raise image_manifest.unusable(f"its {path[:100]} is larger than {image_manifest.LARGEST_CONFIG} bytes")
        return text

    def _open(self, path: str) -> IO[bytes]:
        path = posixpath.normpath(path)
        for _ in range(_LINKS):
            member = self._members.get(path)
            if member is None or not member.issym():
                break
            path = posixpath.normpath(posixpath.join(posixpath.dirname(path), member.linkname))
        file = self._archive.extractfile(member) if member is not None and member.isreg() else None
        if file is None:
            raise image_manifest.unusable(f"it has no {path[:100]}")
        return file


def _path(blob: Blob) -> str:
    if not image_names.is_digest(blob.digest):
        raise image_manifest.unusable(f"{blob.digest[:100]!r} is no sha256 digest")
    return f"blobs/sha256/{blob.digest.removeprefix('sha256:')}"
