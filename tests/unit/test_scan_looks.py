"""What is said of settings of image scans that work, and of the scanner that they name."""

from __future__ import annotations

import datetime
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest

from tes_server import configuration, doctor_scans, scan_checks, scan_looks
from tes_server.settings import Settings
from tests import image_registry
from tests.contract.web_server import serving
from tests.image_case import entry, layer, pack

TODAY = datetime.date(2026, 11, 22)
USUAL = {"scan.mode": "enforce", "scan.image": f"ghcr.io/aquasecurity/trivy@sha256:{'a' * 64}", "local.engine": "sandbox"}
PRISMA = {"scan.scanner": "prisma", "scan.console": "https://console.example:8083"}
LOGIN = {"TWISTLOCK_USER": "ci", "TWISTLOCK_PASSWORD": "secret://prisma"}


def made(**tree: Any) -> Settings:
    found = configuration.load(None, {}, {**USUAL, **tree})
    scan_checks.check(found)
    return found


def ignored(**changes: str) -> dict[str, Any]:
    return {"scan.policy.ignore": [{"id": "CVE-1", "reason": "r", "expires": "2026-11-22", **changes}]}


@pytest.mark.parametrize(
    ("tree", "key", "words"),
    [
        ({"scan.exempt": ["host", "*"]}, "scan.exempt[1]", "holds for every image: no image is scanned"),
        ({"scan.policy.deny": ["*"]}, "scan.policy.deny[0]", "no image may run"),
        ({"scan.policy.allow": ["?*"]}, "scan.policy.allow[0]", "as without it"),
        (ignored(expires="2026-11-21"), "scan.policy.ignore[0].expires", "was 2026-11-21: CVE-1 counts again"),
        (ignored(id="*"), "scan.policy.ignore[0].id", "accepts all findings in all images until 2026-11-22"),
        ({"scan.policy.severities": []}, "scan.policy.severities", "findings of all severities are taken"),
        ({"scan.backends": {"kubernetes": "warn"}}, "scan.backends.kubernetes", "is no place for tasks here; there is local"),
        (PRISMA, "scan.env", "has no TWISTLOCK_USER and no TWISTLOCK_PASSWORD, by which prisma signs in to its Console"),
    ],
)
def test_what_works_and_can_hardly_be_meant(tree: dict[str, Any], key: str, words: str) -> None:
    ((told, said),) = scan_looks.doubts(made(**tree), TODAY)
    assert told == key
    assert words in said
    assert list(scan_looks.doubts(made(**tree, **{"scan.mode": "off"}), TODAY)) == []


@pytest.mark.parametrize(
    "tree",
    [
        {},
        {"scan.exempt": ["host", "docker.io/library", "*.azurecr.io"], "scan.policy.allow": ["*.example"]},
        ignored(),
        ignored(id="*", package="libxml2"),
        {**PRISMA, "scan.env": LOGIN, "local.scan_secrets": {"prisma": "/run/secrets/prisma"}},
    ],
)
def test_nothing_is_said_of_the_rest(tree: dict[str, Any]) -> None:
    assert list(scan_looks.doubts(made(**tree), TODAY)) == []


@pytest.fixture
def registry() -> Iterator[image_registry.Registry]:
    with image_registry.registry() as running:
        yield running


def said(capsys: pytest.CaptureFixture[str], **tree: Any) -> tuple[bool, list[str]]:
    works = doctor_scans.say(made(**tree), None)
    return works, capsys.readouterr().out.splitlines()


def test_the_doctor_looks_at_the_scanner(tmp_path: pathlib.Path, registry: image_registry.Registry, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = pack([layer(entry("file", b"x"))], architecture="amd64"), pack([layer(entry("file", b"x"))], architecture="arm64")
    registry.push(one)
    registry.push(other)
    here: dict[str, Any] = {"data": str(tmp_path / "data"), "scan.image": f"{registry.host}/x@{one.digest}", "scan.architectures": {"local": "amd64"}}
    assert said(capsys, **here) == (True, [f"ok    scanner trivy for local: {here['scan.image']} is there"])
    assert said(capsys, **{**here, "scan.mode": "off"}) == (True, [])
    works, (line,) = said(capsys, **{**here, "scan.image": f"{registry.host}/x@{other.digest}"})
    assert (works, line.startswith("no    scanner trivy for local: "), "only for linux/arm64 (scan.image)" in line) == (False, True, True)
    works, (line,) = said(capsys, **{**here, "scan.image": f"{registry.host}/x@sha256:{'0' * 64}"})
    assert (works, line.endswith("the registry does not have it (MANIFEST_UNKNOWN: manifest unknown) (scan.image)")) == (False, True)


def test_the_doctor_looks_at_the_scanners_secrets(tmp_path: pathlib.Path, registry: image_registry.Registry, capsys: pytest.CaptureFixture[str]) -> None:
    one = pack([layer(entry("file", b"x"))])
    registry.push(one)
    (tmp_path / "there").write_text("hunter2")
    tree = {
        "data": str(tmp_path / "data"),
        "scan.image": f"{registry.host}/x@{one.digest}",
        "scan.env": {"TRIVY_TOKEN": "secret://there", "TRIVY_PASSWORD": "secret://gone", "TRIVY_REGISTRY_TOKEN": "secret://there/key"},
        "local.scan_secrets": {"there": str(tmp_path / "there"), "gone": str(tmp_path / "gone")},
    }
    works, lines = said(capsys, **tree)
    assert not works
    assert lines[1:] == [
        "ok    scan.env.TRIVY_TOKEN: there is such a secret (local.scan_secrets)",
        "no    scan.env.TRIVY_PASSWORD: local.scan_secrets.gone: the file that it leads to does not exist",
        "no    scan.env.TRIVY_REGISTRY_TOKEN: local.scan_secrets.there: it is no JSON object, so it has no keys",
    ]
    assert "hunter2" not in "".join(lines)


def test_the_doctor_asks_who_the_scanner_asks(tmp_path: pathlib.Path, registry: image_registry.Registry, capsys: pytest.CaptureFixture[str]) -> None:
    one = pack([layer(entry("file", b"x"))])
    registry.push(one)
    tree = {"data": str(tmp_path / "data"), "scan.image": f"{registry.host}/x@{one.digest}", "scan.exempt": ["*"]}
    with serving() as server:
        assert said(capsys, **tree, **{"scan.server": server.url})[1][1] == f"ok    scan.server {server.url}: answers"
    works, lines = said(capsys, **tree, **{"scan.server": "http://127.0.0.1:1"})
    assert works, "scanners may reach it all the same"
    assert lines[1].startswith("note  scan.server http://127.0.0.1:1: does not answer here (")
    assert lines[2].startswith("note  scan.exempt[0]: '*' holds for every image")
