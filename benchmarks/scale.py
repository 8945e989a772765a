"""What millions of finished tasks cost: `python -m benchmarks.scale --json [--tasks 6000000] [--lists-at 1000000]`.

A store is filled with finished tasks, without the server. At `--lists-at` tasks lists of 256 are asked for over HTTP, by one
client and by eight, with and without selective filters. At `--tasks` creates (32 clients, durable) and lists are compared
with a server on an empty store, in alternating blocks. Six million tasks take some 9 GB and ten minutes or more to fill:
`--store` keeps both stores for the next run.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import pathlib
import sqlite3
import tempfile
from collections.abc import Iterator

from benchmarks import api, figures, load, server
from benchmarks.store import made
from tes_server.control import decide
from tes_server.model.record import ALL_SHARDS, Lane
from tes_server.store import sqlite

GROUP = 2000

LIST = "/v1/tasks?page_size=256"

FILTERS = {
    "newest": "",
    "state": "&state=EXECUTOR_ERROR",
    "tag": "&tag_key=workflow&tag_value={number}",
    "name_prefix": "&name_prefix=workflow-{number}/",
}
"""Each finds a few hundred tasks of all, somewhere in the middle."""


def filled(kept: pathlib.Path, tasks: int) -> pathlib.Path:
    """The data directory below `kept` with that many finished tasks, and none that waits."""
    data = kept / f"tasks-{tasks}"
    fill(data, tasks)
    settle(data)
    return data


def fill(data: pathlib.Path, tasks: int) -> None:
    """Finished tasks into the store of a data directory, until there are `tasks` of them; the newest one ended just now."""
    data.mkdir(parents=True, exist_ok=True)
    store = sqlite.SqliteStore(data / "tasks.sqlite")
    with contextlib.closing(sqlite3.connect(data / "tasks.sqlite")) as connection:
        (first,) = connection.execute("SELECT coalesce(max(seq), 0) FROM tasks").fetchone()
    shift = datetime.datetime.now(datetime.UTC) - made(tasks, ended=True).created
    for start in range(first, tasks, GROUP):
        store.insert([made(number, ended=True, shift=shift) for number in range(start, min(start + GROUP, tasks))]).result()
    store.close()


@contextlib.contextmanager
def serving(data: pathlib.Path) -> Iterator[server.Server]:
    """A whole server whose tasks stay QUEUED."""
    with server.running(data) as ours, server.full(ours, cores=int(figures.machine()["cores"])):
        yield ours


def settle(data: pathlib.Path) -> None:
    """Cancel what an earlier run left QUEUED in a store that is kept: it would start now, and the site be full of it."""
    now = datetime.datetime.now(datetime.UTC)
    store = sqlite.SqliteStore(data / "tasks.sqlite")
    while waiting := store.due(Lane.WAITING, ALL_SHARDS, now, GROUP):
        store.save([change for record in waiting if (change := decide.cancel(record, now)) is not None])
    store.close()


def lists(ours: server.Server, number: int, seconds: float, rounds: int) -> list[figures.Figure]:
    """p95 of lists by filter and number of clients."""
    found = []
    for name, query in FILTERS.items():
        request = load.Request("GET", LIST + query.format(number=number))
        if not ours.ask("GET", request.path)["tasks"]:
            raise SystemExit(f"{request.path} found no task")
        for clients, goal in ((1, "<= 2 ms" if name == "newest" else "<= 3 ms"), (8, "<= 8 ms")):
            each = [load.measure(ours.port, request, clients, seconds).p95_ms for _ in range(rounds)]
            found.append(figures.measured(f"list of 256, {name}, {clients} client{'s' if clients > 1 else ''}, p95", "ms", each, goal=goal))
    return found


def compared(many: int, empty: int, seconds: float, rounds: int, tasks: int) -> list[figures.Figure]:
    """Creates and lists on a store with many tasks (port `many`) against an empty one."""
    create = load.Request("POST", "/v1/tasks", api.task(0))
    newest = load.Request("GET", LIST)

    def rate(port: int) -> float:
        return load.measure(port, create, 32, seconds).rate

    def p95(port: int) -> float:
        return load.measure(port, newest, 1, seconds).p95_ms

    for port in (many, empty):
        rate(port)
    creates = figures.interleaved(functools.partial(rate, many), functools.partial(rate, empty), rounds)
    pages = figures.interleaved(functools.partial(p95, many), functools.partial(p95, empty), rounds)
    return [
        figures.compared(f"creates with {tasks} finished tasks", "a second", creates, goal="ratio >= 0.9", baseline_is="empty store"),
        figures.compared(f"list of 256 with {tasks} finished tasks, p95", "ms", pages, goal="ratio <= 1.2", baseline_is="empty store"),
    ]


def main() -> None:
    parser = figures.parser(__doc__)
    parser.add_argument("--tasks", type=int, default=6_000_000, help="finished tasks in the large store; 0: without")
    parser.add_argument("--lists-at", type=int, default=1_000_000, help="finished tasks in the store whose lists are measured; 0: without")
    parser.add_argument("--store", type=pathlib.Path, help="where both stores are kept, and filled only where they are not yet")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of each block")
    chosen = parser.parse_args()
    where = figures.machine()
    found: list[figures.Figure] = []
    with tempfile.TemporaryDirectory(dir=chosen.data) as directory:
        base = pathlib.Path(directory)
        kept = chosen.store or base
        if chosen.lists_at:
            with serving(filled(kept, chosen.lists_at)) as ours:
                found += lists(ours, chosen.lists_at // 1000, chosen.seconds, chosen.rounds)
        if chosen.tasks:
            with serving(filled(kept, chosen.tasks)) as large, serving(base / "empty") as small:
                for _ in range(512):
                    small.create(api.task(0))  # a page has to be full in both
                found += compared(large.port, small.port, chosen.seconds, chosen.rounds, chosen.tasks)
    figures.show(f"scale (load: {load.driver()})", found, where, as_json=chosen.json)


if __name__ == "__main__":
    main()
