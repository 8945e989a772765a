"""Images are taken from files, those of `docker save` and of OCI's layout."""

from __future__ import annotations

import gzip
import io
import json
import pathlib
from typing import Any

import pytest
import zstandard

from tes_server import errors
from tes_server.telemetry import Code
from tests import image_case, image_registry
from tests.contract.web_server import Answer
from tests.image_case import Packed, entry, layer, link, pack
from tests.unit.runner.conftest import Maker


def saved(*images: tuple[Packed, list[str] | None]) -> bytes:
    """What `docker save` wrote before Docker 25: a layer that was met before is a link."""
    entries: list[image_case.Entry] = []
    listed = []
    where: dict[str, str] = {}
    for number, (image, names) in enumerate(images):
        manifest = json.loads(image.manifest)
        config = manifest["config"]["digest"][7:]
        entries.append(entry(f"{config}.json", image.blobs[f"sha256:{config}"]))
        layers = []
        for place, one in enumerate(manifest["layers"]):
            path = f"{number}{place}/layer.tar"
            layers.append(path)
            known = where.get(one["digest"])
            entries.append(link(path, f"../{known}") if known else entry(path, image.blobs[one["digest"]]))
            where[one["digest"]] = path
        listed.append({"Config": f"{config}.json", "RepoTags": names, "Layers": layers})
    return layer(*entries, entry("manifest.json", json.dumps(listed).encode()), entry("repositories", b"{}"))


def plain(*contents: bytes) -> Packed:
    return pack([layer(entry(f"file{number}", data)) for number, data in enumerate(contents)], compress=bytes)


def test_several_images_of_docker_save(make: Maker) -> None:
    first, second = plain(b"shared", b"1"), plain(b"shared", b"2")
    images = make()
    found = images.load(io.BytesIO(saved((first, ["a:1", "b/c:2"]), (second, None))))
    one, two = (json.loads(image.manifest)["config"]["digest"] for image in (first, second))
    assert [(name, image.digest) for name, image in found] == [("docker.io/library/a:1", one), ("docker.io/b/c:2", one), ("", two)]
    assert (found[2][1].root / "file0").read_bytes() == b"shared"
    assert (found[2][1].root / "file1").read_bytes() == b"2"
    assert images.find("b/c:2") == images.find(one) == found[0][1]


@pytest.mark.parametrize("compress", [bytes, gzip.compress, zstandard.compress])
def test_a_layout_keeps_the_digest(make: Maker, compress: Any) -> None:
    image = pack([layer(entry("file", b"1"))])
    name = {"io.containerd.image.name": "docker.io/library/x:1", "org.opencontainers.image.ref.name": "1"}
    ((known, found),) = make().load(io.BytesIO(compress(image_case.layout(image, name))))
    assert (known, found.digest) == ("docker.io/library/x:1", image.digest)


def test_a_bare_tag_is_no_name(make: Maker) -> None:
    image = plain(b"1")
    images = make()
    data = image_case.layout(image, {"org.opencontainers.image.ref.name": "latest"})
    assert images.load(io.BytesIO(data)) == [("", images.find(image.digest))]
    assert images.load(io.BytesIO(data), name="given/name")[0][0] == "docker.io/given/name:latest"


def test_what_was_loaded_is_asked_nobody_about(make: Maker) -> None:
    """Where there is no network, and for images that were never in a registry."""
    with image_registry.registry() as registry:
        images = make(fresh=0)
        name = f"{registry.host}/x:1"
        ((_, image),) = images.load(io.BytesIO(saved((plain(b"1"), [name]))))
        assert images.prepare(name) == image
        assert registry.server.requests == []
        registry.lie = lambda _: Answer(404)
        with pytest.raises(errors.EngineError, match="does not have it"):
            images.pull(name)
        registry.lie = lambda _: None
        newer = plain(b"2")
        registry.push(newer, tag="1")
        assert images.pull(name).digest == newer.digest
        assert images.prepare(name).digest == newer.digest


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "cannot be read"),
        (b"no archive" * 100, "cannot be read"),
        (gzip.compress(b"no archive" * 100), "cannot be read"),
        (gzip.compress(b"x" * 5000)[:30], "compression"),
        (layer(entry("x", b"")), "neither"),
        (layer(entry("manifest.json", b"{}")), "manifest.json cannot be read"),
        (layer(entry("manifest.json", b'[{"Config": "x", "Layers": []}]')), "has no x"),
        (layer(entry("x", b"{}"), entry("manifest.json", b'[{"Config": "x", "Layers": []}]')), "another"),
        (layer(link("x", "/etc/passwd"), entry("manifest.json", b'[{"Config": "x", "Layers": []}]')), "has no"),
        (layer(link("x", "x"), entry("manifest.json", b'[{"Config": "x", "Layers": []}]')), "has no x"),
        (image_case.layout(plain(b"1"), spoiled=b"{}"), "damaged"),
        (layer(entry("index.json", b'{"manifests": [{"mediaType": "\xff"}]}')), "index.json cannot be read"),
        (layer(entry("index.json", b'{"manifests": ' + b"[" * 100_000)), "index.json cannot be read"),
    ],
    ids=range(13),
)
def test_a_file_that_is_none_is_told(make: Maker, tmp_path: pathlib.Path, data: bytes, words: str) -> None:
    images = make()
    with pytest.raises(errors.EngineError, match=words) as caught:
        images.load(io.BytesIO(data), "the file")
    assert caught.value.code == Code.IMAGE_ERROR
    assert caught.value.public.startswith("the file: ")
    assert [path.name for path in (tmp_path / "images").iterdir()] == ["names"]


def test_one_name_for_two_images_is_refused(make: Maker) -> None:
    with pytest.raises(errors.EngineError, match="there are 2"):
        make().load(io.BytesIO(saved((plain(b"1"), None), (plain(b"2"), None))), name="x")


def test_a_layer_of_another_image_is_refused(make: Maker) -> None:
    image, other = plain(b"1"), plain(b"2")
    digests = [json.loads(one.manifest)["layers"][0]["digest"] for one in (image, other)]
    image.blobs[digests[0]] = other.blobs[digests[1]]
    for data in (image_case.layout(image), saved((image, None))):
        with pytest.raises(errors.EngineError, match="another than its config"):
            make().load(io.BytesIO(data))
    assert make().list() == []
