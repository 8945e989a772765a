"""Creates and reads over HTTP: `python -m benchmarks.api --json [--seconds S] [--clients N] [--only create_250b]`.

The whole server is up, reconciler included, on a data directory of its own. One task holds the site's cores, so that what
is created stays QUEUED: the reconciler looks after the queue, and no executor takes part in the figure. Every create is
durable before its answer. Baseline, in alternating blocks: a bare Starlette application that answers the same requests
with the same bytes from memory, under the same gunicorn worker.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import pathlib
import tempfile
import urllib.request
from collections.abc import Iterator
from typing import Any

from benchmarks import figures, load, server

ANSWERS = "BENCHMARK_ANSWERS"

GOALS = {
    "create_250b": ">= 4000",
    "create_2kb": ">= 2500",
    "get_minimal": ">= 11000, p99 <= 10 ms",
    "get_full": ">= 8000, p99 <= 10 ms",
    "list_256": "",
}


def task(inputs: int, image: str = "host", cpu_cores: float | None = None) -> bytes:
    """A task as engines send them: 250 bytes bare, 2 kB with 10 inputs."""
    executor = {"image": image, "command": ["bwa", "mem", "-t", "4", "/work/reference.fa", "/work/reads_1.fq", "/work/reads_2.fq"], "workdir": "/work"}
    named = {"name": "cohort-7/align-000123", "tags": {"workflow": "cohort-7", "engine": "nextflow"}, "executors": [executor]}
    files = [{"path": f"/work/input-{number:02}.txt", "type": "FILE", "content": "x" * 120} for number in range(inputs)]
    more = {**({"inputs": files} if files else {}), **({"resources": {"cpu_cores": cpu_cores}} if cpu_cores else {})}
    return json.dumps({**named, **more}).encode()


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
def baseline(answers: pathlib.Path) -> Iterator[int]:
    """`bare` under gunicorn; yields its port."""
    with server.application("benchmarks.api:bare()", {ANSWERS: str(answers)}) as port:
        yield port


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


def measure(ours: int, bare_port: int, name: str, request: load.Request, clients: int, seconds: float, rounds: int) -> figures.Figure:
    """One probe against both ports, in turns."""
    seen: list[load.Figures] = []

    def rate(port: int) -> float:
        found = load.measure(port, request, clients, seconds)
        if port == ours:
            seen.append(found)
        return found.rate

    rate(ours)
    seen.clear()
    pairs = figures.interleaved(functools.partial(rate, ours), functools.partial(rate, bare_port), rounds)
    rates = [mine for mine, _ in pairs]
    return figures.compared(
        f"{name}, {clients} clients",
        "a second",
        pairs,
        goal=GOALS[name],
        baseline_is="bare Starlette, from memory",
        least=round(min(rates)),
        most=round(max(rates)),
        p99_ms=round(sorted(each.p99_ms for each in seen)[len(seen) // 2], 1),
    )


def main() -> None:
    parser = figures.parser(__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="length of each block")
    parser.add_argument("--clients", type=int, default=32, help="connections at once")
    parser.add_argument("--only", choices=list(GOALS), help="one of the probes")
    chosen = parser.parse_args()
    where = figures.machine()
    with contextlib.ExitStack() as stack:
        base = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(dir=chosen.data)))
        ours = stack.enter_context(server.running(base / "data"))
        stack.enter_context(server.full(ours, cores=int(where["cores"])))
        for _ in range(256):
            created = ours.create(task(10))
        measured = probes(created)
        answers = base / "answers.json"
        answers.write_text(json.dumps({f"{request.method} {request.path}": ask(ours.port, request) for request in measured.values()}))
        bare_port = stack.enter_context(baseline(answers))
        found = [
            measure(ours.port, bare_port, name, request, chosen.clients, chosen.seconds, chosen.rounds)
            for name, request in measured.items()
            if chosen.only in (None, name)
        ]
    figures.show(f"api (load: {load.driver()})", found, where, as_json=chosen.json)


if __name__ == "__main__":
    main()
