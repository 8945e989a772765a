"""A registry on loopback that keeps images in memory, and lies where a test tells it to."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from tes_server.runner import image_manifest
from tests.contract.web_server import Answer, Request, WebServer, ranged, serving
from tests.image_case import Packed

Lie = Callable[[Request], Answer | None]


class Registry:
    """`lie` is asked first, and may leave the answer to the truth (None). `host` is what names of images begin with."""

    def __init__(self, server: WebServer) -> None:
        self.server = server
        self.host = server.url.removeprefix("http://")
        self.lie: Lie = lambda _: None
        self._contents: dict[str, tuple[bytes, str]] = {}
        server.script = self.answer

    def push(self, packed: Packed, repository: str = "x", tag: str = "latest") -> str:
        """Keep an image; its name."""
        self.put(packed.manifest, packed.media_type, repository, tag)
        for digest, data in packed.blobs.items():
            self._contents[f"/v2/{repository}/blobs/{digest}"] = (data, "application/octet-stream")
        return f"{self.host}/{repository}:{tag}"

    def put(self, manifest: bytes, media_type: str, repository: str, tag: str) -> None:
        """Keep a manifest or an index by its tag and its digest."""
        for reference in (tag, image_manifest.digest_of(manifest)):
            self._contents[f"/v2/{repository}/manifests/{reference}"] = (manifest, media_type)

    def forget(self) -> None:
        """Everything."""
        self._contents.clear()

    def answer(self, request: Request) -> Answer:
        """The lie if there is one, else the truth."""
        return self.lie(request) or self.truth(request)

    def truth(self, request: Request) -> Answer:
        """What an honest registry says."""
        found = self._contents.get(request.path)
        if found is None:
            return Answer(404, b'{"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}')
        data, media_type = found
        if "/blobs/" in request.path:
            return ranged(data, request)
        return Answer(200, data, {"Content-Type": media_type, "Docker-Content-Digest": image_manifest.digest_of(data)})

    def asked(self, part: str = "") -> list[str]:
        """Method and path of the requests so far whose path has `part` in it."""
        return [f"{request.method} {request.path}" for request in self.server.requests if part in request.path]


@contextlib.contextmanager
def registry() -> Iterator[Registry]:
    """A running registry."""
    with serving() as server:
        yield Registry(server)
