"""The build hook: the same source gives the same bytes, and an up-to-date build is left alone."""

from __future__ import annotations

import importlib.util
import pathlib
import shutil
from types import ModuleType

import pytest

from tes_server import step

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


def test_builds_once_and_the_same_anywhere(hook: ModuleType, tmp_path: pathlib.Path) -> None:
    source = tmp_path / "elsewhere" / "tes_server" / "step"
    source.mkdir(parents=True)
    for file in [*ROOT.glob("tes_server/step/*.c"), *ROOT.glob("tes_server/step/*.h")]:
        shutil.copy(file, source)
    made = hook.build(tmp_path / "elsewhere")
    assert [path.name for path in made] == ["tes-step-x86_64", "tes-step-aarch64"]
    assert [path.read_bytes() for path in made] == [step.path(machine).read_bytes() for machine in ("x86_64", "aarch64")]
    assert sorted(path.name for path in (source / "bin").iterdir()) == ["sources.sha256", "tes-step-aarch64", "tes-step-x86_64"]
    before = [path.stat().st_ino for path in made]
    assert [path.stat().st_ino for path in hook.build(tmp_path / "elsewhere")] == before
    made[0].unlink()
    hook.build(tmp_path / "elsewhere")
    assert made[0].read_bytes() == step.path("x86_64").read_bytes()
