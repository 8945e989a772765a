"""Figures of the API: `python -m benchmarks.api --json [--seconds S] [--clients N]`.

Creates, reads and lists over HTTP against `tes-server serve --api-only` on a data directory of its own (tasks are
stored durably, none runs). Baseline, in the same run: a bare Starlette application that answers the same requests with
the same bytes from memory, under the same gunicorn worker.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from typing import Any

from benchmarks import load

ANSWERS = "BENCHMARK_ANSWERS"

PORT = re.compile(r"listens on http://127\.0\.0\.1:(\d+)")


def task(inputs: int) -> bytes:
    """A task as engines send them: 250 bytes bare, 2 kB with 10 inputs."""
    executor = {"image": "host", "command": ["bwa", "mem", "-t", "4", "/work/reference.fa", "/work/reads_1.fq", "/work/reads_2.fq"], "workdir": "/work"}
    named = {"name": "cohort-7/align-000123", "tags": {"workflow": "cohort-7", "engine": "nextflow"}, "executors": [executor]}
    files = [{"path": f"/work/input-{number:02}.txt", "type": "FILE", "content": "x" * 120} for number in range(inputs)]
    return json.dumps({**named, **({"inputs": files} if files else {})}).encode()


def probes(task_id: str) -> dict[str, load.Request]:
    """What is measured, in order; the lists find the tasks that the creates made."""
    return {
        "create_250b": load.Request("POST", "/v1/tasks", task(0)),
        "create_2kb": load.Request("POST", "/v1/tasks", task(10)),
        "get_minimal": load.Request("GET", f"/v1/tasks/{task_id}"),
        "get_full": load.Request("GET", f"/v1/tasks/{task_id}?view=FULL"),
        "list_256": load.Request("GET", "/v1/tasks?page_size=256"),
    }


@contextlib.contextmanager
def server(data: pathlib.Path) -> Iterator[int]:
    """The real command; yields its port."""
    command = [
        sys.executable,
        "-c",
        "from tes_server.cli import main; main()",
        "serve",
        "--api-only",
        "--port",
        "0",
        "--data",
        str(data),
        "--engine",
        "sandbox",
    ]
    environment = {**os.environ, "TES_SERVER__SANDBOX__ALLOW_HOST": "true", "TES_SERVER__LOG__LEVEL": "warning"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = PORT.search(process.stdout.readline())
            if found is None:
                raise SystemExit("tes-server did not start")
            yield int(found[1])
        finally:
            process.terminate()


@contextlib.contextmanager
def baseline(answers: pathlib.Path) -> Iterator[int]:
    """`bare` under gunicorn; yields its port. The socket listens at once, so nobody has to wait for the worker."""
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listener:
        bind = f"fd://{listener.fileno()}"
        command = [sys.executable, "-m", "gunicorn", "--bind", bind, "-k", "uvicorn_worker.UvicornWorker", "--log-level", "warning", "benchmarks.api:bare()"]
        with subprocess.Popen(command, env={**os.environ, ANSWERS: str(answers)}, pass_fds=[listener.fileno()]) as process:
            try:
                yield listener.getsockname()[1]
            finally:
                process.terminate()


def bare() -> Any:
    """A Starlette application that answers each request with the bytes kept for it."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    kept = {key: text.encode() for key, text in json.loads(pathlib.Path(os.environ[ANSWERS]).read_text()).items()}

    async def answer(request: Request) -> Response:
        if request.method == "POST":
            await request.body()
        path = request.scope["path"] + ("?" + request.scope["query_string"].decode() if request.scope["query_string"] else "")
        return Response(kept[f"{request.method} {path}"], media_type="application/json")

    return Starlette(routes=[Route("/v1/tasks", answer, methods=["GET", "POST"]), Route("/v1/tasks/{id}", answer)])


def ask(port: int, request: load.Request) -> str:
    """The answer to one request, for the baseline to repeat."""
    sent = urllib.request.Request(f"http://127.0.0.1:{port}{request.path}", request.body or None, method=request.method)
    with urllib.request.urlopen(sent, timeout=30) as response:
        return str(response.read().decode())


def figures(clients: int, seconds: float) -> dict[str, Any]:
    """Every probe against server and baseline, one after the other, so that both meet the machine as it is at that time."""
    results = []
    with tempfile.TemporaryDirectory() as directory:
        data, answers = pathlib.Path(directory, "data"), pathlib.Path(directory, "answers.json")
        with server(data) as port:
            for _ in range(256):
                created = ask(port, load.Request("POST", "/v1/tasks", task(10)))
            measured = probes(json.loads(created)["id"])
            answers.write_text(json.dumps({f"{request.method} {request.path}": ask(port, request) for request in measured.values()}))
            with baseline(answers) as bare_port:
                for name, request in measured.items():
                    ours = load.measure(port, request, clients, seconds)
                    theirs = load.measure(bare_port, request, clients, seconds)
                    results.append(
                        {
                            "name": name,
                            "rate": round(ours.rate),
                            "p50_ms": round(ours.p50_ms, 2),
                            "p99_ms": round(ours.p99_ms, 2),
                            "errors": ours.errors + theirs.errors,
                            "baseline": round(theirs.rate),
                            "ratio": round(ours.rate / theirs.rate, 2),
                        }
                    )
    return {"driver": load.driver(), "clients": clients, "seconds": seconds, "cores": os.cpu_count(), "figures": results}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="as JSON instead of a table")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each measurement")
    parser.add_argument("--clients", type=int, default=32, help="connections at once")
    arguments = parser.parse_args()
    result = figures(arguments.clients, arguments.seconds)
    if arguments.json:
        print(json.dumps(result, indent=2))
        return
    print(f"{'':12} {'per second':>10} {'p50 ms':>8} {'p99 ms':>8} {'baseline':>9} {'ratio':>6} {'errors':>6}")
    for row in result["figures"]:
        print(f"{row['name']:12} {row['rate']:>10} {row['p50_ms']:>8} {row['p99_ms']:>8} {row['baseline']:>9} {row['ratio']:>6} {row['errors']:>6}")


if __name__ == "__main__":
    main()
