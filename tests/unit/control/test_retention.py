"""Old tasks: which go, when, and that none goes before its archive has it."""

from __future__ import annotations

import datetime
import json
import pathlib
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Collection, Iterator
from typing import Any

import msgspec
import pytest

from tes_server import errors, telemetry
from tes_server.control import retention
from tes_server.control.retention import Retention
from tes_server.filer.spool_directory import SpoolDirectory
from tes_server.model import record as model
from tes_server.model import task
from tes_server.model.principal import ALL
from tes_server.model.states import State
from tes_server.store.base import Store
from tes_server.store.sqlite import SqliteStore
from tests.contract.store_contract import an_end, listed, rested
from tests.scripted import T0

DAY = datetime.timedelta(days=1)
KEEP = 30 * DAY
NOW = T0 + 100 * DAY


class Memory:
    """An archive that can be out of order."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.fault: errors.TesServerError | None = None

    def write(self, name: str, data: bytes) -> None:
        if self.fault is not None:
            raise self.fault
        assert name not in self.objects
        self.objects[name] = data

    def remove(self, names: Collection[str]) -> None:
        for name in names:
            del self.objects[name]

    def lines(self) -> list[Any]:
        return [json.loads(line) for name in sorted(self.objects) for line in self.objects[name].splitlines()]


@pytest.fixture
def store(tmp_path: pathlib.Path) -> Iterator[Store]:
    made = SqliteStore(tmp_path / "tasks.sqlite")
    yield made
    made.close()


def old(task_id: str, age: float = 40.0, lasted: float = 0.0, **fields: Any) -> model.Record:
    """A task that was created `age` days ago and ended `lasted` days later."""
    created = NOW - age * DAY
    status = model.Status(backend="local", rule="default", end_time=created + lasted * DAY)
    return an_end(task_id, **{"created": created, "status": status, **fields})


def drain(rules: Retention, now: datetime.datetime = NOW) -> int:
    """Batches to the end of one walk; how many tasks went."""
    gone = rules.batch(model.ALL_SHARDS, now)
    while rules.busy:
        gone += rules.batch(model.ALL_SHARDS, now)
    return gone


def count(metric: Any) -> float:
    return float(metric._value.get())


def test_what_ended_long_enough_ago_goes(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    before = count(telemetry.TASKS_REMOVED)
    caplog.set_level("INFO")
    store.insert(
        [
            *(old(f"old{number}") for number in range(250)),
            old("young", 29),
            old("slow", 90, lasted=89),  # created long ago and ended yesterday
            old("canceled", status=model.Status(backend="local", rule="default")),
            old("early", status=model.Status(backend="local", rule="default", end_time=T0 - 999 * DAY), age=1),  # by a node's wrong clock
            old("releases", lane=model.Lane.ACTIVE, due=NOW),
            old("runs", state=State.RUNNING, lane=model.Lane.ACTIVE),
        ]
    ).result()
    rules = Retention(store, KEEP)
    assert drain(rules) == 251
    assert sorted(listed(store)) == ["early", "releases", "runs", "slow", "young"]
    assert count(telemetry.TASKS_REMOVED) - before == 251
    assert sum(record.fields["tasks"] for record in caplog.records if record.message == "retention.removed") == 251  # type: ignore[attr-defined]
    assert drain(rules, NOW + 2 * DAY) == 1, "the young one"
    assert drain(rules, NOW + 30 * DAY) == 2


def test_each_task_is_archived_as_the_api_shows_it_before_it_goes(store: Store) -> None:
    spec = task.Task(
        name="n\n",
        inputs=(task.Input(path="/a", content="x" * 3_000_000, streamable=True),),
        executors=(task.Executor(image="i", command=("true",), ignore_error=True),),
        tags={"k": "v"},
    )
    whole = [old(f"o{number}", owner="o" * number, task=spec, detail=model.Detail(("OOM: x",)), logs=model.Logs()) for number in range(4)]
    store.insert(whole).result()
    archive = Memory()
    assert drain(Retention(store, KEEP, lambda: archive)) == 4
    assert listed(store) == []
    assert len(archive.objects) == 2, "an object holds some MB, and none is left of the check"
    assert all(name.startswith("2026-04-11/20260411T000000.000000Z-") and name.endswith(".jsonl") for name in archive.objects)
    assert len(archive.lines()) == 4
    for line, record in zip(sorted(archive.lines(), key=lambda line: str(line["id"])), whole, strict=True):
        assert line["owner"] == record.owner
        assert line["inputs"] == [{"path": "/a", "content": "x" * 3_000_000, "streamable": True}]
        assert line["executors"][0]["ignore_error"] is True
        assert line["logs"][0]["system_logs"] == ["OOM: x"]
        assert line["state"] == "COMPLETE"


def test_what_cannot_be_archived_stays_and_is_told(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    before = count(telemetry.RETENTION_FAILED)
    store.insert([old(f"o{number}") for number in range(3)]).result()
    archive = Memory()
    archive.fault = errors.Unavailable("the archive cannot be used: it is full")
    rules = Retention(store, KEEP, lambda: archive)
    rules.turn(model.ALL_SHARDS, NOW)
    finish(rules)
    assert len(listed(store)) == 3
    assert count(telemetry.RETENTION_FAILED) - before == 1
    assert [record.fields["error"] for record in caplog.records if record.message == "retention.failed"] == [archive.fault.public]  # type: ignore[attr-defined]
    archive.fault = None
    rules.turn(model.ALL_SHARDS, NOW + datetime.timedelta(seconds=retention.SULK / 2))
    finish(rules)
    assert len(listed(store)) == 3, "not at once"
    rules.turn(model.ALL_SHARDS, NOW + datetime.timedelta(seconds=2 * retention.SULK))
    finish(rules)
    assert listed(store) == []
    assert len(archive.lines()) == 3


def test_an_archive_is_tried_before_there_is_anything_old(store: Store) -> None:
    archive = Memory()
    archive.fault = errors.Unavailable("no")
    rules = Retention(store, KEEP, lambda: archive)
    for _ in range(2):
        with pytest.raises(errors.Unavailable):
            rules.batch(model.ALL_SHARDS, NOW)
    archive.fault = None
    assert rules.batch(model.ALL_SHARDS, NOW) == 0
    archive.fault = errors.Unavailable("no")
    assert rules.batch(model.ALL_SHARDS, NOW) == 0, "once"


def finish(rules: Retention) -> None:
    assert rules._thread is not None
    rules._thread.join()


def test_batches_are_slow_and_in_a_thread_of_their_own(store: Store) -> None:
    store.insert([old(f"o{number:03d}") for number in range(250)]).result()
    rules = Retention(store, KEEP)
    left = []
    seconds = [0.0, 0.5, 60.0, 60.5, 120.0, 121.0, 700.0, 1500.0]
    for late in seconds:
        rules.turn(model.ALL_SHARDS, NOW + datetime.timedelta(seconds=late))
        finish(rules)
        left.append(len(listed(store)))
        if late == 121.0:
            store.insert([old("more")]).result()
    assert left == [150, 150, 50, 50, 0, 0, 1, 0]
    store.insert([old("again")]).result()
    rules.turn(model.ALL_SHARDS, NOW - DAY)
    finish(rules)
    assert listed(store) == [], "a clock that is set back holds nothing up"
    rules.close()
    store.insert([old("last")]).result()
    rules.turn(model.ALL_SHARDS, NOW + DAY)
    assert listed(store) == ["last"]


def test_a_slow_archive_holds_up_nobody(store: Store) -> None:
    store.insert([old("a")]).result()
    gate, entered = threading.Event(), threading.Event()

    class Slow(Memory):
        def write(self, name: str, data: bytes) -> None:
            entered.set()
            gate.wait()
            super().write(name, data)

    archive = Slow()
    rules = Retention(store, KEEP, lambda: archive)
    rules.turn(model.ALL_SHARDS, NOW)
    assert entered.wait(10)
    rules.turn(model.ALL_SHARDS, NOW + DAY)  # returns at once
    gate.set()
    finish(rules)
    assert len(archive.lines()) == 1


def test_others_work_is_left_alone(store: Store) -> None:
    names = [f"o{number}" for number in range(20)]
    store.insert([old(name) for name in names]).result()
    mine = frozenset(range(32))
    Retention(store, KEEP).batch(mine, NOW)
    assert set(listed(store)) == {name for name in names if model.shard_of(name) not in mine}


def test_names_sort_by_time_and_never_clash() -> None:
    moments = [NOW + datetime.timedelta(microseconds=10**number) for number in range(12)]
    names = [retention.object_name(moment) for moment in moments]
    assert names == sorted(names)
    assert len({retention.object_name(NOW) for _ in range(100)}) == 100


KILLED = """
import datetime, os, pathlib, signal, sys
from tes_server.control.retention import Retention
from tes_server.filer.spool_directory import SpoolDirectory
from tes_server.model.record import ALL_SHARDS
from tes_server.store.sqlite import SqliteStore

store, archive, now = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), datetime.datetime.fromisoformat(sys.argv[3])

class Deadly(SpoolDirectory):
    def write(self, name, data):
        super().write(name, data)
        if data:
            os.kill(os.getpid(), signal.SIGKILL)

Retention(SqliteStore(store), datetime.timedelta(days=30), lambda: Deadly(archive)).batch(ALL_SHARDS, now)
"""


def test_killed_between_archive_and_removal_nothing_is_lost(tmp_path: pathlib.Path) -> None:
    """At most archived twice."""
    path, archive = tmp_path / "tasks.sqlite", tmp_path / "archive"
    names = {f"o{number}" for number in range(5)}
    store = SqliteStore(path)
    store.insert([old(name) for name in names]).result()
    store.close()
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(KILLED), path, archive, NOW.isoformat()], check=False, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    store = SqliteStore(path)
    assert set(listed(store)) == names
    assert {record.id for record in rested(store, late=10**9)} == names

    def archived() -> list[str]:
        return sorted(json.loads(line)["id"] for file in archive.rglob("*.jsonl") for line in file.read_text().splitlines())

    assert archived() == sorted(names)
    assert drain(Retention(store, KEEP, lambda: SpoolDirectory(archive))) == 5
    assert listed(store) == []
    assert archived() == sorted([*names, *names])
    store.close()


def test_a_record_that_changed_meanwhile_stays(store: Store) -> None:
    """Another reconciler may have removed it, or a copy brought a newer one."""
    store.insert([old("a"), old("b")]).result()

    class Meddling(Memory):
        def write(self, name: str, data: bytes) -> None:
            super().write(name, data)
            if data:
                store.restore([msgspec.structs.replace(old("a"), revision=9)])
                store.expire([old("b")])

    assert drain(Retention(store, KEEP, Meddling)) == 0
    assert listed(store) == ["a"]
    assert store.get(ALL, "a", model.View.MINIMAL) is not None


def test_a_clock_that_goes_astray_removes_nothing(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """What it thinks is old may be an hour old, and removed is removed."""
    store.insert([old("a"), old("b", age=10.0)]).result()
    seconds = [0.0]
    rules = Retention(store, KEEP, steady=lambda: seconds[0])

    def turn(now: datetime.datetime) -> list[str]:
        rules.turn(model.ALL_SHARDS, now)
        if rules._thread is not None:
            rules._thread.join()
        return listed(store)

    assert turn(NOW) == ["b"]
    seconds[0] += 3600
    assert turn(NOW + 365 * DAY) == ["b"]
    assert [entry.message for entry in caplog.records].count("retention.held") == 1
    # A machine that really ran, or slept, for so long.
    seconds[0] += 30 * 24 * 3600
    assert turn(NOW + 30 * DAY) == []
