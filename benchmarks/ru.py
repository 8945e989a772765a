"""What tasks and waiting cost in request units of Cosmos DB: `python -m benchmarks.ru --url mongodb://... --json [--tasks 20]`.

Counts what one reconciler and the API ask of any MongoDB server while tasks live (a create, a backend that runs nothing, one
look at the FULL result), and while there is nothing to do; prices it by `request_units`. The figures depend on no clock but
on the reconciler's own: how often it looks. docs/scaling.md says what they mean.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from benchmarks import api, figures, mongo_server, request_units
from benchmarks.operations import READS, WRITES, Operation, Operations, counted, of_tasks
from benchmarks.reconcile import Idle
from tes_server import app
from tes_server.control.decide import Rules
from tes_server.control.reconciler import Pace, Reconciler
from tes_server.control.service import About, Service
from tes_server.model.principal import ANONYMOUS
from tes_server.model.record import View
from tes_server.model.run import Handle, Observation, Phase
from tes_server.model.states import State
from tes_server.model.task import Task
from tes_server.plan.policy import Policy, Target
from tes_server.store import mongo
from tes_server.store.mongo_account import Account
from tes_server.store.mongo_connection import Connection, Document

BODIES = {"250 bytes": api.task(0, image="busybox"), "2 kB, 10 inputs": api.task(10, image="busybox")}

ABOUT = About(id="i", name="n", organization="o", organization_url="https://example.org", version="1", description="d", storage=(), parameters=())

RESTS: Document = {"lane": {"$exists": False}}

SETTLE = 1.0
"""Seconds for what the last task set off."""

PATIENCE = 60.0
"""Seconds for tasks that do nothing."""


class Lasting(Idle):
    """A backend whose attempts run for ever."""

    def observe(self, handles: Sequence[Handle]) -> Mapping[Handle, Observation]:
        """`Backend.observe`: no news after this."""
        return {handle: Observation(phase=Phase.RUNNING, start_time=app.clock()) for handle in handles}


class Site:
    """The API's service and the loop of a reconciler on one database; `operations` has what they ask of it."""

    def __init__(self, account: Account, backend: Idle) -> None:
        self.operations = Operations(sizes=True)
        options = mongo.Options(look=mongo.LOOK_PAID)  # as on Cosmos DB
        self._store = mongo.MongoStore(account, options, listeners=[self.operations])
        target = {"local": Target(policy=Policy(), capabilities=backend.capabilities)}
        self._service = Service(self._store, target, [], ABOUT, "1.1", app.clock)
        self._loop = Reconciler(self._store, {"local": backend}, target, Rules(), Pace(), backend.place, app.clock, random.random)
        self._thread = threading.Thread(target=self._loop.loop)

    @contextlib.contextmanager
    def reconciling(self) -> Iterator[None]:
        """With the loop running in a thread."""
        self._thread.start()
        try:
            yield
        finally:
            self._loop.stop()
            self._thread.join()
            self._store.close()

    def create(self, tasks: Sequence[Task]) -> list[str]:
        """Ids of new tasks."""
        return [each.result() for each in [self._service.create(ANONYMOUS, task) for task in tasks]]

    def look(self, ids: Sequence[str]) -> None:
        """At the whole of each."""
        for task_id in ids:
            self._service.get_json(ANONYMOUS, task_id, View.FULL)


def comes(connection: Connection, query: Document, count: int) -> None:
    """Wait until so many tasks are as the query says: seen by a connection of our own, which is not counted."""
    until = time.monotonic() + PATIENCE
    while connection.tasks.count_documents(query) != count:
        if time.monotonic() > until:
            raise SystemExit(f"not {count} tasks are {query}")
        time.sleep(0.005)


def lives(url: str, task: Task, groups: Sequence[int]) -> list[Operation]:
    """What tasks cost from their create to rest and a look, group after group."""
    with mongo_server.database(url) as account, mongo_server.connected(account) as connection:
        site = Site(account, Idle("benchmark"))
        with site.reconciling():
            site.create([task])
            comes(connection, RESTS, 1)
            time.sleep(SETTLE)
            site.operations.take()
            done = 1
            for count in groups:
                ids = site.create([task] * count)
                done += count
                comes(connection, RESTS, done)
                site.look(ids)
            return of_tasks(site.operations.take())


def waiting(url: str, tasks: Sequence[Task], seconds: float) -> list[Operation]:
    """What a reconciler costs in `seconds` while these tasks run and nothing happens."""
    with mongo_server.database(url) as account, mongo_server.connected(account) as connection:
        site = Site(account, Lasting("benchmark"))
        with site.reconciling():
            site.create(tasks)
            comes(connection, {"state": State.RUNNING.value}, len(tasks))
            time.sleep(SETTLE)
            site.operations.take()
            time.sleep(seconds)
            return site.operations.take()


def a_task(name: str, seen: Sequence[Operation], count: int) -> figures.Figure:
    """The figure of `count` tasks."""
    writes, reads = counted(seen)
    return figures.Figure(
        what=f"a task of {name}",
        figure=round(request_units.total(seen) / count, 1),
        unit="RU",
        notes={
            "with_updates_as_replaces": round(request_units.total(seen, request_units.REPLACED) / count, 1),
            "writes": round(writes / count, 1),
            "reads": round(reads / count, 1),
            "ru_of_reads": round(request_units.total(each for each in seen if each.kind in READS) / count, 1),
            "largest_document_bytes": max(each.size for each in seen if each.kind in WRITES),
        },
    )


def an_hour(what: str, seen: Sequence[Operation], seconds: float) -> figures.Figure:
    """The figure of a reconciler that waits."""
    writes, reads = counted(seen)
    return figures.Figure(
        what=what,
        figure=round(request_units.total(seen) * 3600 / seconds),
        unit="RU an hour",
        notes={"writes_a_minute": round(writes * 60 / seconds), "reads_a_minute": round(reads * 60 / seconds)},
    )


def main() -> None:
    parser = figures.parser(__doc__)
    mongo_server.add_url(parser)
    parser.add_argument("--tasks", type=int, default=20, help="tasks of each kind")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long a reconciler that waits is looked at")
    chosen = parser.parse_args()
    where = figures.machine()
    found = []
    for name, body in BODIES.items():
        task = msgspec.json.decode(body, type=Task)
        found.append(a_task(f"{name}, one by one", lives(chosen.url, task, [1] * chosen.tasks), chosen.tasks))
        found.append(a_task(f"{name}, {chosen.tasks} at once", lives(chosen.url, task, [chosen.tasks]), chosen.tasks))
    found.append(an_hour("a reconciler without tasks", waiting(chosen.url, [], chosen.seconds), chosen.seconds))
    found.append(an_hour(f"a reconciler while {chosen.tasks} tasks run", waiting(chosen.url, [task] * chosen.tasks, chosen.seconds), chosen.seconds))
    figures.show("ru", found, where, as_json=chosen.json)


if __name__ == "__main__":
    main()
