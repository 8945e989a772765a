"""Old tasks of a server: archived as its clients saw them, then gone, and their keys forgotten."""

from __future__ import annotations

import json
import pathlib
import time
import urllib.request

import pytest

from tests.acceptance.server import served

pytestmark = pytest.mark.sandbox

FLAGS = ("--engine", "sandbox", "--allow-host")
TRUE = {"image": "host", "command": ["/bin/sh", "-c", "echo hello"]}
KEY = {"Idempotency-Key": "k", "Content-Type": "application/json"}
SHOWN = {"TES_SERVER__SERVER__COMPAT": "1.1"}


def test_old_tasks_go_to_the_archive_and_are_gone(tmp_path: pathlib.Path, sandbox_works: None) -> None:
    data, archive = tmp_path / "data", tmp_path / "archive"
    with served(data, *FLAGS, environment=SHOWN) as server:
        ids = [server.ask("/v1/tasks", {"executors": [TRUE], "name": "n", "tags": {"a": "b"}}, headers=KEY)[1]["id"], *(server.create(TRUE) for _ in range(4))]
        seen = [server.until(task_id) for task_id in ids]
        slow = server.create({"image": "host", "command": ["/bin/sleep", "600"]}, resources={"cpu_cores": 0.2, "ram_gb": 0.1})
        server.until(slow, "RUNNING")
    days = {**SHOWN, "TES_SERVER__RETENTION__DAYS": "0.000001", "TES_SERVER__RETENTION__ARCHIVE": f"file://{archive}"}
    with served(data, *FLAGS, environment=days) as server:
        until = time.monotonic() + 30
        while set(server.states()) != {slow}:
            assert time.monotonic() < until, server.log.read_text()
            time.sleep(0.1)
        assert server.ask(f"/v1/tasks/{ids[0]}")[0] == 404
        lines = [json.loads(line) for file in archive.rglob("*.jsonl") for line in file.read_text().splitlines()]
        assert sorted(lines, key=lambda line: str(line["id"])) == sorted(({"owner": "anonymous", **task} for task in seen), key=lambda line: str(line["id"]))
        status, again = server.ask("/v1/tasks", {"executors": [TRUE], "name": "another"}, headers=KEY)
        assert (status, again["id"]) == (200, ids[0]), "the key is free for another task"
        assert server.until(again["id"])["name"] == "another"
        assert server.get(slow)["state"] == "RUNNING"
        events = [json.loads(line) for line in server.log.read_text().splitlines() if '"retention.removed"' in line]
        assert sum(event["tasks"] for event in events) == 5
        with urllib.request.urlopen(f"{server.url}/metrics") as page:
            assert "\ntes_tasks_removed_total 5.0\n" in page.read().decode()
        server.ask(f"/v1/tasks/{slow}:cancel", {})
        server.until(slow)
