"""Staging: both sides really copied all of it."""

from __future__ import annotations

import pathlib

import pytest

from benchmarks import staging
from tes_server.filer.manifest import Access


@pytest.fixture
def sources(tmp_path: pathlib.Path) -> dict[str, pathlib.Path]:
    made = staging.make_sources(tmp_path, large=2 * staging.MIB, count=7, small=100)
    assert [len(staging.sizes(source)) for source in made.values()] == [1, 7]
    return made


def test_a_round_times_both_sides_both_ways(tmp_path: pathlib.Path, sources: dict[str, pathlib.Path]) -> None:
    for ours_first in (True, False):
        measured = staging.one_round(sources["small"], tmp_path, Access(roots=(str(tmp_path),)), ours_first=ours_first)
        assert measured.keys() == {"in", "out"}
        assert all(seconds > 0 for pair in measured.values() for seconds in pair)


def test_what_is_no_copy_is_no_figure(tmp_path: pathlib.Path, sources: dict[str, pathlib.Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def lossy(volume: pathlib.Path, target: pathlib.Path, access: Access) -> None:
        original(volume, target, access)
        next(path for path in target.rglob("*") if path.is_file()).unlink()

    original = staging.stage_out
    monkeypatch.setattr(staging, "stage_out", lossy)
    with pytest.raises(SystemExit, match="out is no copy of small"):
        staging.one_round(sources["small"], tmp_path, Access(roots=(str(tmp_path),)), ours_first=True)
