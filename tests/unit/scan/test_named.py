"""What people mean by the name of an image."""

from __future__ import annotations

import datetime

import pytest

from tes_server.model.verdict import Outcome, ScanKey, Verdict
from tes_server.scan import named

DIGEST = "sha256:" + "a" * 64
NOW = datetime.datetime(2026, 11, 22, tzinfo=datetime.UTC)


def verdict(image: str, digest: str = DIGEST) -> Verdict:
    return Verdict(key=ScanKey(digest, "0" * 16), outcome=Outcome.PASS, image=image, scanner="trivy", scanned_at=NOW, expires_at=NOW)


@pytest.mark.parametrize(
    ("name", "image", "exactly", "loosely"),
    [
        ("team/tool:1", "127.0.0.1:5000/team/tool:1", False, True),
        ("tool:1", "127.0.0.1:5000/team/tool:1", False, True),
        ("tool", "127.0.0.1:5000/team/tool:1", False, False),
        ("tool", "127.0.0.1:5000/team/tool", False, True),
        ("ol:1", "127.0.0.1:5000/team/tool:1", False, False),
        ("docker.io/team/tool:1", "127.0.0.1:5000/team/tool:1", False, False),
        ("index.docker.io/team/tool:1", "team/tool:1", True, False),
        ("alpine", "docker.io/library/alpine:latest", True, True),
        ("GHCR.io/a/b:1", "ghcr.io/a/b:1", True, False),
        (f"team/tool@{DIGEST}", "ghcr.io/team/tool:3", False, True),
        (f"team/tool@sha256:{'b' * 64}", "ghcr.io/team/tool:3", False, False),
        (f"ghcr.io/team/tool@{DIGEST}", "ghcr.io/team/tool:3", True, False),
        ("a" * 12, "ghcr.io/tool", True, False),
        ("a" * 11, "ghcr.io/tool", False, False),
        ("Local Image", "Local Image", True, False),
    ],
)
def test_a_name_and_an_image(name: str, image: str, exactly: bool, loosely: bool) -> None:
    assert named.exactly(name, image, DIGEST) is exactly
    assert named.loosely(name, image, DIGEST) is loosely


def test_what_a_task_would_get_comes_before_what_is_only_called_so() -> None:
    hub, other = verdict("team/tool:1"), verdict("ghcr.io/team/tool:1", "sha256:" + "b" * 64)
    assert named.meant("team/tool:1", [other, hub]) == [hub]
    assert named.meant("team/tool:1", [other]) == [other]
    assert named.meant("team/tool:2", [other, hub]) == []
    assert named.alike("else/tool:2", [other, hub]) == ["ghcr.io/team/tool:1", "team/tool:1"]
    assert named.alike("tools", [other, hub]) == []


def test_a_scan_is_found_by_any_tag_of_its_repository() -> None:
    pinned = f"ghcr.io/team/tool@{DIGEST}"
    assert [name for name in ("ghcr.io/team/tool:9", "team/tool", "tool:1", "a" * 12, DIGEST) if not named.about(name, pinned)] == []
    assert [name for name in ("quay.io/team/tool", "ool", "b" * 12) if named.about(name, pinned)] == []
    assert named.about(DIGEST, DIGEST)
    assert named.is_scan("a2" * 13)
    assert not named.is_scan("a1" * 13)
