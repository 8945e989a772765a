"""The real command as a subprocess, for benchmarks: start it, talk to it, look at its processes."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

PORT = re.compile(r"listens on http://127\.0\.0\.1:(\d+)")

IDLE = 30.0
"""Seconds after which the connection is opened anew: the server closes one that nobody used for 75."""

SETTINGS = {"TES_SERVER__SANDBOX__ALLOW_HOST": "true", "TES_SERVER__LOG__LEVEL": "warning"}
"""Of every server, in its environment."""

ENDS = frozenset({"COMPLETE", "EXECUTOR_ERROR", "SYSTEM_ERROR", "CANCELED"})


class Server:
    """One running server and a connection to it."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.port = port
        self._process = process
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._used = time.monotonic()

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """The JSON answer to one request. Anything but 200 ends the benchmark."""
        sent = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        if time.monotonic() - self._used > IDLE:
            self._connection.close()
        self._connection.request(method, path, sent)
        response = self._connection.getresponse()
        text = response.read()
        self._used = time.monotonic()
        if response.status != 200:
            raise SystemExit(f"{method} {path} was answered with {response.status}: {text.decode()}")
        return json.loads(text)

    def create(self, task: object) -> str:
        """The id of a new task."""
        return str(self.ask("POST", "/v1/tasks", task)["id"])

    def state(self, task_id: str) -> str:
        """The state of a task."""
        return str(self.ask("GET", f"/v1/tasks/{task_id}")["state"])

    def wait(self, ids: Collection[str], states: Collection[str] = ENDS, pause: float = 0.02) -> dict[str, str]:
        """States of the tasks once all are in one of `states`; each is asked until it is."""
        found: dict[str, str] = {}
        for task_id in ids:
            while (state := self.state(task_id)) not in states:
                if state in ENDS:
                    raise SystemExit(f"{task_id} ended with {state}: {self.ask('GET', f'/v1/tasks/{task_id}?view=FULL')['logs']}")
                time.sleep(pause)
            found[task_id] = state
        return found

    def processes(self) -> list[int]:
        """The server's processes: the parent and its children, without executors (their supervisors are sessions of their own)."""
        return _tree(self._process.pid)

    def cpu_seconds(self) -> float:
        """Processor time that these have used."""
        return sum(_cpu(pid) for pid in self.processes())


@contextlib.contextmanager
def running(data: pathlib.Path, *options: str, engine: str = "sandbox", **settings: object) -> Iterator[Server]:
    """`tes-server serve` on `data`; settings as `local__cpus=8`."""
    environment = {**os.environ, **SETTINGS} | {f"TES_SERVER__{name.upper()}": str(value) for name, value in settings.items()}
    with subprocess.Popen(
        command("serve", "--port", "0", "--data", str(data), "--engine", engine, *options), env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            found = PORT.search(process.stdout.readline())
            if found is None:
                raise SystemExit("tes-server did not start")
            yield Server(process, int(found[1]))
        finally:
            process.terminate()


@contextlib.contextmanager
def application(name: str, environment: Mapping[str, str]) -> Iterator[int]:
    """An ASGI application under the gunicorn worker of the server; yields its port. The socket listens at once: nobody has to wait for it."""
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listener:
        bind = f"fd://{listener.fileno()}"
        argv = [sys.executable, "-m", "gunicorn", "--bind", bind, "-k", "uvicorn_worker.UvicornWorker", "--log-level", "warning", name]
        with subprocess.Popen(argv, env={**os.environ, **environment}, pass_fds=[listener.fileno()]) as process:
            try:
                yield listener.getsockname()[1]
            finally:
                process.terminate()


@contextlib.contextmanager
def full(server: Server, cores: int) -> Iterator[None]:
    """One task has all cores of the site meanwhile: what is created stays QUEUED, and the reconciler looks after it."""
    holder = server.create(no_op("host", ["sleep", "3600"], cpu_cores=cores))
    server.wait([holder], {"RUNNING"})
    try:
        yield
    finally:
        server.ask("POST", f"/v1/tasks/{holder}:cancel")
        server.wait([holder])


def command(*arguments: str) -> list[str]:
    """argv of `tes-server` of this very Python."""
    return [sys.executable, "-c", "from tes_server.cli import main; main()", *arguments]


def no_op(image: str, argv: Sequence[str] = ("true",), cpu_cores: float = 1) -> dict[str, object]:
    """A task that does nothing."""
    return {"executors": [{"image": image, "command": list(argv)}], "resources": {"cpu_cores": cpu_cores, "ram_gb": 0.1}}


def _tree(pid: int) -> list[int]:
    session = os.getsid(pid)
    found = [pid]
    for child in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):
            if os.getsid(int(child)) == session:
                found += _tree(int(child))
    return found


def _cpu(pid: int) -> float:
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
