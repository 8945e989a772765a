"""Tables and progress for people at a terminal. Imported only when one looks, for rich takes its time to load.

Must never be used for output that programs read. Text from the server is shown without control characters.
"""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import rich.console
import rich.progress
import rich.table
import rich.text

from tes_server.client.answers import Task, TaskLog

_STYLES = {"COMPLETE": "green", "EXECUTOR_ERROR": "red", "SYSTEM_ERROR": "bold red", "CANCELED": "yellow", "PREEMPTED": "yellow", "RUNNING": "cyan"}


def tasks(listed: Iterable[Task]) -> None:
    """A table, one task a row."""
    table = _table("ID", "STATE", "NAME", "CREATED", "TAGS")
    for task in listed:
        tags = " ".join(f"{key}={value or ''}" for key, value in sorted((task.tags or {}).items()))
        table.add_row(_plain(task.id), _state(task.state), _plain(task.name), _plain(task.creation_time), _plain(tags))
    rich.console.Console().print(table)


def details(task: Task) -> None:
    """All that is known of one task but its output, for which there is `tes logs`."""
    grid = rich.table.Table.grid(padding=(0, 2))
    log = task.last_log
    rows: list[tuple[str, object]] = [
        ("name", task.name),
        ("description", task.description),
        ("created", task.creation_time),
        ("started", log.start_time),
        ("ended", log.end_time),
        *((f"tag {key}", value) for key, value in sorted((task.tags or {}).items())),
        *((f"asked {key}", value) for key, value in (task.resources or {}).items()),
    ]
    grid.add_row("id", _plain(task.id))
    grid.add_row("state", _state(task.state))
    for label, value in rows:
        if value not in (None, ""):
            grid.add_row(label, _plain(value))
    for number, (image, command, ended) in enumerate(_executors(task, log)):
        grid.add_row(f"executor {number}", _plain(f"{image}: {command}"))
        grid.add_row("", _plain(ended))
    for file in log.outputs or []:
        grid.add_row("output", _plain(f"{file.path} → {file.url} ({file.size_bytes} bytes)"))
    for line in log.system_logs or []:
        grid.add_row("system", _plain(line))
    rich.console.Console().print(grid)


def document(answer: Mapping[str, Any]) -> None:
    """A small JSON object as rows of dotted keys."""
    grid = rich.table.Table.grid(padding=(0, 2))
    for key, value in _flat(answer, ""):
        grid.add_row(_plain(key), _plain(value))
    rich.console.Console().print(grid)


@contextlib.contextmanager
def progress(total: int) -> Iterator[Callable[[Mapping[str, str]], None]]:
    """A bar of ended tasks with the counts by state. The function that is yielded takes the state of each task seen so far."""
    columns = (rich.progress.BarColumn(), rich.progress.MofNCompleteColumn(), rich.progress.TextColumn("{task.description}"), rich.progress.TimeElapsedColumn())
    with rich.progress.Progress(*columns, console=rich.console.Console(stderr=True), transient=True) as bar:
        row = bar.add_task("", total=total)

        def update(states: Mapping[str, str]) -> None:
            counts = collections.Counter(states.values())
            ended = sum(Task(state=state).ended * count for state, count in counts.items())
            bar.update(row, completed=ended, description=", ".join(f"{count} {state}" for state, count in sorted(counts.items())))

        yield update


def _executors(task: Task, log: TaskLog) -> Iterator[tuple[str, str, str]]:
    logs = log.logs or []
    for index, executor in enumerate(task.executors or []):
        if index >= len(logs):
            ended = "not started"
        elif logs[index].exit_code is None:
            ended = f"since {logs[index].start_time}"
        else:
            ended = f"exit code {logs[index].exit_code}, {logs[index].start_time} – {logs[index].end_time}"
        yield executor.image or "", " ".join(executor.command or []), ended


def _flat(value: Any, key: str) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _flat(inner, f"{key}.{name}".lstrip("."))
    elif isinstance(value, list):
        yield key, ", ".join(map(str, value))
    else:
        yield key, value


def _table(*headings: str) -> rich.table.Table:
    table = rich.table.Table(box=None, pad_edge=False)
    for heading in headings:
        # Ids are there to be copied: they are never cut or folded.
        table.add_column(heading, no_wrap=heading in ("ID", "STATE", "CREATED"), overflow="fold")
    return table


def _state(state: str | None) -> rich.text.Text:
    return rich.text.Text(_clean(state or "UNKNOWN"), style=_STYLES.get(state or "", ""))


def _plain(value: object) -> rich.text.Text:
    """Text that is never read as markup."""
    return rich.text.Text(_clean("" if value is None else str(value)))


def _clean(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text)
