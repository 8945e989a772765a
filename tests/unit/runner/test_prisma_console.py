"""The registry scan of a Prisma Console, over HTTP by its documented API: a stand-in of the Console, never one itself."""

from __future__ import annotations

import json
import pathlib
import urllib.parse
from collections.abc import Iterator
from typing import Any

import pytest

from tes_server import errors
from tes_server.model import image_names
from tes_server.runner import prisma_console
from tes_server.runner.prisma_console import Console
from tes_server.scan.scanners import SCANNERS
from tests.contract.web_server import Answer, Request, WebServer, serving

RECORD = json.loads((pathlib.Path(__file__).parents[2] / "data" / "scan" / "prisma.json").read_text())[0]
DIGEST = "sha256:" + "a" * 64
IMAGE = f"127.0.0.1:5000/tes-test/old@{DIGEST}"


class Stand:
    """Knows `records`, scans for `rounds` questions, and answers the first `busy` requests with `status`."""

    def __init__(self, server: WebServer) -> None:
        self.server = server
        self.records: list[Any] = [RECORD]
        self.rounds = 2
        self.trouble: list[int] = []
        self.asked: list[str] = []
        self.begun: list[Any] = []
        server.script = self.answer

    def answer(self, request: Request) -> Answer:
        path, _, query = request.path.partition("?")
        self.asked.append(f"{request.method} {path}")
        if request.headers.get("authorization") != "Basic dTpw":
            return Answer(401)
        if self.trouble:
            return Answer(self.trouble.pop(0), b"no")
        told = dict(urllib.parse.parse_qsl(query))
        if path == "/api/v1/registry/scan":
            self.begun.append(json.loads(request.body))
            return Answer(200)
        if path == "/api/v1/registry/progress":
            assert told == {"onDemand": "true", "repo": "tes-test/old", "digest": DIGEST}
            self.rounds -= 1
            return Answer(200, json.dumps([{"imageScan": {}, "isScanOngoing": True}]).encode() if self.rounds > 0 else b"")
        first = int(told["offset"])
        return Answer(200, json.dumps(self.records[first : first + int(told["limit"])] or None).encode())


@pytest.fixture
def stand() -> Iterator[Stand]:
    with serving() as server:
        yield Stand(server)


def record(stand: Stand, seconds: float = 60.0) -> bytes:
    now = [0.0]

    def pause(asked: float) -> None:
        now[0] += asked

    return prisma_console.scanned(Console(stand.server.url, "u", "p"), image_names.parse(IMAGE), seconds, lambda: now[0], pause)


def test_the_console_scans_and_tells(stand: Stand) -> None:
    assert json.loads(record(stand)) == RECORD
    assert stand.begun == [{"onDemandScan": True, "tag": {"registry": "127.0.0.1:5000", "repo": "tes-test/old", "tag": "", "digest": DIGEST}}]
    assert stand.asked == ["POST /api/v1/registry/scan", *["GET /api/v1/registry/progress"] * 2, "GET /api/v1/registry"]


def test_what_passes_is_waited_for(stand: Stand) -> None:
    stand.trouble = [429, 503]
    assert json.loads(record(stand)) == RECORD
    assert len(stand.begun) == 1


def test_the_record_of_another_digest_is_none(stand: Stand) -> None:
    other = {**RECORD, "repoTag": {**RECORD["repoTag"], "digest": "sha256:" + "b" * 64}, "repoDigests": []}
    stand.records = [other]
    with pytest.raises(errors.ScanError, match=r"no record of it within 60 seconds: is 127\.0\.0\.1:5000/tes-test/old in its registry settings"):
        record(stand)
    stand.records = [*[other] * 120, {"vulnerabilities": 7}, RECORD]
    assert json.loads(record(stand)) == RECORD


@pytest.mark.parametrize(("status", "words"), [(401, "refuses TWISTLOCK_USER"), (400, "answers 400 to POST"), (302, "answers 302")])
def test_a_refusal_is_told(stand: Stand, status: int, words: str) -> None:
    stand.trouble = [status]
    with pytest.raises(errors.ScanError, match=words):
        record(stand)


def test_a_console_that_is_away_is_told(stand: Stand) -> None:
    stand.trouble = [500] * 100
    with pytest.raises(errors.ScanError, match="did not answer within 60 seconds"):
        record(stand)


def test_the_program(stand: Stand, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TWISTLOCK_USER", "u")
    monkeypatch.setenv("TWISTLOCK_PASSWORD", "p")
    stand.rounds = 0
    out = tmp_path / "report.json"
    assert prisma_console.main(["--address", stand.server.url, "--output", str(out), IMAGE]) == 0
    assert SCANNERS["prisma"].read(out.read_bytes()).digests[0] == DIGEST
    monkeypatch.setenv("TWISTLOCK_PASSWORD", "wrong")
    assert prisma_console.main(["--address", stand.server.url, "--output", str(out), IMAGE]) == 1
    assert prisma_console.main(["--address", stand.server.url, "--output", str(out), "debian:12"]) == 1
    told = capsys.readouterr().err
    assert "refuses TWISTLOCK_USER (401)" in told
    assert "not named by its digest" in told
    assert "wrong" not in told
