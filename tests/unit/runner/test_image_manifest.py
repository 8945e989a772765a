"""Manifests and configs are decoded only if they are what they say."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tes_server import errors
from tes_server.runner import image_manifest
from tes_server.runner.image_manifest import Blob, Manifest, Platform
from tests.image_case import DOCKER_CONFIG, DOCKER_INDEX, DOCKER_MANIFEST, OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST

DIGEST = "sha256:" + "ab" * 32


def manifest(**changes: Any) -> dict[str, Any]:
    blob = {"digest": DIGEST, "size": 10}
    return {"schemaVersion": 2, "config": {**blob, "mediaType": OCI_CONFIG}, "layers": [{**blob, "mediaType": OCI_LAYER}], **changes}


def decoded(document: Any, media_type: str = "") -> Any:
    return image_manifest.decode(json.dumps(document).encode(), media_type)


def test_both_families_are_known() -> None:
    docker = {"mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip", "digest": DIGEST, "size": 1}
    for layer in ({}, {"layers": [docker]}, {"layers": [{**docker, "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"}]}):
        for kind, config in ((OCI_MANIFEST, OCI_CONFIG), (DOCKER_MANIFEST, DOCKER_CONFIG)):
            document = manifest(mediaType=kind, config={"mediaType": config, "digest": DIGEST, "size": 1}, **layer)
            assert isinstance(decoded(document), Manifest)
    assert isinstance(decoded(manifest(), OCI_MANIFEST), Manifest)
    for kind in (OCI_INDEX, DOCKER_INDEX):
        assert decoded({"mediaType": kind, "manifests": [{"mediaType": OCI_MANIFEST, "digest": DIGEST, "size": 1}]}) == (Blob(OCI_MANIFEST, DIGEST, 1),)


@pytest.mark.parametrize(
    ("document", "media_type", "words"),
    [
        (manifest(manifests=[]), "", "index as well"),
        ({"manifests": [], "mediaType": OCI_MANIFEST}, "", "index as well"),
        ({"manifests": []}, OCI_MANIFEST, "index as well"),
        (manifest(mediaType=OCI_INDEX), "", "no manifest of an image"),
        (manifest(), OCI_INDEX, "no manifest of an image"),
        ({"schemaVersion": 1}, "application/vnd.docker.distribution.manifest.v1+prettyjws", "first format"),
        ({}, "", "no manifest of an image"),
        ([], "", "cannot be read"),
        (manifest(layers="x"), "", "cannot be read"),
        (
            manifest(config={"mediaType": "application/vnd.sylabs.sif.config.v1+json", "digest": DIGEST, "size": 1}),
            "",
            "no container image but application/vnd.sylabs",
        ),
        (manifest(layers=[{"mediaType": f"{OCI_LAYER}+gzip+encrypted", "digest": DIGEST, "size": 1}]), "", "cannot be unpacked"),
        (manifest(layers=[{"mediaType": "text/plain", "digest": DIGEST, "size": 1}]), "", "cannot be unpacked"),
        (manifest(layers=[{"mediaType": "a\n" * 10_000, "digest": DIGEST, "size": 1}]), "", "a layer is a a "),
        (manifest(layers=[{"mediaType": OCI_LAYER, "digest": "sha256:../../../etc/passwd", "size": 1}]), "", "no sha256 digest"),
        (manifest(layers=[{"mediaType": OCI_LAYER, "digest": "sha512:" + "ab" * 64, "size": 1}]), "", "no sha256 digest"),
        (manifest(layers=[{"mediaType": OCI_LAYER, "digest": DIGEST, "size": -1}]), "", "negative"),
        (manifest(layers=[{"mediaType": OCI_LAYER, "digest": DIGEST, "size": 1}] * 1001), "", "more than 1000 layers"),
    ],
)
def test_what_is_no_image_is_told(document: Any, media_type: str, words: str) -> None:
    with pytest.raises(errors.EngineError, match=words) as caught:
        decoded(document, media_type)
    assert len(caught.value.public) < 300


@pytest.mark.parametrize("text", [b"", b"\xff\xfe", b"[" * 100_000, b'{"layers": [' * 50_000])
def test_what_is_no_json_is_told(text: bytes) -> None:
    with pytest.raises(errors.EngineError, match="cannot be read"):
        image_manifest.decode(text, OCI_MANIFEST)


def entries(*platforms: str) -> tuple[Blob, ...]:
    made = []
    for number, text in enumerate(platforms):
        os, architecture, variant = (*text.split("/"), "", "")[:3]
        made.append(Blob(OCI_MANIFEST, f"sha256:{number:064}", 1, Platform(architecture, os, variant)))
    return tuple(made)


@pytest.mark.parametrize(
    ("machine", "platforms", "chosen"),
    [
        ("x86_64", ("linux/arm64", "linux/amd64"), 1),
        ("x86_64", ("linux/amd64/v3", "linux/amd64/v1", "linux/amd64"), 2),
        ("x86_64", ("windows/amd64", "linux/386", "linux/amd64/v1"), 2),
        ("aarch64", ("linux/arm/v7", "linux/arm64/v9", "linux/arm64/v8"), 2),
        ("arm64", ("linux/amd64", "unknown/unknown", "linux/arm64"), 2),
        ("x86_64", ("linux/amd64", "linux/amd64"), 0),
    ],
)
def test_the_entry_for_a_machine(machine: str, platforms: tuple[str, ...], chosen: int) -> None:
    assert image_manifest.choose(entries(*platforms), machine).digest == f"sha256:{chosen:064}"


@pytest.mark.parametrize(
    ("machine", "platforms", "words"),
    [
        ("x86_64", ("linux/arm64/v8", "linux/amd64/v3", "unknown/unknown"), "not for linux/amd64, only for linux/amd64/v3, linux/arm64/v8"),
        ("x86_64", (), "only for nothing that it names"),
        ("riscv64", ("linux/riscv64",), "not on riscv64"),
    ],
)
def test_an_index_without_this_machine(machine: str, platforms: tuple[str, ...], words: str) -> None:
    with pytest.raises(errors.EngineError, match=words):
        image_manifest.choose(entries(*platforms), machine)


def config(machine: str = "x86_64", **fields: Any) -> image_manifest.Config:
    return image_manifest.config(json.dumps({"rootfs": {"type": "layers", "diff_ids": []}, **fields}).encode(), 0, machine)


def test_how_an_image_runs() -> None:
    made = config(config={"Env": ["A=1", "B=x=y", "C=", "D", "=E"], "WorkingDir": "//a/../b/", "User": "1000:100"})
    assert (made.env, made.workdir, made.user) == ({"A": "1", "B": "x=y", "C": ""}, "/b", "1000:100")
    for nothing in (config(), config(config=None), config(config={"Env": None, "WorkingDir": None, "User": None})):
        assert (nothing.env, nothing.workdir, nothing.user) == ({}, "", "")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"architecture": "arm64", "os": "linux"}, "it is not for linux/amd64, only for linux/arm64"),
        ({"architecture": "amd64", "os": "windows"}, "only for windows/amd64"),
        ({"rootfs": {"type": "layers", "diff_ids": [DIGEST]}}, "tells of 1 layers, its manifest of 0"),
        ({"config": {"Env": ["A=b\0c"]}}, "NUL"),
        ({"config": {"User": "a\0"}}, "NUL"),
        ({"config": {"Env": {"A": "b"}}}, "cannot be read"),
        ({"rootfs": None}, "cannot be read"),
    ],
)
def test_a_config_that_cannot_be(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(errors.EngineError, match=words):
        config(**fields)
