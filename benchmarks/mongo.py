"""Creates and lists on MongoDB: `python -m benchmarks.mongo --url mongodb://... --json [--tasks 20000] [--only list]`.

Creates: 32 clients send the same small task to `tes-server serve --api-only`. In turns with it, on the same machine: E, the
same route with a store that keeps nothing, and R, bare `insert_one` of the very document that such a task becomes, by as
many threads, into a collection with the same indexes. One after the other would give 1/(1/E + 1/R): the baseline.
List: p95 of a page of 256 (MINIMAL) with `--tasks` stored, one client. Baseline: a bare `find` with the same filter, order,
projection and limit. `--database` names a database that is kept, and filled only where it is not yet.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import datetime
import functools
import os
import pathlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pymongo

from benchmarks import api, figures, load, mongo_server, server
from benchmarks.store import OWNER, made
from tes_server import app, configuration
from tes_server.api import application
from tes_server.model import record as model
from tes_server.store import mongo, mongo_documents
from tes_server.store.base import Store
from tes_server.store.mongo_account import Account
from tes_server.store.mongo_connection import Document

GROUP = 500
BODIES = {"create_250b": api.task(0), "create_2kb": api.task(10)}
LIST = "/v1/tasks?page_size=256"


class Forgetful:
    """The part of a store that creates use: each is told to be kept at once."""

    blocking = True

    def insert(self, _records: Sequence[model.Record], **_options: object) -> concurrent.futures.Future[None]:
        """`Store.insert`, with nothing behind it."""
        kept: concurrent.futures.Future[None] = concurrent.futures.Future()
        kept.set_result(None)
        return kept


def storeless() -> Any:
    """The server's own application on a `Forgetful` store."""
    settings = configuration.load(None, os.environ, {"local.engine": "sandbox"})
    kept: Store = Forgetful()  # type: ignore[assignment]
    return application.build(app.service(settings, kept), settings)


@contextlib.contextmanager
def serving(account: Account, base: pathlib.Path) -> Iterator[server.Server]:
    """The API alone, on a database."""
    with server.running(base / "data", "--api-only", store__url=account.url, store__database=account.database) as ours:
        yield ours


def document(account: Account, task: bytes) -> Document:
    """What the store makes of a task that is created over HTTP, without its id and position."""
    with tempfile.TemporaryDirectory() as directory, serving(account, pathlib.Path(directory)) as ours, mongo_server.connected(account) as connection:
        found = connection.tasks.find_one({"_id": ours.create(task)})
        connection.tasks.delete_many({})
    if found is None:
        raise SystemExit("the task that was created is not there")
    return found


class Inserts:
    """Bare `insert_one` of copies of one document, by threads that each wait for the answer."""

    def __init__(self, account: Account, document: Document, clients: int) -> None:
        self._account = account
        self._document = document
        self._clients = clients
        self._number = 0

    def rate(self, seconds: float) -> float:
        """Documents a second."""
        with mongo_server.connected(self._account) as connection, concurrent.futures.ThreadPoolExecutor(self._clients) as pool:
            end = time.perf_counter() + seconds
            self._number += 1
            done = sum(pool.map(lambda client: self._some(connection.tasks, f"{self._number}-{client}", end), range(self._clients)))
        return done / seconds

    def _some(self, tasks: pymongo.collection.Collection[Document], name: str, end: float) -> int:
        count = 0
        now = app.clock()
        while time.perf_counter() < end:
            task_id = f"{name}-{count}"
            tasks.insert_one({**self._document, "_id": task_id, "at": mongo_documents.position(now, task_id)})
            count += 1
        return count


def creates(url: str, base: pathlib.Path, name: str, task: bytes, clients: int, seconds: float, rounds: int) -> figures.Figure:
    """Creates a second against what route and store allow one after the other."""
    request = load.Request("POST", "/v1/tasks", task)
    with mongo_server.database(url) as account, mongo_server.database(url) as raw:
        inserts = Inserts(raw, document(account, task), clients)
        same = {**server.SETTINGS, "TES_SERVER__DATA": str(base / "storeless")}
        with serving(account, base) as ours, server.application("benchmarks.mongo:storeless()", same) as empty:
            parts: dict[str, list[float]] = {"route": [], "inserts": []}

            def mine() -> float:
                return load.measure(ours.port, request, clients, seconds).rate

            def bound() -> float:
                parts["route"].append(load.measure(empty, request, clients, seconds).rate)
                parts["inserts"].append(inserts.rate(seconds))
                return together(parts["route"][-1], parts["inserts"][-1])

            api.ask(empty, request)  # its worker may still be starting
            for warm in (mine, bound):
                warm()
            for values in parts.values():
                values.clear()
            pairs = figures.interleaved(mine, bound, rounds)
        medians = {f"{part}_a_second": round(sorted(values)[len(values) // 2]) for part, values in parts.items()}
        return figures.compared(
            f"{name} on MongoDB, {clients} clients",
            "a second",
            pairs,
            goal="ratio >= 0.8",
            baseline_is="1/(1/E + 1/R): route without store, bare insert_one",
            **medians,
            server=mongo_server.version(account),
        )


def together(*rates: float) -> float:
    """The rate of steps that are done one after the other."""
    return 1 / sum(1 / rate for rate in rates)


def fill(account: Account, tasks: int) -> None:
    """Finished tasks, until there are `tasks` of them."""
    with mongo_server.connected(account) as connection:
        there = connection.tasks.count_documents({}) if tasks < 10**5 else connection.tasks.estimated_document_count()
    store = mongo.MongoStore(account)
    try:
        waiting: list[concurrent.futures.Future[None]] = []
        shift = app.clock() - made(tasks, ended=True).created - datetime.timedelta(minutes=1)
        for start in range(there, tasks, GROUP):
            waiting.append(store.insert([made(number, ended=True, shift=shift) for number in range(start, min(start + GROUP, tasks))]))
            if len(waiting) > 4:
                waiting.pop(0).result()
        for each in waiting:
            each.result()
    finally:
        store.close()


class Asked(pymongo.monitoring.CommandListener):
    """The last `find` that a store sent."""

    def __init__(self) -> None:
        self.find: Document = {}

    def started(self, event: pymongo.monitoring.CommandStartedEvent) -> None:
        """Keep it."""
        if event.command_name == "find":
            self.find = dict(event.command)

    def succeeded(self, event: pymongo.monitoring.CommandSucceededEvent) -> None:
        """Nothing to keep."""

    def failed(self, event: pymongo.monitoring.CommandFailedEvent) -> None:
        """Nothing to keep."""


def query_of_a_page(account: Account) -> Document:
    """The command by which the store reads a page of 256."""
    asked = Asked()
    store = mongo.MongoStore(account, listeners=[asked])
    try:
        page = store.page(model.Query(scope=OWNER, size=256))
    finally:
        store.close()
    if len(page.tasks) < 256:
        raise SystemExit(f"{len(page.tasks)} tasks are too few for a page")
    return asked.find


def raw_page(account: Account, asked: Document, seconds: float) -> float:
    """p95 in ms of that query by itself."""
    taken: list[float] = []
    with mongo_server.connected(account) as connection:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or len(taken) < figures.FEWEST:
            begin = time.perf_counter()
            found = list(connection.tasks.find(asked["filter"], asked["projection"]).sort(list(asked["sort"].items())).limit(asked["limit"]))
            taken.append((time.perf_counter() - begin) * 1000)
            if len(found) != asked["limit"]:
                raise SystemExit(f"{len(found)} documents instead of {asked['limit']}")
    return figures.percentile(taken, 95)


def pages(url: str, base: pathlib.Path, database: str, tasks: int, seconds: float, rounds: int) -> figures.Figure:
    """A page over HTTP against its query."""
    with mongo_server.database(url, database) as account:
        fill(account, tasks)
        asked = query_of_a_page(account)
        with serving(account, base) as ours:
            request = load.Request("GET", LIST)
            mine = functools.partial(_p95, ours.port, request, seconds)
            mine()
            pairs = figures.interleaved(mine, functools.partial(raw_page, account, asked, seconds), rounds)
        return figures.compared(
            f"list of 256 on MongoDB with {tasks} tasks, p95",
            "ms",
            pairs,
            goal="ratio <= 1.5",
            baseline_is="bare find, p95",
            server=mongo_server.version(account),
        )


def _p95(port: int, request: load.Request, seconds: float) -> float:
    return load.measure(port, request, 1, seconds).p95_ms


def main() -> None:
    parser = figures.parser(__doc__)
    mongo_server.add_url(parser)
    parser.add_argument("--tasks", type=int, default=20_000, help="finished tasks in the store whose lists are measured")
    parser.add_argument("--database", default="", help="a database for these that is kept")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of each block")
    parser.add_argument("--clients", type=int, default=32, help="connections at once")
    parser.add_argument("--only", choices=[*BODIES, "list"], help="one of them")
    chosen = parser.parse_args()
    where = figures.machine()
    found: list[figures.Figure] = []
    with tempfile.TemporaryDirectory(dir=chosen.data) as directory:
        base = pathlib.Path(directory)
        for name, task in BODIES.items():
            if chosen.only in (None, name):
                found.append(creates(chosen.url, base, name, task, chosen.clients, chosen.seconds, chosen.rounds))
        if chosen.only in (None, "list"):
            found.append(pages(chosen.url, base, chosen.database, chosen.tasks, chosen.seconds, chosen.rounds))
    figures.show(f"mongo (load: {load.driver()})", found, where, as_json=chosen.json)


if __name__ == "__main__":
    main()
