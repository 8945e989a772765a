"""Figures of the embedded store: `python -m benchmarks.store --json [--tasks N] [--data DIR]`.

Creates per second in groups, list pages of 256 and single reads at N tasks, against bare sqlite3 on the same disk in the
same run: one row a commit, and one row by primary key.
"""

from __future__ import annotations

import argparse
import datetime
import json
import pathlib
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable

from tes_server.control import service
from tes_server.model import record as model
from tes_server.model import task
from tes_server.model.principal import Scope
from tes_server.model.states import State
from tes_server.store import sqlite

OWNER = Scope("anonymous")
START = datetime.datetime(2025, 1, 1, tzinfo=datetime.UTC)
IN_FLIGHT = 32  # clients that wait for their create


def made(number: int, ended: bool, inputs: int = 1, shift: datetime.timedelta = datetime.timedelta()) -> model.Record:
    """One of many tasks as an engine sends them: some 300 bytes (2 kB with 10 inputs), a name, two tags; 1 in 1,000 failed."""
    state = State.QUEUED if not ended else State.EXECUTOR_ERROR if number % 1000 == 0 else State.COMPLETE
    created = START + datetime.timedelta(seconds=number) + shift
    return model.Record(
        id=service.new_id(created),
        owner="anonymous",
        created=created,
        state=state,
        lane=None if ended else model.Lane.WAITING,
        due=None if ended else created,
        status=model.Status(backend="local", rule="default", start_time=created, end_time=created, metadata={"node": "a"}),
        task=task.Task(
            name=f"workflow-{number // 500}/align-{number % 500}",
            executors=(task.Executor(image="quay.io/biocontainers/bwa:0.7.17", command=("bwa", "mem", "-t", "4", "/work/ref.fa", "/work/reads.fq")),),
            inputs=tuple(
                task.Input(path=f"/work/input-{each}.fq", url=f"s3://bucket/{number}/sample/reads/input-{each}.fq.gz" + "x" * 80) for each in range(inputs)
            ),
            tags={"workflow": str(number // 500), "engine": "nextflow"},
        ),
    )


def seconds(call: Callable[[], object], repeat: int) -> dict[str, float]:
    """Median and 95th percentile of a call, in milliseconds."""
    times = []
    for _ in range(repeat):
        begin = time.perf_counter()
        call()
        times.append((time.perf_counter() - begin) * 1000)
    return {"p50_ms": round(statistics.median(times), 3), "p95_ms": round(statistics.quantiles(times, n=20)[-1], 3)}


def creates(store: sqlite.SqliteStore, records: list[model.Record]) -> float:
    """Durable creates a second with `IN_FLIGHT` of them waiting at any time."""
    begin = time.perf_counter()
    waiting = []
    for record in records:
        waiting.append(store.insert([record]))
        if len(waiting) >= IN_FLIGHT:
            for future in waiting:
                future.result()
            waiting.clear()
    for future in waiting:
        future.result()
    return round(len(records) / (time.perf_counter() - begin))


def bare(directory: pathlib.Path) -> tuple[float, dict[str, float]]:
    """The baseline: sqlite3 with the same durability, one row a commit; and a row by primary key."""
    connection = sqlite3.connect(directory / "bare.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE task (id TEXT PRIMARY KEY, body BLOB)")
    body = b"x" * 300
    begin = time.perf_counter()
    for number in range(2000):
        connection.execute("INSERT INTO task VALUES (?, ?)", (str(number), body))
    rate = round(2000 / (time.perf_counter() - begin))
    read = seconds(lambda: connection.execute("SELECT body FROM task WHERE id = '77'").fetchone(), 5000)
    connection.close()
    return rate, read


def run(directory: pathlib.Path, tasks: int) -> dict[str, object]:
    """All figures at `tasks` stored tasks."""
    rate, read = bare(directory)
    store = sqlite.SqliteStore(directory / "tes.db")
    figures: dict[str, object] = {"tasks": tasks, "baseline_commits_per_s": rate, "baseline_get": read}
    figures["creates_per_s_empty"] = creates(store, [made(-number, ended=False) for number in range(1, 8001)])
    begin = time.perf_counter()
    for first in range(0, tasks, 1000):
        store.insert([made(number, ended=True) for number in range(first, min(first + 1000, tasks))]).result()
    figures["bulk_per_s"] = round(tasks / (time.perf_counter() - begin))
    new = tasks + 1000
    figures["creates_per_s"] = creates(store, [made(new + number, ended=False) for number in range(8000)])
    figures["creates_per_s_2kB"] = creates(store, [made(new + 8000 + number, ended=False, inputs=10) for number in range(4000)])
    figures["creates_ratio_to_baseline"] = round(float(str(figures["creates_per_s"])) / rate, 2)
    known = made(new + 20000, ended=False)
    store.insert([known]).result()
    for view in model.View:
        figures[f"get_{view}"] = seconds(lambda view=view: store.get(OWNER, known.id, view), 3000)  # type: ignore[misc]
    some = str(tasks // 1000)
    failed, complete = (model.StateFilter(frozenset({state})) for state in (State.EXECUTOR_ERROR, State.COMPLETE))
    lists: dict[str, model.Query] = {
        "all": model.Query(scope=OWNER),
        "deep": model.Query(scope=OWNER, after=(START + datetime.timedelta(seconds=tasks // 3), "")),
        "basic": model.Query(scope=OWNER, view=model.View.BASIC),
        "state_rare": model.Query(scope=OWNER, state=failed),
        "state_common": model.Query(scope=OWNER, state=complete),
        "tag_rare": model.Query(scope=OWNER, tags=(("workflow", some),)),
        "tag_common": model.Query(scope=OWNER, tags=(("engine", "nextflow"),)),
        "tag_any": model.Query(scope=OWNER, tags=(("engine", ""),)),
        "tag_and_state": model.Query(scope=OWNER, tags=(("engine", "nextflow"),), state=failed),
        "name_rare": model.Query(scope=OWNER, name_prefix=f"workflow-{some}/"),
        "name_common": model.Query(scope=OWNER, name_prefix="workflow-"),
        "name_none": model.Query(scope=OWNER, name_prefix="nothing"),
        "name_and_state": model.Query(scope=OWNER, name_prefix="workflow-1", state=failed),
    }
    for name, query in lists.items():
        figures[f"list_{name}"] = seconds(lambda query=query: store.page(query), 200)  # type: ignore[misc]
    now = START + datetime.timedelta(days=10000)
    figures["due_waiting_100_of_20000"] = seconds(lambda: store.due(model.Lane.WAITING, model.ALL_SHARDS, now, 100), 50)
    changes = [
        model.Change(id=each.id, revision=0, state=State.RUNNING, canceling=False, lane=model.Lane.ACTIVE, due=now, status=each.status)
        for each in store.due(model.Lane.WAITING, model.ALL_SHARDS, now, 2000)
    ]
    begin = time.perf_counter()
    lost = store.save(changes)
    figures["saves_per_s_in_one_call"] = round((len(changes) - len(lost)) / (time.perf_counter() - begin))
    store.close()
    figures["bytes_per_task"] = (directory / "tes.db").stat().st_size // (tasks + 20000)
    return figures


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--tasks", type=int, default=20_000)
    options.add_argument("--data", type=pathlib.Path, default=None, help="directory on the disk to measure")
    options.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory(dir=chosen.data) as directory:
        figures = run(pathlib.Path(directory), chosen.tasks)
    print(json.dumps(figures) if chosen.json else "\n".join(f"{name:28} {figure}" for name, figure in figures.items()))


if __name__ == "__main__":
    main()
