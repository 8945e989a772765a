"""The build hook: the same source gives the same bytes, and an up-to-date build is left alone."""

from __future__ import annotations

import importlib.util
import pathlib
import shutil
from types import ModuleType

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def hook() -> ModuleType:
    pytest.importorskip("ziglang")
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def built(hook: ModuleType, root: pathlib.Path) -> list[pathlib.Path]:
    source = root / "tes_server" / "step"
    source.mkdir(parents=True)
    for file in [*ROOT.glob("tes_server/step/*.c"), *ROOT.glob("tes_server/step/*.h")]:
        shutil.copy(file, source)
    return list(hook.build(root))


def test_builds_once_and_the_same_anywhere(hook: ModuleType, tmp_path: pathlib.Path) -> None:
    """Not compared with what is installed: another version of the compiler may have made that."""
    made = built(hook, tmp_path / "here")
    assert [path.name for path in made] == ["tes-step-x86_64", "tes-step-aarch64"]
    assert sorted(path.name for path in made[0].parent.iterdir()) == ["sources.sha256", "tes-step-aarch64", "tes-step-x86_64"]
    bytes_made = [path.read_bytes() for path in made]
    assert bytes_made == [path.read_bytes() for path in built(hook, tmp_path / "else" / "where")]
    before = [path.stat().st_ino for path in made]
    assert [path.stat().st_ino for path in hook.build(tmp_path / "here")] == before
    made[0].unlink()
    hook.build(tmp_path / "here")
    assert [path.read_bytes() for path in made] == bytes_made
