"""Many tasks whose commands leave marks outside of their volume, and the book-keeping of what became of each.

A mark is a line with a token that is made once in the attempt's volume: two marks with one token are a command that ran
twice in one attempt, two tokens are two attempts, and those the server must know of.
"""

from __future__ import annotations

import collections
import pathlib
from collections.abc import Iterable
from typing import Any

from tests.acceptance.server import Client

SCRIPT = """
[ -e token ] || cat /proc/sys/kernel/random/uuid > token
cat token >> "$1/$2"
sleep "$3"
echo "$2" > result
"""
SMALL = {"cpu_cores": 0.1, "ram_gb": 0.05, "disk_gb": 0.001}


class Crowd:
    """Tasks on one server, or on several of one store. `marks` is a live mount, `results` an allowed root, or the url of a prefix."""

    def __init__(self, server: Client, image: str, marks: pathlib.Path, results: pathlib.Path | str) -> None:
        self.server = server
        self.image = image
        self.marks = marks
        self.results = results
        self.ids: list[str] = []
        self.retries: list[str] = []
        """What the server says of the tasks that took more than one attempt, as of the last `check`."""

    def create(self, seconds: Iterable[float]) -> None:
        """One task for each number of seconds. A retried create of the same key is the same task: a killed API loses none and doubles none."""
        for length in seconds:
            number = len(self.ids)
            status, answer = self.server.ask_again("/v1/tasks", self.task(number, length), headers={"Idempotency-Key": f"crowd-{number}"})
            assert status == 200, answer
            self.ids.append(answer["id"])
        assert len(set(self.ids)) == len(self.ids)

    def task(self, number: int, length: float) -> dict[str, Any]:
        """One of them."""
        command = ["/bin/sh", "-euc", SCRIPT, "sh", str(self.marks), str(number), f"{length:.2f}"]
        return {
            "executors": [{"image": self.image, "command": command, "workdir": "/work"}],
            "inputs": [{"type": "DIRECTORY", "path": str(self.marks), "url": str(self.marks)}],
            "outputs": [{"path": "/work/result", "url": f"{self.results}/{number}"}],
            "resources": SMALL,
        }

    def result(self, number: int) -> str:
        """What one of them has left."""
        return pathlib.Path(self.results, str(number)).read_text()

    def check(self, patience: float) -> dict[str, Any]:
        """Every task is COMPLETE with the right output, and each command ran once in each attempt that the server tells of."""
        states = self.server.until_all(self.ids, patience)
        failed = [self.server.get(task_id) for task_id, state in self.server.states().items() if state != "COMPLETE"]
        assert states == {"COMPLETE": len(self.ids)}, failed[:3]
        attempts: collections.Counter[int] = collections.Counter()
        self.retries.clear()
        for number, task_id in enumerate(self.ids):
            [log] = self.server.get(task_id)["logs"]
            again = [line for line in log.get("system_logs", []) if line.startswith("RETRY")]
            told = 1 + len(again)
            self.retries += log.get("system_logs", []) if again else []
            tokens = (self.marks / str(number)).read_text().split()
            assert len(set(tokens)) == len(tokens), f"task {number} ran twice in one attempt"
            assert 1 <= len(tokens) <= told, f"task {number}: {len(tokens)} runs, {told} attempts: {log}"
            assert self.result(number) == f"{number}\n"
            attempts[told] += 1
        assert len(self.server.states()) == len(self.ids), "a retried create made a second task"
        return {"tasks": len(self.ids), "attempts": dict(sorted(attempts.items()))}
