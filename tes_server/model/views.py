"""From stored records to the JSON that clients get: pure, and the one place that knows what old clients survive.

The rows named are those of clients.md section 5. A view shows what it is given: the store has read no more than it needs.
Whoever is not a task's owner gets it without the credentials of urls, wherever in it they are: so it is done to the JSON as a whole.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Sequence
from typing import TypeVar

import msgspec

from tes_server import redaction
from tes_server.model.record import Brief, Detail, Logs, Record, View
from tes_server.model.run import Tails
from tes_server.model.states import ENDS, State, shown
from tes_server.model.task import Executor, ExecutorLog, FileType, Input, Output, OutputFileLog, Resources, Task

CLIENTS = "clients"


class _Minimal(msgspec.Struct, frozen=True):
    id: str
    state: State


class _TaskLog(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """tesTaskLog; `logs` and `outputs` are always there (row 10)."""

    logs: tuple[ExecutorLog, ...]
    outputs: tuple[OutputFileLog, ...]
    metadata: dict[str, str] | None = None
    start_time: datetime.datetime | None = None
    end_time: datetime.datetime | None = None
    system_logs: tuple[str, ...] | None = None


class _Resources(Resources, frozen=True, omit_defaults=True, kw_only=True):
    cpu_cores: int | float | None = None  # 1.0 breaks py-tes (row 9): whole numbers go out as such


class _Task(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    id: str
    state: State
    name: str | None = None
    description: str | None = None
    inputs: tuple[Input, ...] | None = None
    outputs: tuple[Output, ...] | None = None
    resources: _Resources | None = None
    executors: tuple[Executor, ...]
    volumes: tuple[str, ...] | None = None
    tags: dict[str, str] | None = None
    logs: tuple[_TaskLog, ...] | None = None
    creation_time: datetime.datetime


class _Archived(_Task, frozen=True, omit_defaults=True, kw_only=True):
    owner: str


class _List(msgspec.Struct, frozen=True, omit_defaults=True):
    tasks: list[_Minimal | _Task | msgspec.Raw]
    next_page_token: str | None = None


_encoder = msgspec.json.Encoder()


def with_types(task: Task) -> Task:
    """The task with `type` filled in on every input and output, as it is stored (tesFileType: the server must fill it in)."""
    if task.inputs:
        task = msgspec.structs.replace(task, inputs=tuple(item if item.type else msgspec.structs.replace(item, type=FileType.FILE) for item in task.inputs))
    if task.outputs:
        task = msgspec.structs.replace(task, outputs=tuple(item if item.type else msgspec.structs.replace(item, type=FileType.FILE) for item in task.outputs))
    return task


def task_json(task: Brief, view: View, compat: str, reader: str, tails: Tails | None = None) -> bytes:
    """One task as GetTask answers it to the owner `reader`. `tails` is the live output of a running task, if there is any."""
    whole = _encoder.encode(_rendered(task, view, compat, tails))
    return whole if _as_sent(task, reader) else redaction.json_bytes(whole)


def list_json(tasks: Sequence[Brief], next_page_token: str | None, view: View, compat: str, reader: str) -> bytes:
    """A page as ListTasks answers it to the owner `reader`; without `next_page_token` on the last page (row 30)."""
    shown = [_rendered(task, view, compat, None) if _as_sent(task, reader) else msgspec.Raw(task_json(task, view, compat, reader)) for task in tasks]
    return _encoder.encode(_List(shown, next_page_token))


def _as_sent(task: Brief, reader: str) -> bool:
    return not isinstance(task, Record) or task.owner == reader


def archived_json(task: Record) -> bytes:
    """One whole task as an archive keeps it: all that GetTask shows under compat "1.1", and its owner."""
    rendered = _rendered(task, View.FULL, "1.1", None)
    if isinstance(rendered, _Minimal):
        raise ValueError("a task is archived with all of its parts")
    return _encoder.encode(_Archived(owner=task.owner, **{name: getattr(rendered, name) for name in rendered.__struct_fields__}))


def _rendered(task: Brief, view: View, compat: str, tails: Tails | None) -> _Minimal | _Task:
    state = shown(task.state, task.canceling, compat)
    if view is View.MINIMAL or not isinstance(task, Record) or task.task is None:
        return _Minimal(task.id, state)
    spec = _known_to_1_0(task.task) if compat == CLIENTS else task.task
    return _Task(
        id=task.id,
        state=state,
        name=spec.name,
        description=spec.description,
        inputs=spec.inputs,
        outputs=spec.outputs,
        resources=_resources(spec.resources, compat),
        executors=spec.executors,
        volumes=spec.volumes,
        tags=spec.tags,
        logs=_logs(task, view, compat, tails),
        creation_time=task.created,
    )


T = TypeVar("T", Input, Output, Executor)


def _known_to_1_0(task: Task) -> Task:
    """The task without what TES 1.1 added: one such key in a list breaks 1.0-era clients for the whole list (clients.md section 3)."""
    resources = task.resources
    if resources is not None:
        resources = msgspec.structs.replace(resources, backend_parameters=None, backend_parameters_strict=None)
    return msgspec.structs.replace(
        task,
        inputs=_without(task.inputs, "streamable") if task.inputs else task.inputs,
        outputs=_without(task.outputs, "path_prefix") if task.outputs else task.outputs,
        executors=_without(task.executors, "ignore_error"),
        resources=resources,
    )


def _without(items: tuple[T, ...], field: str) -> tuple[T, ...]:
    return tuple(item if getattr(item, field) is None else msgspec.structs.replace(item, **{field: None}) for item in items)


def _resources(resources: Resources | None, compat: str) -> _Resources | None:
    if resources is None:
        return None
    cores: int | float | None = resources.cpu_cores
    if cores is not None and (compat == CLIENTS or float(cores).is_integer()):
        cores = math.ceil(cores)
    fields = {name: getattr(resources, name) for name in Resources.__struct_fields__}
    return _Resources(**{**fields, "cpu_cores": cores})


def _logs(task: Record, view: View, compat: str, tails: Tails | None) -> tuple[_TaskLog, ...] | None:
    """One log per task, that of its last attempt (row 14); none before there is anything to say."""
    status = task.status
    logs = task.logs or Logs()
    system_logs: tuple[str, ...] | None = None
    executors = logs.executors
    if view is View.FULL:
        detail = task.detail or Detail()
        system_logs = (*detail.system_logs, status.waiting) if status.waiting and task.state not in ENDS else detail.system_logs
        if tails is not None and not executors and tails.attempt == status.attempt and task.state not in ENDS:
            executors = tails.executors
        elif detail.streams:
            executors = tuple(msgspec.structs.replace(log, stdout=out, stderr=err) for log, (out, err) in zip(executors, detail.streams, strict=True))
    if not (status.start_time or executors or system_logs or task.state in ENDS):
        return None
    metadata = status.metadata
    if compat == CLIENTS and status.start_time:
        # Row 12: with a start time and a price Cromwell stops polling FULL, where sizes beyond 2^31 - 1 break it.
        metadata = {"vm_price_per_hour_usd": "0", **metadata}
    return (
        _TaskLog(
            logs=executors,
            outputs=logs.outputs,
            metadata=metadata or None,
            start_time=status.start_time,
            end_time=status.end_time if task.state in ENDS else None,
            system_logs=system_logs or None,
        ),
    )
