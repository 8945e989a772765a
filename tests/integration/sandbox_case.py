"""What the tests of the sandbox engine share: whether it can work here, an engine, and a lab over it."""

from __future__ import annotations

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Iterator

import pytest

from tes_server import errors
from tes_server.runner.engine import Engine
from tes_server.runner.images import Images, Options
from tes_server.runner.sandbox import SandboxEngine
from tests.contract.engine_contract import Lab
from tests.integration import sandbox_images

ROOT = os.geteuid() == 0


def _reason() -> str:
    """Why bubblewrap cannot work here, or ""; where services are required the tests fail instead of being skipped."""
    if os.environ.get("REQUIRE_SERVICES"):
        return ""
    with tempfile.TemporaryDirectory() as scratch:
        try:
            SandboxEngine(data=pathlib.Path(scratch), allow_host=True, network=False).check()
        except errors.EngineError as error:
            return error.public
    return ""


_REASON = _reason()
marks = [pytest.mark.sandbox, pytest.mark.skipif(bool(_REASON), reason=_REASON or "works")]


class SandboxCase:
    """Fixtures. Data lies below a directory that only its owner may enter, as /root or a home is."""

    @pytest.fixture
    def data(self, tmp_path: pathlib.Path) -> pathlib.Path:
        closed = tmp_path / "closed"
        closed.mkdir(mode=0o700)
        return closed / "data"

    @pytest.fixture
    def image(self) -> str:
        return "host"

    @pytest.fixture
    def images(self, image: str, data: pathlib.Path, request: pytest.FixtureRequest) -> Images:
        """The cache that all tests share, but for those of the host."""
        return Images(data / "images" if image == "host" else request.getfixturevalue("cached_images"), Options(), ids=sandbox_images.IDS)

    @pytest.fixture
    def engine(self, data: pathlib.Path, images: Images) -> Iterator[SandboxEngine]:
        made = SandboxEngine(data=data, allow_host=True, network=False, images=images)
        yield made
        assert made.survey() == []

    @pytest.fixture
    def lab(self, engine: Engine, image: str, data: pathlib.Path) -> Iterator[Lab]:
        lab = Lab(engine, image, data / "lab")
        yield lab
        lab.clear()
        assert not lab.home.exists()


def processes_with(mark: str) -> list[int]:
    """Processes of this machine whose command line holds `mark`."""
    found = []
    for entry in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if mark.encode() in entry.read_bytes():
                found.append(int(entry.parent.name))
    return found
