"""How far a stage step is: counted where bytes pass, told of long ones only, and counted for Prometheus."""

from __future__ import annotations

import pathlib

import prometheus_client
import pytest

from tes_server.filer import progress, transfer
from tes_server.filer.progress import Progress
from tes_server.plan.steps import Collect, StageIn, StageOut
from tests.unit.filer.conftest import Stage, never


class Seconds:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def counted(what: str, scheme: str, direction: str) -> float:
    return prometheus_client.REGISTRY.get_sample_value(f"tes_transfer_{what}_total", {"scheme": scheme, "direction": direction}) or 0.0


def test_only_long_ones_are_told() -> None:
    clock = Seconds()
    made = Progress("in", clock)
    made.moved(3_000_000_000)
    clock.now += progress.LONG - 0.1
    assert (made.words(), made.lines()) == ("", ())
    clock.now += 0.1 + 30
    made.done("s3", 1, 3_000_000_000, 60)
    assert made.words() == "inputs: 1 file, 3.0 GB in 60 s, 50.0 MB/s"
    assert made.lines() == ("TRANSFER: inputs: 1 file, 3.0 GB in 60 s, 50.0 MB/s",)


def test_what_is_on_its_way_shows(stage: Stage) -> None:
    (stage.root / "large").write_bytes(bytes(40 * 1024 * 1024))
    clock, seen = Seconds(), set[str]()
    made = Progress("in", clock)
    clock.now += progress.LONG

    def stopped() -> bool:
        seen.add(made.words())
        return False

    transfer.stage_in(StageIn(inputs=(stage.fetch("large"),)), stage.volume, stage.access, stopped, made)
    assert any("0 files, 0.0 GB in 30 s, 0.6 MB/s" in words for words in seen), seen  # one of three pieces
    assert "1 file, 0.0 GB in 30 s, 1.4 MB/s" in made.words()


def test_both_directions_are_counted_and_told(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LONG", 0.0)
    (stage.root / "x").write_bytes(b"four")
    before = {direction: counted("bytes", "file", direction) for direction in ("in", "out")}
    [line] = stage.into(stage.fetch("x", "/work/x"))
    assert line.startswith("TRANSFER: inputs: 1 file")
    collected = transfer.stage_out(
        StageOut(outputs=(Collect(path="/work/x", url=stage.url("y"), shown="/y", field="/outputs/0"),)), pathlib.Path(stage.volume), stage.access, never
    )
    assert collected.notices[0].startswith("TRANSFER: outputs: 1 file")
    assert {direction: counted("bytes", "file", direction) - before[direction] for direction in before} == {"in": 4, "out": 4}
    assert counted("seconds", "file", "out") > 0
