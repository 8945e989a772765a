"""Names of images are read as Docker reads them."""

from __future__ import annotations

import pytest

from tes_server import errors
from tes_server.model import image_names
from tes_server.telemetry import Code

DIGEST = "sha256:" + "ab" * 32


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("debian", "docker.io/library/debian:latest"),
        ("debian:12", "docker.io/library/debian:12"),
        ("bio/bwa:0.7", "docker.io/bio/bwa:0.7"),
        ("index.docker.io/bio/bwa", "docker.io/bio/bwa:latest"),
        ("docker.io/debian", "docker.io/library/debian:latest"),
        ("quay.io/biocontainers/bwa:0.7.17--h5bf99c6_8", "quay.io/biocontainers/bwa:0.7.17--h5bf99c6_8"),
        ("localhost/x", "localhost/x:latest"),
        ("localhost:5000/x", "localhost:5000/x:latest"),
        ("REGISTRY/x", "REGISTRY/x:latest"),
        ("[::1]:5000/a/b:c", "[::1]:5000/a/b:c"),
        ("ghcr.io/a/b/c__d--e.f", "ghcr.io/a/b/c__d--e.f:latest"),
        (f"debian@{DIGEST}", f"docker.io/library/debian@{DIGEST}"),
        (f"debian:12@{DIGEST}", f"docker.io/library/debian@{DIGEST}"),
    ],
)
def test_a_name_is_completed(text: str, whole: str) -> None:
    name = image_names.parse(text)
    assert str(name) == whole
    assert image_names.parse(whole) == name
    assert whole.endswith(name.reference)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "path"),
        ("Debian", "lower-case"),
        ("a//b", "lower-case"),
        ("a/../b", "lower-case"),
        ("/a", "path"),
        ("debian:", "tag"),
        ("debian:a b", "tag"),
        ("debian:" + "a" * 129, "tag"),
        ("debian@sha256:12", "64"),
        ("debian@sha512:" + "ab" * 64, "sha256"),
        ("-x.org/a", "host"),
        ("x.org:port/a", "host"),
        ("x.org:65536/a", "host"),
        ("x.org:0/a", "host"),
        ("[::::]:5000/a", "host"),
        ("[::1/a", "host"),
        ("http://x.org/a", "without a scheme"),
        ("docker://debian:12", "without a scheme"),
        ("a" * 256, "255"),
        ("ab" * 32, "id"),
        ("a\nb", "lower-case"),
        ("debian\n", "lower-case"),
    ],
)
def test_what_is_no_name_is_told(text: str, why: str) -> None:
    with pytest.raises(errors.EngineError, match=why) as caught:
        image_names.parse(text)
    assert (caught.value.code, caught.value.transient) == (Code.IMAGE_ERROR, False)
    assert len(caught.value.public) < 400
