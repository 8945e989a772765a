"""Several processes on one file, and what is left when one of them is killed or its disk is full."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import time

from tes_server.model import record as model
from tes_server.model.principal import ALL
from tes_server.store import sqlite, sqlite_peers
from tests.contract.store_contract import NOW, a_record

ROOT = pathlib.Path(__file__).parents[3]

OPEN = """
import pathlib, resource, signal, sys
from tes_server import errors
from tes_server.store import sqlite
from tests.contract.store_contract import NOW, a_record, a_task
store = sqlite.SqliteStore(pathlib.Path(sys.argv[1]))
"""

INSERT_FOR_EVER = """
number = 0
while True:
    calls = [(number + each, store.insert([a_record(f"{number + each}", task=a_task(description="x" * 5000))])) for each in range(8)]
    for name, call in calls:
        call.result()
        print(name, flush=True)
    number += 8
"""

INSERT_100 = """
for number in range(100):
    store.insert([a_record(f"{sys.argv[2]}-{number}")]).result()
store.close()
"""

FULL_DISK = """
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
store.insert([a_record("before")]).result()
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
calls = [store.insert([a_record(f"big-{number}", task=a_task(description="x" * 300_000))]) for number in range(3)]
print(sorted(type(call.exception()).__name__ for call in calls))
print(store.get(__import__("tes_server.model.principal", fromlist=["ALL"]).ALL, "before", "MINIMAL").id)
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
store.insert([a_record("after", task=a_task(description="x" * 300_000))]).result()
store.close()
"""

HOLD = """
assert store.hold("first", NOW)
print("held", flush=True)
signal.pause()
"""


def start(program: str, *arguments: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", OPEN + program, *map(str, arguments)], stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment)


def test_what_was_acknowledged_survives_kill_9(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "tes.db"
    with start(INSERT_FOR_EVER, path) as process:
        assert process.stdout is not None
        acknowledged = [process.stdout.readline().strip() for _ in range(100)]
        process.kill()
        acknowledged += process.stdout.read().split("\n")[:-1]
    store = sqlite.SqliteStore(path)
    assert len(acknowledged) >= 100
    assert all(store.get(ALL, name, model.View.FULL) for name in acknowledged)
    store.insert([a_record("after")]).result()
    store.close()


def test_processes_that_open_and_write_at_once_all_succeed(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "tes.db"
    processes = [start(INSERT_100, path, name) for name in "ab"]
    store = sqlite.SqliteStore(path)
    for number in range(100):
        store.insert([a_record(f"c-{number}")]).result()
    for process in processes:
        with process:
            assert process.wait(60) == 0
    page = store.page(model.Query(scope=ALL, size=1000))
    assert {each.id for each in page.tasks} == {f"{name}-{number}" for name in "abc" for number in range(100)}
    store.close()


def test_a_full_disk_is_unavailable_until_there_is_space(tmp_path: pathlib.Path) -> None:
    with start(FULL_DISK, tmp_path / "tes.db") as process:
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert output.splitlines() == ["['Unavailable', 'Unavailable', 'Unavailable']", "before"]
    store = sqlite.SqliteStore(tmp_path / "tes.db")
    assert [each.id for each in store.page(model.Query(scope=ALL)).tasks] == ["before", "after"]
    store.close()


def test_the_reconciler_that_is_killed_frees_its_place(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "tes.db"
    with start(HOLD, path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        store = sqlite.SqliteStore(path)
        assert store.hold("second", NOW) == frozenset()
        process.kill()
    assert store.hold("second", NOW) == model.ALL_SHARDS
    store.close()


def test_pokes_are_kept_for_a_waiter_that_comes_later_and_never_block(tmp_path: pathlib.Path) -> None:
    poker, waiter = sqlite_peers.Hint(tmp_path / "hint"), sqlite_peers.Hint(tmp_path / "hint")
    for _ in range(100_000):  # more than a FIFO holds
        poker.poke()
    begin = time.monotonic()
    waiter.wait(60)
    assert time.monotonic() - begin < 10
    waiter.close()
    poker.poke()  # nobody is there
    poker.close()
