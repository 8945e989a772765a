"""The whole server on a shared database: tasks run, several API processes see them, and a store that is away is waited for."""

from __future__ import annotations

import json
import pathlib
import subprocess
import time
from collections.abc import Iterator, Mapping

import pytest

from tes_server.store import mongo_account
from tests import mongo_proxy, mongo_server
from tests.acceptance.server import PATIENCE, Server, served

pytestmark = [pytest.mark.mongo, pytest.mark.sandbox]

FLAGS = ("--engine", "sandbox", "--allow-host")
TRUE = {"image": "host", "command": ["/bin/sh", "-c", "echo hello"]}
SMALL = {"cpu_cores": 0.2, "ram_gb": 0.1}


@pytest.fixture
def account() -> Iterator[mongo_account.Account]:
    with mongo_server.database(mongo_server.url()) as made:
        yield made


@pytest.fixture
def proxy(account: mongo_account.Account) -> Iterator[mongo_proxy.Proxy]:
    made = mongo_proxy.Proxy(account.url)
    yield made
    made.close()


def environment(account: mongo_account.Account, url: str = "") -> Mapping[str, str]:
    return {"TES_SERVER__STORE__URL": url or account.url, "TES_SERVER__STORE__DATABASE": account.database, "TES_SERVER__STORE__PATIENCE": "2"}


def ready(server: Server, status: int) -> None:
    until = time.monotonic() + PATIENCE
    while server.ask("/readyz")[0] != status:
        assert time.monotonic() < until
        time.sleep(0.1)


def test_tasks_run_and_another_api_shows_them(account: mongo_account.Account, tmp_path: pathlib.Path, sandbox_works: None) -> None:
    with (
        served(tmp_path / "one", *FLAGS, environment=environment(account)) as server,
        served(tmp_path / "two", *FLAGS, "--api-only", environment=environment(account)) as other,
    ):
        ids = [other.create(TRUE, resources=SMALL, name=f"n{number}", tags={"a.b": "$c"}) for number in range(5)]
        for task_id in ids:
            task = server.until(task_id)
            assert task["state"] == "COMPLETE", task
            assert other.get(task_id) == task
            assert task["logs"][0]["logs"][0]["stdout"] == "hello\n"
        listed = other.ask("/v1/tasks?name_prefix=n&tag_key=a.b&tag_value=$c&state=COMPLETE&page_size=2")[1]
        assert [task["id"] for task in listed["tasks"]] == sorted(ids, reverse=True)[:2]
        slow = other.create({"image": "host", "command": ["/bin/sleep", "600"]}, resources=SMALL)
        server.until(slow, "RUNNING")
        assert other.ask(f"/v1/tasks/{slow}:cancel", {})[0] == 200
        assert server.until(slow)["state"] == "CANCELED"


def test_an_outage_is_answered_503_and_ends_by_itself(
    account: mongo_account.Account, proxy: mongo_proxy.Proxy, tmp_path: pathlib.Path, sandbox_works: None
) -> None:
    with proxy.away(), served(tmp_path / "data", *FLAGS, environment=environment(account, proxy.url)) as server:
        # Away from the start.
        assert server.ask("/healthz")[0] == 200
        ready(server, 503)
        status, answer = server.ask("/v1/tasks", {"executors": [TRUE]})
        assert (status, answer["status"]) == (503, 503)
        proxy.back()
        ready(server, 200)
        first = server.create(TRUE, resources=SMALL)
        assert server.until(first)["state"] == "COMPLETE"
        with proxy.away():
            assert server.ask("/v1/tasks")[0] == 503
            ready(server, 503)
        ready(server, 200)
        # No answer ever tells that it was stored: the same key meets the same task.
        key = {"Idempotency-Key": "k", "Content-Type": "application/json"}
        rule = proxy.rule("insert", None, collection="tasks", times=1000, reaches=True)
        assert server.ask("/v1/tasks", {"executors": [TRUE], "resources": SMALL}, headers=key)[0] == 503
        rule.left = 0
        status, answer = server.ask("/v1/tasks", {"executors": [TRUE], "resources": SMALL}, headers=key)
        assert status == 200, answer
        assert server.until(answer["id"])["state"] == "COMPLETE"
        assert len(server.states()) == 2
        events = [json.loads(line)["event"] for line in server.log.read_text().splitlines() if line.startswith("{")]
        assert "store.not_ready" in events


def test_a_database_that_is_not_prepared_is_told(account: mongo_account.Account, tmp_path: pathlib.Path, sandbox_works: None) -> None:
    with mongo_server.connected(account) as connection:
        connection.meta.delete_one({"_id": "schema"})
        connection.database["theirs"].insert_one({})  # an empty one would be prepared by the server
    with served(tmp_path / "data", *FLAGS, environment=environment(account)) as server:
        status, answer = server.ask("/v1/tasks", {"executors": [TRUE]})
        assert status == 503
        assert "tes-server store init" in answer["detail"]
        ready(server, 503)
        with mongo_server.connected(account) as connection:
            connection.meta.insert_one({"_id": "schema", "version": 1})
        ready(server, 200)
        assert server.until(server.create(TRUE, resources=SMALL))["state"] == "COMPLETE"


def test_a_copy_of_a_data_directory_touches_nothing_while_the_original_is_at_work(
    account: mongo_account.Account, tmp_path: pathlib.Path, sandbox_works: None
) -> None:
    """A cloned machine: the copy bears the name of the original, and has its attempts."""
    with served(tmp_path / "one", *FLAGS, environment=environment(account)) as server:
        slow = server.create({"image": "host", "command": ["/bin/sleep", "8"]}, resources=SMALL)
        server.until(slow, "RUNNING")
        subprocess.run(["cp", "-a", tmp_path / "one", tmp_path / "copy"], check=True)
        with served(tmp_path / "copy", *FLAGS, environment=environment(account)) as copy:
            task = server.until(slow)
            assert task["state"] == "COMPLETE", task
            assert "RETRY" not in json.dumps(task)
            logged = copy.log.read_text()
            assert '"reconciler.name_taken"' in logged
            assert '"reconciler.started"' not in logged
            server.stop()
            until = time.monotonic() + PATIENCE
            while '"reconciler.started"' not in copy.log.read_text():  # the original has left in order
                assert time.monotonic() < until
                time.sleep(0.1)
            assert copy.until(copy.create(TRUE, resources=SMALL))["state"] == "COMPLETE"
        server.start()
