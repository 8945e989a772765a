"""Why an image cannot be had, read from words that daemons and registries really say."""

from __future__ import annotations

import pytest

from tes_server.runner import docker_images
from tes_server.telemetry import Code


@pytest.mark.parametrize(
    ("said", "code", "transient"),
    [
        ("manifest for 127.0.0.1:5000/x:1 not found: manifest unknown", Code.IMAGE_NOT_FOUND, False),
        ("manifest for x:1 not found: manifest unknown: manifest unknown", Code.IMAGE_NOT_FOUND, False),
        ("pull access denied for x, repository does not exist or may require 'docker login': denied: requested access", Code.IMAGE_DENIED, False),
        ('Head "https://r/v2/x/manifests/1": unauthorized: authentication required', Code.IMAGE_DENIED, False),
        ('Head "https://r/v2/x/manifests/1": no basic auth credentials', Code.IMAGE_DENIED, False),
        ('Get "https://r/v2/": dial tcp: lookup r on 10.0.0.1:53: no such host', Code.IMAGE_ERROR, True),
        ('Get "http://127.0.0.1:1/v2/": dial tcp 127.0.0.1:1: connect: connection refused', Code.IMAGE_ERROR, True),
        ('Get "https://r/v2/": net/http: TLS handshake timeout', Code.IMAGE_ERROR, True),
        ("toomanyrequests: You have reached your pull rate limit", Code.IMAGE_ERROR, True),
        ("no matching manifest for linux/arm64/v8 in the manifest list entries", Code.IMAGE_ERROR, False),
        ("invalid reference format: repository name must be lowercase", Code.IMAGE_ERROR, False),
    ],
)
def test_refusal(said: str, code: Code, transient: bool) -> None:
    error = docker_images.refusal("r/x:1", said)
    assert (error.code, error.transient, error.public) == (code, transient, f"r/x:1: {said}")


@pytest.mark.parametrize(
    ("image", "tags", "abbreviated"),
    [
        ("abcdef123456", (), True),
        ("sha256:abcdef123456", (), True),
        ("a", ("evil.example/x:1",), True),
        ("abcdef123456", ("docker.io/library/abcdef123456:latest",), False),
        ("a", ("a:latest", "evil.example/x:1"), False),
        ("sha256:abcdef", ("sha256:abcdef",), False),
        ("abcdef123456", ("evil.example/abcdef123456:2",), True),
        ("debian", ("debian:latest",), False),
        ("beef", ("beef:latest",), False),
        ("library/abcdef", (), False),
        ("abcdef:1", (), False),
        ("abcdef" + "0" * 58, (), False),
        ("sha256:abcdef" + "0" * 58, (), False),
    ],
)
def test_what_a_daemon_found_by_the_beginning_of_an_id(image: str, tags: tuple[str, ...], abbreviated: bool) -> None:
    known = "abcdef123456".ljust(64, "0")
    assert docker_images.abbreviated(image, f"sha256:{known}", tags) is abbreviated
    assert docker_images.abbreviated(image, known, tags) is abbreviated, "as Podman tells ids"
