"""Staging with object stores against rclone, on the same servers in the same run: `python -m benchmarks.objects --json`.

The S3 server is the one that `eval "$(../shared/s3/up)"` names, the Azure Blob server the one of `eval "$(.ci/azurite up)"`;
what is not named is left out. Each round moves one large file and one directory of small files, in and out, by us and by
Debian's rclone with `--transfers 32 --checkers 32`. Rounds alternate who goes first. The servers run on the same cores: their
work is in both times. Our process is started and ready before its time begins; rclone's start is in its time (0.1 s).
CPU seconds are those of the client alone.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from benchmarks import figures
from benchmarks.staging import MIB, make_sources, never
from tes_server.filer import transfer
from tes_server.filer.manifest import Access
from tes_server.plan.steps import Collect, Fetch, StageIn, StageOut
from tests.contract import object_servers
from tests.contract.object_servers import S3, Azurite


class Moved(NamedTuple):
    """One transfer: wall and CPU seconds of the client, and its greatest resident memory in MiB."""

    wall: float
    cpu: float
    memory: float


def move(direction: str, volume: pathlib.Path, url: str, access: Access) -> None:
    """What the child process does: one stage step."""
    if direction == "in":
        transfer.stage_in(StageIn(inputs=(Fetch(path="/data", url=url, field="/inputs/0"),)), volume, access, never)
        return
    done = transfer.stage_out(StageOut(outputs=(Collect(path="/data", url=url, shown=url, field="/outputs/0"),)), volume, access, never)
    if done.error is not None:
        raise done.error


def child(arguments: list[str]) -> None:
    direction, volume, url, access = arguments
    before, begun = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    move(direction, pathlib.Path(volume), url, msgspec.json.decode(access, type=Access))
    wall, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(json.dumps([wall, cpu, after.ru_maxrss / 1024]))


def ours(direction: str, volume: pathlib.Path, url: str, server: S3 | Azurite) -> Moved:
    access = msgspec.json.encode(Access(stores=(server.settings,))).decode()
    command = [sys.executable, "-m", "benchmarks.objects", "--child", direction, str(volume), url, access]
    os.sync()
    done = subprocess.run(command, check=True, capture_output=True, env={**os.environ, **server.variables})
    return Moved(*json.loads(done.stdout))


def theirs(source: str, target: str, server: S3 | Azurite) -> Moved:
    os.sync()
    begun = time.perf_counter()
    process = subprocess.Popen(
        ["rclone", "copy", "--transfers", "32", "--checkers", "32", source, target],
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", "RCLONE_CONFIG": "/dev/null", **remote(server)},
    )
    _, status, used = os.wait4(process.pid, 0)
    wall = time.perf_counter() - begun
    process.returncode = os.waitstatus_to_exitcode(status)
    if status:
        raise SystemExit("rclone failed")
    return Moved(wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def remote(server: S3 | Azurite) -> dict[str, str]:
    """rclone's remote `r:` for a server."""
    if isinstance(server, S3):
        key, secret = server.variables.values()
        given = {
            "type": "s3",
            "provider": "Minio",
            "endpoint": server.settings.endpoint,
            "region": "us-east-1",
            "access_key_id": key,
            "secret_access_key": secret,
        }
    else:
        given = {"type": "azureblob", "sas_url": f"{server.endpoint}/{server.container}?{server.signature('racwdl')}"}
    return {f"RCLONE_CONFIG_R_{name.upper()}": value for name, value in given.items()}


def one_round(source: pathlib.Path, base: pathlib.Path, server: S3 | Azurite, ours_first: bool) -> dict[str, tuple[Moved, Moved]]:
    """(ours, theirs) by direction."""
    prefix = uuid.uuid4().hex[:8]
    bucket = server.bucket if isinstance(server, S3) else server.container
    volume, volume_in, copied = base / "volume", base / "volume-in", base / "copied"
    volume_in.mkdir()
    shutil.copytree(source, volume / "data", copy_function=os.link)
    turns: dict[str, tuple[Callable[[], Moved], Callable[[], Moved]]] = {
        "out": (
            lambda: ours("out", volume, f"{server.url}/{prefix}/ours", server),
            lambda: theirs(str(source), f"r:{bucket}/{prefix}/theirs", server),
        ),
        "in": (
            lambda: ours("in", volume_in, f"{server.url}/{prefix}/ours", server),
            lambda: theirs(f"r:{bucket}/{prefix}/ours", str(copied), server),
        ),
    }
    found = {}
    for direction, (mine, other) in turns.items():
        if ours_first:
            first = mine()
            found[direction] = (first, other())
        else:
            first = other()
            found[direction] = (mine(), first)
    if subprocess.run(["diff", "-r", source, volume_in / "data"], check=False).returncode:
        raise SystemExit("what came back is not what went out")
    for folder in (volume, volume_in, copied):
        shutil.rmtree(folder)
    server.remove()
    return found


def compared(what: str, amount: float, unit: str, rounds: list[tuple[Moved, Moved]], goal: float) -> figures.Figure:
    def middle(name: str, side: int) -> float:
        return round(statistics.median(float(getattr(pair[side], name)) for pair in rounds), 2)

    return figures.compared(
        what,
        unit,
        [(amount / mine.wall, amount / other.wall) for mine, other in rounds],
        goal=f"ratio >= {goal}",
        baseline_is="rclone",
        cpu_seconds=middle("cpu", 0),
        cpu_seconds_of_baseline=middle("cpu", 1),
        memory_mib=middle("memory", 0),
        memory_mib_of_baseline=middle("memory", 1),
    )


def measure(base: pathlib.Path, server: S3 | Azurite, chosen: argparse.Namespace) -> list[figures.Figure]:
    name = "S3" if isinstance(server, S3) else "Blob"
    found = []
    for kind, source in make_sources(base / name, chosen.large * MIB, chosen.count, chosen.small * 1024).items():
        rounds = [one_round(source, base, server, ours_first=bool(number % 2)) for number in range(chosen.rounds)]
        large = kind == "large"
        what = f"{chosen.large} MiB" if large else f"{chosen.count} x {chosen.small} KiB"
        for direction in ("in", "out"):
            pairs = [measured[direction] for measured in rounds]
            found.append(
                compared(
                    f"{name} stage-{direction}, {what}", chosen.large if large else chosen.count, "MiB/s" if large else "files/s", pairs, 1.0 if large else 0.9
                )
            )
        shutil.rmtree(source)
    return found


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2:])
        return
    parser = figures.parser(__doc__)
    parser.add_argument("--large", type=int, default=2048, help="MiB of the one large file")
    parser.add_argument("--count", type=int, default=5000, help="how many small files")
    parser.add_argument("--small", type=int, default=100, help="KiB of a small file")
    parser.add_argument("--store", choices=("s3", "azurite"), help="only this one")
    chosen = parser.parse_args()
    where = figures.machine()
    object_servers.remember(os.environ)
    found = []
    for name, variable, serving in (("s3", "AWS_ENDPOINT_URL", object_servers.s3), ("azurite", "AZURITE_URL", object_servers.azurite)):
        if os.environ.get(variable) and chosen.store in (None, name):
            with serving() as server, tempfile.TemporaryDirectory(dir=chosen.data) as base:
                (pathlib.Path(base) / ("S3" if name == "s3" else "Blob")).mkdir()
                found += measure(pathlib.Path(base), server, chosen)
    if not found:
        parser.error("no server is named in the environment: see above")
    figures.show("objects", found, where, as_json=chosen.json)


if __name__ == "__main__":
    main()
