"""Load: what is not answered, or answered with an error, is not counted as fast."""

from __future__ import annotations

import http.server
import shutil
import threading
from collections.abc import Iterator

import pytest

from benchmarks import load


class Answers(http.server.BaseHTTPRequestHandler):
    """200 to POST of `{}`, 500 to everything else."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self._answer(200 if self.rfile.read(int(self.headers["Content-Length"])) == b"{}" else 500)

    def do_GET(self) -> None:
        self._answer(500)

    def log_message(self, *_: object) -> None: ...

    def _answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")


@pytest.fixture
def port() -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.fixture(params=["asyncio", pytest.param("wrk", marks=pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed"))], autouse=True)
def driver(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "driver", lambda: request.param)


def test_answers_are_counted(port: int) -> None:
    found = load.measure(port, load.Request("POST", "/v1/tasks", b"{}"), clients=2, seconds=1)
    assert found.rate > 0
    assert 0 < found.p50_ms <= found.p95_ms <= found.p99_ms


def test_errors_end_the_benchmark(port: int) -> None:
    with pytest.raises(SystemExit, match="requests failed"):
        load.measure(port, load.Request("GET", "/v1/tasks"), clients=2, seconds=1)
