"""The stand-ins that integration tests scan with do what adapters expect of the scanners, on good days and on bad ones."""

from __future__ import annotations

import datetime
import json
import os
import pathlib
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from tes_server import errors
from tes_server.model.verdict import Outcome
from tes_server.scan import base, policy
from tes_server.scan.base import Options
from tes_server.scan.policy import Policy
from tes_server.scan.report import ScanReport
from tes_server.scan.scanners import SCANNERS
from tests.contract.web_server import Answer, serving
from tests.image_case import pack
from tests.image_registry import Registry, registry
from tests.scanners.standin import LABEL, MODES

SCRIPT = pathlib.Path(__file__).parents[2] / "scanners" / "standin.py"
METADATA = {"Version": 2, "UpdatedAt": "2026-11-22T06:15:12.520115201Z"}


class Ran(msgspec.Struct):
    code: int
    stderr: str
    report: pathlib.Path

    def read(self, name: str) -> ScanReport:
        return SCANNERS[name].read(self.report.read_bytes())


class Bench:
    """A registry, and the stand-ins as programs of this machine: `/scan` is a directory of the test."""

    def __init__(self, images: Registry, tmp_path: pathlib.Path) -> None:
        self.images = images
        self.scan = tmp_path / "scan"
        self.programs = tmp_path / "bin"
        self.scan.mkdir()
        self.programs.mkdir()
        for name in ("trivy", "twistcli", "grype"):
            (self.programs / name).symlink_to(SCRIPT)

    def push(self, label: str) -> str:
        packed = pack([], config={"Labels": {LABEL: label}})
        return f"{self.images.push(packed).rpartition(':')[0]}@{packed.digest}"

    def run(self, name: str, image: str, timeout: float = 20, **told: Any) -> Ran:
        scanner = SCANNERS[name]
        options = Options(program=str(self.programs / name), registries={self.images.host: f"http://{self.images.host}"}, **told)
        argv = [part.replace("/scan/", f"{self.scan}/") for part in scanner.argv(image, options)]
        env = {key: value.replace("/scan", str(self.scan)) for key, value in scanner.env(options).items()}
        path = f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
        done = subprocess.run(argv, env={**env, "PATH": path}, capture_output=True, text=True, timeout=timeout, check=False)
        return Ran(done.returncode, done.stderr, self.scan / pathlib.Path(base.REPORT).name)


@pytest.fixture
def bench(tmp_path: pathlib.Path) -> Iterator[Bench]:
    with registry() as images:
        yield Bench(images, tmp_path)


@pytest.mark.parametrize("name", ["trivy", "grype"])
def test_what_the_label_says_is_found(bench: Bench, name: str) -> None:
    image = bench.push("critical=2&high=1&fixed=no")
    ran = bench.run(name, image)
    assert ran.code == 0, ran.stderr
    read = ran.read(name)
    assert read.counts == {"CRITICAL": 2, "HIGH": 1}
    assert not any(one.fixed for one in read.findings)
    now = datetime.datetime.now(datetime.UTC)
    rules = Policy(scanner=name, database_days=1)
    verdict = policy.judge(read, rules, policy.key(image.partition("@")[2], image, rules), image, now)
    assert verdict.outcome is Outcome.FAIL, verdict.message
    assert bench.run(name, bench.push("")).read(name).counts == {}


def test_trivy_with_a_server(bench: Bench) -> None:
    with serving() as server:
        server.script = lambda request: Answer(200, json.dumps({"Version": "0.72.0", "VulnerabilityDB": METADATA}).encode())
        ran = bench.run("trivy", bench.push("eol=yes"), server=server.url, env={"TRIVY_TOKEN": "t"})
        assert [(request.path, request.headers["trivy-token"]) for request in server.requests] == [("/version", "t")]
    assert ran.code == 0, ran.stderr
    assert ran.read("trivy").database_time == datetime.datetime(2026, 11, 22, 6, 15, 12, 520115, datetime.UTC)
    assert ran.read("trivy").end_of_life is True
    assert "failed to connect" in bench.run("trivy", bench.push(""), server=server.url).stderr


@pytest.mark.parametrize(("name", "mode"), [*(("trivy", mode) for mode in ("crash", "garbage", "fail", "cut", "none")), ("grype", "none")])
def test_bad_days_leave_nothing_that_is_believed(bench: Bench, name: str, mode: str) -> None:
    ran = bench.run(name, bench.push(urllib.parse.urlencode({"mode": mode})))
    if ran.code in SCANNERS[name].exits:
        raw = ran.report.read_bytes() if ran.report.exists() else b""
        with pytest.raises(errors.ScanError, match=name):
            SCANNERS[name].read(raw)
    else:
        assert mode in ("crash", "fail", "none")  # of those, Trivy's own script tells
    assert mode in MODES


def test_an_old_database_is_seen(bench: Bench) -> None:
    made = bench.run("trivy", bench.push("mode=old")).read("trivy").database_time
    assert made is not None
    assert datetime.datetime.now(datetime.UTC) - made > datetime.timedelta(days=29)


def test_a_huge_report_is_huge(bench: Bench) -> None:
    ran = bench.run("grype", bench.push("mode=huge&critical=1"))
    assert ran.code == 0
    assert ran.report.stat().st_size > 200_000_000 > base.LARGEST_RAW
    ran.report.unlink()


def test_a_hanging_one_hangs(bench: Bench) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        bench.run("grype", bench.push("mode=hang"), timeout=1)


def test_an_image_that_there_is_not(bench: Bench) -> None:
    image = f"{bench.images.host}/x@sha256:{'0' * 64}"
    ran = bench.run("trivy", image)
    assert ran.code == 1
    assert "unable to find the specified image" in ran.stderr


def test_twistcli_without_a_password_or_an_engine(bench: Bench) -> None:
    console = "https://console.example:8083"
    ran = bench.run("twistcli", bench.push(""), console=console)
    assert (ran.code, "password" in ran.stderr) == (1, True)
    ran = bench.run("twistcli", bench.push(""), console=console, env={"TWISTLOCK_PASSWORD": "x", "DOCKER_HOST": f"unix://{bench.scan}/no.sock"})
    assert (ran.code, "cannot connect" in ran.stderr) == (1, True)


def test_arguments_that_there_are_not(bench: Bench) -> None:
    ran = bench.run("trivy", bench.push(""), arguments=("--no-such-flag",))
    assert (ran.code, "no-such-flag" in ran.stderr) == (1, True)
