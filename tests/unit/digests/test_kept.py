"""What the sandbox has of images; the daemons are asked in tests/integration/test_digests.py."""

from __future__ import annotations

import io
import pathlib

import pytest

from tes_server import errors
from tes_server.digests import kept
from tes_server.digests.kept import Kept, When
from tes_server.runner.images import Images, Options
from tests import image_case, image_registry
from tests.contract.web_server import Answer
from tests.image_case import entry, layer, pack

ONE = pack([layer(entry("file", b"one"))])


@pytest.fixture
def images(tmp_path: pathlib.Path) -> Images:
    return Images(tmp_path / "images", Options(limit=1 << 30), ids=None)


def test_one_from_a_file_is_never_asked_for(images: Images) -> None:
    images.load(io.BytesIO(image_case.layout(ONE)), name="127.0.0.1:1/mine:1")
    found = kept.of_sandbox(images)("127.0.0.1:1/mine:1")
    assert found == Kept(ONE.digest, f"127.0.0.1:1/mine@{ONE.digest}", When.FIRST)
    assert images.prepare(found.pinned).digest == ONE.digest, "which the sandbox runs, though nobody is there to ask"


def test_one_from_a_registry_is_for_it_to_say(images: Images) -> None:
    with image_registry.registry() as registry:
        name = registry.push(ONE)
        images.prepare(name)
        found = kept.of_sandbox(images)(name)
        assert found == Kept(ONE.digest, f"{registry.host}/x@{ONE.digest}", When.SILENT)
        registry.lie = lambda _: Answer(503)
        assert images.prepare(found.pinned).digest == ONE.digest


@pytest.mark.parametrize("image", ["nothing/here", ONE.digest], ids=["name", "digest"])
def test_what_is_not_there_by_that_name(images: Images, image: str) -> None:
    images.load(io.BytesIO(image_case.layout(ONE)))
    assert kept.of_sandbox(images)(image) is None


def test_what_is_no_name(images: Images) -> None:
    with pytest.raises(errors.EngineError, match="is not the name of an image"):
        kept.of_sandbox(images)("No Name")
