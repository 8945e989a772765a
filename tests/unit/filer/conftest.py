"""A site root, a volume, and short ways to stage between them."""

from __future__ import annotations

import os
import pathlib
import urllib.parse
from collections.abc import Callable

import pytest

from tes_server.filer import transfer
from tes_server.filer.manifest import Access, Collected
from tes_server.model.task import FileType
from tes_server.plan.steps import Collect, Fetch, StageIn, StageOut


def never() -> bool:
    return False


class Stage:
    """A place with a `root` that may be used, an `outside` that may not, and a `volume`."""

    def __init__(self, base: pathlib.Path) -> None:
        self.root, self.outside, self.volume = base / "root", base / "outside", base / "volume"
        for folder in (self.root, self.outside, self.volume):
            folder.mkdir()
        (self.outside / "secret").write_text("secret")
        self.access = Access(roots=(str(self.root),))

    def url(self, path: str) -> str:
        return "file://" + urllib.parse.quote(f"{self.root}/{path}")

    def into(self, *inputs: Fetch, directories: tuple[str, ...] = (), stopped: Callable[[], bool] = never) -> tuple[str, ...]:
        return transfer.stage_in(StageIn(directories=directories, inputs=inputs), self.volume, self.access, stopped)

    def fetch(self, source: str, path: str = "/work/in", kind: FileType = FileType.FILE) -> Fetch:
        return Fetch(path=path, url=self.url(source), type=kind, field="/inputs/0")

    def out(self, *outputs: Collect, stopped: Callable[[], bool] = never) -> Collected:
        return transfer.stage_out(StageOut(outputs=outputs), self.volume, self.access, stopped)

    def collect(self, path: str, target: str = "out", prefix: str = "", field: str = "/outputs/0") -> Collect:
        return Collect(path=path, url=self.url(target), shown=f"/site/{target}", prefix=prefix, field=field)

    def make(self, path: str, data: bytes = b"x") -> pathlib.Path:
        """A file in the volume, by its container path."""
        file = self.volume / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        return file


def contents(base: pathlib.Path) -> dict[str, object]:
    """A tree by relative path: bytes of files, None for directories, ("link", target) for links."""
    found: dict[str, object] = {}
    for folder, folders, names in os.walk(base):
        for name in folders + names:
            path = pathlib.Path(folder, name)
            key = str(path.relative_to(base))
            found[key] = ("link", str(path.readlink())) if path.is_symlink() else None if path.is_dir() else path.read_bytes()
    return found


def count(folder: pathlib.Path) -> int:
    return sum(1 for _ in folder.iterdir())


@pytest.fixture
def stage(tmp_path: pathlib.Path) -> Stage:
    return Stage(tmp_path)
