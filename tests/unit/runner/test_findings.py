"""What becomes of a scan's end: a report in our own words, or why there is none."""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any

import pytest

from tes_server import errors
from tes_server.model.run import Reason
from tes_server.model.task import ExecutorLog
from tes_server.plan.steps import Execute, Findings
from tes_server.runner import failure, findings
from tes_server.runner.engine import Exit
from tes_server.runner.failure import Failure
from tes_server.scan import report
from tes_server.scan.report import LARGEST
from tests.scripted import T0

STEP = Findings("trivy", "/scan/report.json")


def raw(*found: tuple[str, str]) -> bytes:
    vulnerabilities = [{"VulnerabilityID": name, "PkgName": "openssl", "Severity": severity} for name, severity in found]
    body: dict[str, Any] = {"SchemaVersion": 2, "ArtifactName": "i", "ArtifactType": "container_image"}
    return json.dumps({**body, "Results": [{"Target": "t", "Vulnerabilities": vulnerabilities}]}).encode()


def log(code: int) -> ExecutorLog:
    return ExecutorLog(exit_code=code, stdout="its own words", stderr="what went\nwrong")


def exited(code: int) -> Failure | None:
    if not code:
        return None
    return failure.of_command(Execute(index=0, image="i", argv=("trivy",)), 0, Exit(code=code, start_time=T0, end_time=T0))


@pytest.fixture
def volume(tmp_path: pathlib.Path) -> pathlib.Path:
    (tmp_path / "scan").mkdir()
    return tmp_path


def test_what_is_no_scan_is_left_as_it_is(volume: pathlib.Path) -> None:
    found = exited(3)
    assert findings.settle(None, volume, [log(3)], found) == ((log(3),), found)


def test_a_report_takes_the_place_of_the_scanners_own_words(volume: pathlib.Path) -> None:
    (volume / "scan/report.json").write_bytes(raw(("CVE-1", "HIGH"), ("CVE-2", "low")))
    [told], found = findings.settle(STEP, volume, [log(0)], None)
    assert found is None
    assert (told.exit_code, told.stderr) == (0, "what went\nwrong")
    read = report.decode(told.stdout or "")
    assert (read.scanner, read.counts, [one.id for one in read.findings]) == ("trivy", {"HIGH": 1, "LOW": 1}, ["CVE-1", "CVE-2"])


def test_however_much_was_found_it_is_bounded(volume: pathlib.Path) -> None:
    (volume / "scan/report.json").write_bytes(raw(*((f"CVE-{number}", "MEDIUM") for number in range(20_000))))
    [told], found = findings.settle(STEP, volume, [log(0)], None)
    assert found is None
    assert len((told.stdout or "").encode()) <= LARGEST
    assert report.decode(told.stdout or "").counts == {"MEDIUM": 20_000}


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "trivy left no report"), (b"", "the report of trivy cannot be read"), (b"<html>", "cannot be read"), (b'{"SchemaVersion": 1}', "schema 1")],
)
def test_no_report_or_garbage(volume: pathlib.Path, content: bytes | None, words: str) -> None:
    if content is not None:
        (volume / "scan/report.json").write_bytes(content)
    logs, found = findings.settle(STEP, volume, [log(0)], None)
    assert logs == (log(0),)
    assert found is not None
    assert (found.reason, found.code, found.transient) == (Reason.STAGING, "SCAN_FAILED", False)
    assert words in found.message


def test_two_hundred_megabytes(volume: pathlib.Path) -> None:
    with (volume / "scan/report.json").open("wb") as file:
        file.truncate(200 * 10**6)
    _, found = findings.settle(STEP, volume, [log(0)], None)
    assert found is not None
    assert found.message == "the report of trivy has more than 64 MB"


@pytest.mark.parametrize("trap", ["link", "pipe", "directory"])
def test_what_a_scanner_puts_in_place_of_its_report_leads_nowhere(volume: pathlib.Path, tmp_path_factory: pytest.TempPathFactory, trap: str) -> None:
    place = volume / "scan/report.json"
    if trap == "link":
        outside = tmp_path_factory.mktemp("outside") / "report.json"
        outside.write_bytes(raw())
        place.symlink_to(outside)
    elif trap == "pipe":
        os.mkfifo(place)
    else:
        place.mkdir()
    _, found = findings.settle(STEP, volume, [log(0)], None)
    assert found is not None
    assert found.code == "SCAN_FAILED"


def test_an_exit_code_of_which_the_scanner_says_that_it_failed(volume: pathlib.Path) -> None:
    """Whatever was written by then."""
    (volume / "scan/report.json").write_bytes(raw())
    logs, found = findings.settle(STEP, volume, [log(1)], exited(1))
    assert logs == (log(1),)
    assert found is not None
    assert (found.reason, found.message) == (Reason.EXIT, "trivy ended with exit code 1: what went wrong")


def test_an_exit_code_that_means_findings(volume: pathlib.Path) -> None:
    from tes_server.scan.scanners import SCANNERS

    [code] = SCANNERS["twistcli"].exits - {0}
    (volume / "scan/report.json").write_bytes(b"garbage")
    _, found = findings.settle(Findings("twistcli", STEP.path), volume, [log(code)], exited(code))
    assert found is not None
    assert (found.reason, found.code) == (Reason.STAGING, "SCAN_FAILED"), "its report was read"


@pytest.mark.parametrize("reason", [Reason.OOM, Reason.TIMEOUT, Reason.LOST])
def test_who_was_killed_has_reported_nothing(volume: pathlib.Path, reason: Reason) -> None:
    (volume / "scan/report.json").write_bytes(raw())
    cut = Failure(reason, "X", "killed")
    assert findings.settle(STEP, volume, [log(137)], cut) == ((log(137),), cut)


def test_who_asks_a_registry_without_tls_for_tls_is_told_of_the_setting(volume: pathlib.Path) -> None:
    log = ExecutorLog(exit_code=1, stderr=f'{"x" * 900} Get "https://r.example/v2/": http: server gave HTTP response to HTTPS client\n')
    with pytest.raises(errors.StagingError) as caught:
        findings.told(STEP, volume, log)
    assert caught.value.public.endswith("HTTPS client [a registry without TLS is to be named by scan.registries, with an http:// url]")
