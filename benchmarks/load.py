"""A closed loop of HTTP clients against one URL: wrk where it is installed, else asyncio streams.

The second is slower than what it measures: its figures compare with each other only.
"""

from __future__ import annotations

import asyncio
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import time

import msgspec

SCRIPT = """
local file = io.open(os.getenv("BENCHMARK_BODY"), "rb")
wrk.method = os.getenv("BENCHMARK_METHOD")
wrk.body = file:read("*a")
function done(summary, latency)
  local bad = summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.status + summary.errors.timeout
  io.write(string.format('\\nRESULT {"rate":%f,"p50_ms":%f,"p95_ms":%f,"p99_ms":%f,"errors":%d}\\n',
    summary.requests / summary.duration * 1e6, latency:percentile(50) / 1e3, latency:percentile(95) / 1e3, latency:percentile(99) / 1e3, bad))
end
"""


class Request(msgspec.Struct, frozen=True):
    """What every client sends, again and again."""

    method: str
    path: str
    body: bytes = b""


class Figures(msgspec.Struct, frozen=True):
    """Answers a second and latencies. `errors` counts answers other than 2xx and broken connections."""

    rate: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    errors: int


def driver() -> str:
    """Which of the two is used."""
    return "wrk" if shutil.which("wrk") else "asyncio"


def measure(port: int, request: Request, clients: int, seconds: float) -> Figures:
    """Let `clients` connections send `request` to 127.0.0.1 for `seconds`. One failure, or no answer at all, ends the benchmark."""
    found = _wrk(port, request, clients, seconds) if driver() == "wrk" else asyncio.run(_streams(port, request, clients, seconds))
    if found.errors or not found.rate:
        raise SystemExit(f"{request.method} {request.path}: {found.errors} requests failed, {found.rate:g} a second were answered")
    return found


def _wrk(port: int, request: Request, clients: int, seconds: float) -> Figures:
    with tempfile.TemporaryDirectory() as directory:
        script, body = pathlib.Path(directory, "wrk.lua"), pathlib.Path(directory, "body")
        script.write_text(SCRIPT)
        body.write_bytes(request.body)
        output = subprocess.run(
            ["wrk", "-t1", f"-c{clients}", f"-d{max(1, round(seconds))}s", "--timeout", "30s", "-s", script, f"http://127.0.0.1:{port}{request.path}"],
            env={**os.environ, "BENCHMARK_METHOD": request.method, "BENCHMARK_BODY": str(body)},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    return msgspec.convert(json.loads(output.partition("RESULT ")[2]), Figures)


async def _streams(port: int, request: Request, clients: int, seconds: float) -> Figures:
    head = f"{request.method} {request.path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: {len(request.body)}\r\n\r\n"
    message = head.encode() + request.body
    latencies: list[float] = []
    errors = 0
    end = time.perf_counter() + seconds

    async def client() -> None:
        nonlocal errors
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (begin := time.perf_counter()) < end:
            writer.write(message)
            answer = await reader.readuntil(b"\r\n\r\n")
            length = next(line for line in answer.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(int(length.partition(b":")[2]))
            latencies.append(time.perf_counter() - begin)
            errors += not answer.startswith(b"HTTP/1.1 2")
        writer.close()

    begin = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    taken = time.perf_counter() - begin
    latencies.sort()
    p50, p95, p99 = (latencies[len(latencies) * share // 100] * 1e3 for share in (50, 95, 99))
    return Figures(len(latencies) / taken, p50, p95, p99, errors)
