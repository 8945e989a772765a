"""`tes-server serve` as a user starts it: a subprocess, spoken to over HTTP, killed in every way."""

from __future__ import annotations

import collections
import contextlib
import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any

from tes_server import metrics_files

BIN = pathlib.Path(sys.executable).parent
PATIENCE = 300.0
"""Seconds for what takes one on an idle machine: others may keep this one busy."""

BROKEN = (OSError, http.client.HTTPException)
"""What a request meets whose server dies or hangs: refused, reset, cut, in time no answer."""

ENDS = {"COMPLETE", "EXECUTOR_ERROR", "SYSTEM_ERROR", "CANCELED"}


class Client:
    """Speaks to a server at `url`."""

    url: str

    def ask(self, path: str, body: Any = None, method: str = "", headers: Mapping[str, str] | None = None) -> tuple[int, Any]:
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, method=method or ("POST" if data is not None else "GET"), headers=dict(headers or {}))
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as cause:
            with cause:
                return cause.code, json.load(cause)

    def create(self, *executors: dict[str, Any], **fields: Any) -> str:
        status, answer = self.ask("/v1/tasks", {"executors": list(executors), **fields})
        assert status == 200, answer
        return str(answer["id"])

    def get(self, task_id: str, view: str = "FULL") -> Any:
        status, answer = self.ask_again(f"/v1/tasks/{task_id}?view={view}")
        assert status == 200, answer
        return answer

    def ask_again(self, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> tuple[int, Any]:
        """Repeated where the connection broke: the API may just have been killed by a test, and comes back. A POST needs a key."""
        until = time.monotonic() + PATIENCE
        while True:
            try:
                return self.ask(path, body, headers=headers)
            except BROKEN:
                if time.monotonic() > until:
                    raise
                time.sleep(0.1)

    def until(self, task_id: str, *states: str, patience: float = PATIENCE) -> Any:
        """Poll as clients do until the task is in one of `states` (default: any end)."""
        deadline = time.monotonic() + patience
        while True:
            task = self.get(task_id)
            if task["state"] in (states or ENDS):
                return task
            assert task["state"] not in ENDS, task
            assert time.monotonic() < deadline, task
            time.sleep(0.05)

    def until_all(self, ids: list[str], patience: float) -> collections.Counter[str]:
        """Poll by lists of MINIMAL until every task has ended."""
        deadline = time.monotonic() + patience
        while True:
            states = self.states()
            if all(states.get(task_id) in ENDS for task_id in ids):
                return collections.Counter(states[task_id] for task_id in ids)
            assert time.monotonic() < deadline, collections.Counter(states.get(task_id) for task_id in ids)
            time.sleep(0.3)

    def states(self) -> dict[str, str]:
        found: dict[str, str] = {}
        token = ""
        while True:
            _, page = self.ask_again(f"/v1/tasks?page_size=2000{token}")
            found.update({task["id"]: task["state"] for task in page["tasks"]})
            if "next_page_token" not in page:
                return found
            token = f"&page_token={page['next_page_token']}"


class Server(Client):
    """One `serve` on a data directory; may be killed and started again on the same port."""

    def __init__(self, data: pathlib.Path, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        self.data = data
        self._arguments = arguments
        self._environment = {**os.environ, **(environment or {})}
        self._port = "0"
        self._process: subprocess.Popen[str] | None = None
        self.log = data.parent / f"{data.name}.log"
        self.start()

    def start(self) -> None:
        with self.log.open("a") as log:
            self._process = subprocess.Popen(
                [BIN / "tes-server", "serve", "--data", self.data, "--port", self._port, *self._arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=self._environment,
            )
        assert self._process.stdout is not None
        for line in self._process.stdout:
            found = re.search(r"listens on (https?://\S+:(\d+))", line)
            if found:
                self.url, self._port = found[1], found[2]
                return
        raise AssertionError(f"the server did not start: {self.log.read_text()}")

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def part(self, name: str) -> int:
        """The pid of the child `api` or `reconciler`, once there is one: the reconciler says its own in the log."""
        deadline = time.monotonic() + PATIENCE
        while not alive(reconciler := self._last_reconciler()):
            assert time.monotonic() < deadline, "no reconciler"
            time.sleep(0.02)
        if name == "reconciler":
            return reconciler
        children = pathlib.Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return next(int(pid) for pid in children if int(pid) != reconciler)

    def _last_reconciler(self) -> int:
        started = [json.loads(line) for line in self.log.read_text().splitlines() if '"reconciler.started"' in line]
        return int(started[-1]["pid"]) if started else 0

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self._process is not None
        code = ended(self._process, number)
        assert self._process.stdout is not None
        self._process.stdout.close()
        return code


def alive(pid: int) -> bool:
    """Whether there is such a process, which has not ended."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def ended(process: subprocess.Popen[Any], number: int) -> int:
    """The exit code after this signal. One that does not end in time is killed, and that is an error."""
    process.send_signal(number)
    try:
        return process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise


@contextlib.contextmanager
def served(data: pathlib.Path, *arguments: str, environment: Mapping[str, str] | None = None) -> Iterator[Server]:
    server = Server(data, *arguments, environment=environment)
    try:
        yield server
    finally:
        if server._process is not None and server._process.poll() is None:
            server.stop()
        # What a killed server shared in memory goes with its next start: here there is none.
        shutil.rmtree(metrics_files.directory(data), ignore_errors=True)
