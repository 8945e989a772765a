"""What tests of images share."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterator

import pytest

from tes_server.runner.image_registry import Pace
from tes_server.runner.images import Images, Options
from tests import image_registry

PACE = Pace(connect_timeout=5, read_timeout=5, tries=3, first_delay=0.001, longest_delay=0.05)

Maker = Callable[..., Images]


@pytest.fixture
def registry() -> Iterator[image_registry.Registry]:
    with image_registry.registry() as running:
        yield running


@pytest.fixture
def other() -> Iterator[image_registry.Registry]:
    """Another host, as far as a client can tell."""
    with image_registry.registry() as running:
        yield running


@pytest.fixture
def make(tmp_path: pathlib.Path) -> Maker:
    """`Images` of one directory, with options; each call is another server on it."""
    return lambda **options: Images(tmp_path / "images", Options(**{"pace": PACE, "limit": 1 << 30, **options}), ids=None)
