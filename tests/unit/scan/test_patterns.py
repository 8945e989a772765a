"""Which images a pattern holds for, and for which it must not."""

from __future__ import annotations

import pytest

from tes_server.scan import patterns

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("pattern", "image"),
    [
        ("docker.io", "debian"),
        ("docker.io/library", "debian:12"),
        ("docker.io/library/debian", "debian"),
        ("docker.io/library/debian", f"debian@{DIGEST}"),
        ("docker.io/library/debian:latest", "debian"),
        ("docker.io/library/debian:1*", "index.docker.io/debian:12"),
        ("docker.io/team", "team/tool:1"),
        ("*.azurecr.io", "site.azurecr.io/a/b/c:1"),
        ("*.azurecr.io/prod", "site.azurecr.io/prod/tool"),
        ("*/*/debian", "ghcr.io/any/debian:3"),
        ("*", "debian"),
        ("localhost:5000", "localhost:5000/x"),
        ("127.0.0.1:5000/tes-test/*", "127.0.0.1:5000/tes-test/busybox:latest"),
        (f"docker.io/library/debian@{DIGEST}", f"debian@{DIGEST}"),
        (f"docker.io/library/debian@{DIGEST}", f"debian:12@{DIGEST}"),
        ("ghcr.io", "GHCR.io/x"),
        ("GHCR.io/team", "ghcr.io/team/x"),
        ("*.AzureCR.io", "site.azurecr.io/x"),
        ("index.docker.io/library", "debian"),
        ("docker.io", "Index.Docker.io/team/x"),
        ("[fd00::1]:5000", "[fd00::1]:5000/x"),
        ("[FD00::1]:5000/team", "[fd00::1]:5000/team/x"),
        ("host", "host"),
    ],
)
def test_what_a_pattern_holds_for(pattern: str, image: str) -> None:
    assert patterns.fault(pattern) == ""
    assert patterns.matches(pattern, image)


@pytest.mark.parametrize(
    ("pattern", "image"),
    [
        ("*.azurecr.io", "evil.example/x.azurecr.io/tool"),
        ("*.azurecr.io/*", "evil.example/x.azurecr.io/tool"),
        ("ghcr.io/team", "ghcr.io/team-evil/x"),
        ("ghcr.io/team", "ghcr.io/teamx"),
        ("ghcr.io/team/tool:1.*", "ghcr.io/team/tool:2.0"),
        ("ghcr.io/team/tool:1.*", "ghcr.io/team/tool/below:1.0"),
        ("docker.io/library/debian:latest", "debian:12"),
        ("docker.io/library/debian:12", f"debian:12@{DIGEST}"),  # the digest says which image it is
        ("docker.io", "docker.io.evil.example/x"),
        ("docker.io", DIGEST),
        ("*", "a" * 64),
        ("host", "debian"),
        ("*.io", "host"),
        ("docker.io/library/host", "host"),
        ("docker.io", "UPPER/Case"),
        ("localhost", "localhost:5000/x"),
    ],
)
def test_what_a_pattern_does_not_hold_for(pattern: str, image: str) -> None:
    assert not patterns.matches(pattern, image)


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("", "must be registry"),
        ("https://ghcr.io", "must be registry"),
        ("ghcr.io/", "must be registry"),
        ("ghcr.io//x", "must be registry"),
        (" ghcr.io", "must be registry"),
        ("debian", "docker.io/library/debian"),
        ("team/tool", "docker.io/team/tool"),
        ("ghcr.io/**", "single *"),
        ("docker.io/debian:1*", "docker.io/library/debian:1*"),
        (f"docker.io/debian@{DIGEST}", "docker.io/library/debian@"),
    ],
)
def test_what_is_no_pattern(pattern: str, words: str) -> None:
    assert words in patterns.fault(pattern)


def test_which_names_are_pinned() -> None:
    assert patterns.pinned(f"debian@{DIGEST}")
    assert patterns.pinned(f"debian:12@{DIGEST}")
    assert patterns.pinned(DIGEST)
    assert not patterns.pinned("debian:12")
    assert not patterns.pinned("debian@sha256:aa")
    assert patterns.first(["ghcr.io", "docker.io", "*"], "debian") == "docker.io"
    assert patterns.first(["ghcr.io"], "debian") == ""


def test_which_names_lead_to_one_repository() -> None:
    same = ("debian", "debian:12", f"debian:12@{DIGEST}", "docker.io/library/debian", "index.docker.io/debian:9", "Index.docker.io/library/debian")
    assert {patterns.repository(image) for image in same} == {"docker.io/library/debian"}
    assert patterns.repository("GHCR.io:443/Team") == patterns.repository(DIGEST) == patterns.repository("a" * 64) == patterns.repository("host") == ""
