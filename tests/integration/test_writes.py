"""How often a task is written over its life, on the real local backend: six times (DESIGN section 5)."""

from __future__ import annotations

import collections
import concurrent.futures
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import pytest

from tes_server import app, machine, settings
from tes_server.model import record as model
from tes_server.model.principal import ALL, ANONYMOUS
from tes_server.model.record import Change, Record, View
from tes_server.model.states import ENDS, State
from tes_server.model.task import Executor, Task
from tes_server.store.base import Store
from tes_server.store.sqlite import SqliteStore

TASKS = 12


class Counting:
    """A store that counts the writes of each task."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.writes: collections.Counter[str] = collections.Counter()
        self.held_back: collections.Counter[str] = collections.Counter()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def insert(self, records: Sequence[Record], **options: Any) -> concurrent.futures.Future[None]:
        self.writes.update(record.id for record in records)
        return self._store.insert(records, **options)

    def save(self, changes: Sequence[Change]) -> set[str]:
        self.writes.update(change.id for change in changes)
        self.held_back.update(change.id for change in changes if change.lane is model.Lane.WAITING)
        return self._store.save(changes)


@pytest.mark.sandbox
@pytest.mark.usefixtures("sandbox_works")
def test_six_writes_a_task_and_none_for_a_look(tmp_path: pathlib.Path) -> None:
    site = settings.Settings(
        data=str(tmp_path / "data"),
        local=settings.LocalSettings(engine="sandbox", cpus=2),
        sandbox=settings.SandboxSettings(allow_host=True),
        control=settings.ControlSettings(interval=0.5),
    )
    machine.data_directory(site)
    store = Counting(SqliteStore(tmp_path / "data" / "tasks.sqlite"))
    platforms = app.backends(site)
    try:
        loop = app.reconciler(site, store, platforms)
        service = app.service(site, store)
        task = Task(executors=(Executor(image="host", command=("/bin/sh", "-c", "echo out; sleep 1.2")),))
        ids = [service.create(ANONYMOUS, task).result() for _ in range(TASKS)]
        deadline = time.monotonic() + 120

        def ended() -> bool:
            records = [store.get(ALL, task_id, View.FULL) for task_id in ids]
            return all(isinstance(each, Record) and each.state in ENDS and not each.status.release for each in records)

        while not ended():
            assert time.monotonic() < deadline
            if not loop.tick():
                loop._wake.wait(0.05)
                loop._wake.clear()
        assert {store.get(ALL, task_id, View.MINIMAL).state for task_id in ids} == {State.COMPLETE}
        # Waiting for room costs the first of a queue one write more, however long it waits.
        assert {store.writes[task_id] - store.held_back[task_id] for task_id in ids} <= {5, 6}, "five where the first look sees it run"
        assert max(store.held_back.values()) == 1
    finally:
        for platform in platforms.values():
            platform.close()
        store.close()
