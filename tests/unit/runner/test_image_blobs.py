"""Blobs arrive whole or not at all, from registries that break off, lie or are slow."""

from __future__ import annotations

import json
import pathlib
import threading
import time

import pytest

from tes_server import errors
from tes_server.runner.images import Images
from tes_server.telemetry import Code
from tests import image_registry
from tests.contract.web_server import Answer, Request
from tests.image_case import Packed, entry, layer, pack
from tests.unit.runner.conftest import PACE, Maker

Registry = image_registry.Registry
SIZE = 600_000


@pytest.fixture
def image() -> Packed:
    """One layer that is not compressed, so that its bytes can be counted."""
    return pack([layer(entry("file", bytes(range(256)) * (SIZE // 256)))], compress=bytes)


def of_layer(request: Request) -> bool:
    return "/blobs/" in request.path and request.method == "GET"


class Lies:
    """Lies about the layer, one for each time it is asked for; None is the truth, as is what comes after them."""

    def __init__(self, registry: Registry, *lies: object) -> None:
        self._registry = registry
        self._lies = list(lies)
        self.spans: list[object] = []
        registry.lie = self.answer

    def answer(self, request: Request) -> Answer | None:
        honest = self._registry.truth(request)
        if not of_layer(request) or len(honest.body) < 10_000:
            return None
        self.spans.append(request.span)
        lie = self._lies.pop(0) if self._lies else None
        return lie(honest, request) if callable(lie) else None


def cut(at: int) -> object:
    return lambda honest, _: honest._replace(body=honest.body[:at], length=len(honest.body))


def failure(images: Images, name: str) -> errors.EngineError:
    with pytest.raises(errors.EngineError) as caught:
        images.prepare(name)
    assert caught.value.code == Code.IMAGE_ERROR
    return caught.value


def test_a_transfer_goes_on_where_it_broke_off(make: Maker, registry: Registry, image: Packed) -> None:
    lies = Lies(registry, cut(200_000), cut(100_000))
    assert (make().prepare(registry.push(image)).root / "file").stat().st_size == SIZE // 256 * 256
    assert lies.spans == [None, (200_000, None), (300_000, None)]


def test_a_server_without_ranges_is_read_from_the_start(make: Maker, registry: Registry, image: Packed) -> None:
    whole = next(data for data in image.blobs.values() if len(data) > 10_000)
    Lies(registry, cut(200_000), lambda *_: Answer(200, whole))
    assert (make().prepare(registry.push(image)).root / "file").read_bytes() == bytes(range(256)) * (SIZE // 256)


def test_failures_in_a_row_are_counted_and_progress_forgives_them(make: Maker, registry: Registry, image: Packed) -> None:
    busy = lambda *_: Answer(503, headers={"Retry-After": "9999"})  # noqa: E731
    Lies(registry, busy, busy, cut(100_000), busy)
    make().prepare(registry.push(image))
    lies = Lies(registry, *[busy] * 10)
    registry.push(other := pack([layer(entry("other", b"o" * SIZE))], compress=bytes), "y")
    cause = failure(make(), f"{registry.host}/y")
    assert cause.transient
    assert "503" in cause.public
    assert "several times" in cause.public
    assert len(lies.spans) == PACE.tries
    assert other.digest not in [listed.image.digest for listed in make().list()]


@pytest.mark.parametrize(
    ("lie", "words"),
    [
        (lambda honest, _: Answer(200, honest.body[:-1] + b"?"), "digest of a blob is wrong"),
        (lambda honest, request: Answer(200, (honest.body if request.span is None else b"x" * SIZE) + b"m" * 10_000), "more bytes"),
        (lambda *_: Answer(200, b""), "broke off"),
        (lambda honest, _: Answer(206, honest.body, {"Content-Range": f"bytes 5-{len(honest.body)}/*"}), "another part"),
        (lambda honest, _: Answer(206, honest.body), "another part"),
    ],
    ids=["wrong", "long", "empty", "shifted", "rangeless"],
)
def test_a_lie_leaves_no_image(make: Maker, registry: Registry, image: Packed, tmp_path: pathlib.Path, lie: object, words: str) -> None:
    Lies(registry, *[lie] * 10)
    name = registry.push(image)
    cause = failure(make(), name)
    assert words in cause.public
    assert cause.transient
    assert [path.name for path in (tmp_path / "images").iterdir()] == ["names"]
    registry.lie = lambda _: None
    assert make().prepare(name).digest == image.digest


def test_a_missing_blob_is_no_missing_image(make: Maker, registry: Registry, image: Packed) -> None:
    Lies(registry, *[lambda *_: Answer(404)] * 5)
    with pytest.raises(errors.EngineError, match="does not have it"):
        make().prepare(registry.push(image))


def test_a_silent_registry_is_given_up(make: Maker, registry: Registry, image: Packed) -> None:
    never = threading.Event()
    silent = lambda honest, _: honest._replace(body=honest.body[:1000], length=len(honest.body), hold=never)  # noqa: E731
    Lies(registry, *[silent] * 10)
    try:
        cause = failure(make(pace=PACE.__class__(read_timeout=0.1, tries=2, first_delay=0.001)), registry.push(image))
    finally:
        never.set()
    assert "did not answer in time" in cause.public
    assert cause.transient


def test_layers_come_side_by_side_and_a_bad_one_stops_the_others(make: Maker, registry: Registry) -> None:
    """The first layer is no archive; the second hangs, and must not be waited for."""
    one = pack([b"no archive" * 1000, layer(entry("file", b"x" * SIZE))], compress=bytes)
    both, never = threading.Barrier(2, timeout=10), threading.Event()

    def hang(request: Request) -> Answer | None:
        honest = registry.truth(request)
        if not of_layer(request) or len(honest.body) < 10_000:
            return None
        both.wait()
        return honest if honest.body.startswith(b"no") else honest._replace(body=b"", length=SIZE, hold=never)

    registry.lie = hang
    begun = time.monotonic()
    try:
        assert "archive is damaged" in failure(make(pace=PACE.__class__(read_timeout=60)), registry.push(one)).public
    finally:
        never.set()
    assert time.monotonic() - begun < 10


@pytest.mark.parametrize("by", ["tag", "digest"])
def test_another_manifest_than_was_asked_for_is_refused(make: Maker, registry: Registry, image: Packed, by: str) -> None:
    name = registry.push(image)
    other = pack([])
    registry.push(other)
    if by == "digest":
        name = f"{registry.host}/x@{image.digest}"
    registry.lie = lambda request: Answer(200, other.manifest, registry.truth(request).headers) if image.digest in request.path else None
    if by == "tag":
        registry.push(image)
    cause = failure(make(), name)
    assert cause.transient
    assert "another manifest" in cause.public


def test_a_config_of_other_layers_is_refused(make: Maker, registry: Registry, image: Packed) -> None:
    other = pack([layer(entry("file", b"other"))], compress=bytes)
    mixed = json.loads(image.manifest)
    mixed["config"] = json.loads(other.manifest)["config"]
    cause = failure(make(), registry.push(Packed(json.dumps(mixed).encode(), {**image.blobs, **other.blobs})))
    assert "another than its config" in cause.public
    assert not cause.transient


@pytest.mark.parametrize(("size", "words"), [(10, "more bytes"), (10_000, "fewer bytes"), (2**40, "config is larger")])
def test_a_wrong_size_in_the_manifest_is_told(make: Maker, registry: Registry, image: Packed, size: int, words: str) -> None:
    manifest = json.loads(image.manifest)
    manifest["config"]["size"] = size
    assert words in failure(make(), registry.push(Packed(json.dumps(manifest).encode(), image.blobs))).public


def test_an_empty_image_is_one(make: Maker, registry: Registry) -> None:
    image = make().prepare(registry.push(pack([])))
    assert list(image.root.iterdir()) == []
