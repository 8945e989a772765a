"""Local staging against `cp -r`, in the same run on the same disk: `python -m benchmarks.staging --json`.

Each round copies one large file and one directory of small files: into a volume by stage-in (against `cp -r`; nothing is
synced), and from it by stage-out (against `cp -r` and `sync -f`). Rounds alternate who goes first, and everything unwritten
is flushed before each measurement. Neither side links files instead of copying them.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable

from benchmarks import figures
from tes_server.filer import transfer
from tes_server.filer.manifest import Access
from tes_server.plan.steps import Collect, Fetch, StageIn, StageOut

MIB = 1024 * 1024
PER_DIRECTORY = 500


def never() -> bool:
    return False


def make_sources(base: pathlib.Path, large: int, count: int, small: int) -> dict[str, pathlib.Path]:
    """A directory with one file of `large` bytes, and one with `count` files of `small` bytes in subdirectories."""
    sources = {"large": base / "large", "small": base / "small"}
    sources["large"].mkdir()
    with (sources["large"] / "file").open("wb") as file:
        for _ in range(large // MIB):
            file.write(os.urandom(MIB))
    for number in range(count):
        folder = sources["small"] / str(number // PER_DIRECTORY)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / str(number)).write_bytes(os.urandom(small))
    return sources


def stage_in(source: pathlib.Path, volume: pathlib.Path, access: Access) -> None:
    volume.mkdir()
    transfer.stage_in(StageIn(inputs=(Fetch(path="/in", url=source.as_uri(), field="/inputs/0"),)), volume, access, never)


def stage_out(volume: pathlib.Path, target: pathlib.Path, access: Access) -> None:
    done = transfer.stage_out(StageOut(outputs=(Collect(path="/in", url=target.as_uri(), shown=str(target), field="/outputs/0"),)), volume, access, never)
    if done.error is not None:
        raise done.error


def copy(source: pathlib.Path, target: pathlib.Path) -> None:
    subprocess.run(["cp", "-r", source, target], check=True)


def copy_and_sync(source: pathlib.Path, target: pathlib.Path) -> None:
    copy(source, target)
    subprocess.run(["sync", "-f", target], check=True)


def sizes(directory: pathlib.Path) -> list[tuple[str, int]]:
    """All files below a directory."""
    return sorted((str(path.relative_to(directory)), path.stat().st_size) for path in directory.rglob("*") if path.is_file())


def seconds(work: Callable[[], None]) -> float:
    """Wall time of `work`, with a quiet disk before it."""
    os.sync()
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def one_round(source: pathlib.Path, base: pathlib.Path, access: Access, ours_first: bool) -> dict[str, tuple[float, float]]:
    """Seconds of (ours, theirs) by direction."""
    volume, out, copied, copied_out = (base / name for name in ("volume", "out", "copied", "copied-out"))
    pairs: dict[str, tuple[Callable[[], None], Callable[[], None]]] = {
        "in": (lambda: stage_in(source, volume, access), lambda: copy(source, copied)),
        "out": (lambda: stage_out(volume, out, access), lambda: copy_and_sync(copied, copied_out)),
    }
    measured: dict[str, tuple[float, float]] = {}
    for direction, (ours, theirs) in pairs.items():
        if ours_first:
            our_time, their_time = seconds(ours), seconds(theirs)
        else:
            their_time, our_time = seconds(theirs), seconds(ours)
        measured[direction] = (our_time, their_time)
    for path in (volume / "in", out, copied, copied_out):
        if sizes(path) != sizes(source):
            raise SystemExit(f"{path.name} is no copy of {source.name}")
    for path in (volume, out, copied, copied_out):
        shutil.rmtree(path)
    return measured


def measure(base: pathlib.Path, chosen: argparse.Namespace) -> list[figures.Figure]:
    """Rates by what was moved and in which direction."""
    access = Access(roots=(str(base),), workers=chosen.workers)
    found = []
    for name, source in make_sources(base, chosen.large * MIB, chosen.count, chosen.small).items():
        rounds = [one_round(source, base, access, ours_first=bool(number % 2)) for number in range(chosen.rounds)]
        amount, unit, what = (
            (chosen.large, "MiB/s", f"{chosen.large} MiB") if name == "large" else (chosen.count, "files/s", f"{chosen.count} x {chosen.small} B")
        )
        for direction, than in (("in", "cp -r"), ("out", "cp -r + sync -f")):
            pairs = [(amount / ours, amount / theirs) for ours, theirs in (measured[direction] for measured in rounds)]
            found.append(figures.compared(f"stage-{direction}, {what}", unit, pairs, goal="ratio >= 0.9", baseline_is=than))
    return found


def main() -> None:
    parser = figures.parser(__doc__)
    parser.add_argument("--large", type=int, default=4096, help="MiB of the one large file")
    parser.add_argument("--count", type=int, default=10_000, help="how many small files")
    parser.add_argument("--small", type=int, default=10 * 1024, help="bytes of a small file")
    parser.add_argument("--workers", type=int, default=Access().workers, help="threads of the filer")
    chosen = parser.parse_args()
    where = figures.machine()
    with tempfile.TemporaryDirectory(dir=chosen.data) as base:
        found = measure(pathlib.Path(base), chosen)
    figures.show("staging", found, where, as_json=chosen.json)


if __name__ == "__main__":
    main()
