"""Whole answers, as the bytes decode: every view, both generations of clients (rows of clients.md section 5)."""

from __future__ import annotations

import datetime
import json
from typing import Any

import msgspec
import pytest
import tes

from tes_server.model import views
from tes_server.model.record import Brief, Detail, Logs, Record, Status, View
from tes_server.model.run import Tails
from tes_server.model.states import ENDS, State
from tes_server.model.task import Executor, ExecutorLog, FileType, Input, Output, OutputFileLog, Resources, Task

T0 = datetime.datetime(2026, 3, 1, 9, 30, tzinfo=datetime.UTC)
T1 = T0 + datetime.timedelta(seconds=1.5)
HUGE = str(2**40)

TASK = Task(
    name="all of it",
    description="",
    inputs=(
        Input(path="/w/a", url="file:///a", type=FileType.FILE, streamable=True, name="a", description="first"),
        Input(path="/w/b", content="b\0", type=FileType.FILE),
    ),
    outputs=(Output(path="/w/*.x", url="file:///o", path_prefix="/w", type=FileType.DIRECTORY),),
    resources=Resources(
        cpu_cores=1.5, ram_gb=2.0, disk_gb=0.5, preemptible=False, zones=("z",), backend_parameters={"max_runtime": "1h"}, backend_parameters_strict=False
    ),
    executors=(
        Executor(image="i", command=("a", ""), env={"A": ""}, workdir="/w", stdin="/w/a", stdout="/w/o", stderr="/w/e", ignore_error=True),
        Executor(image="j", command=("b",)),
    ),
    volumes=("/v",),
    tags={"": "x", "y": ""},
)

STATUS = Status(backend="local", rule="default", start_time=T0, end_time=T1, metadata={"host": "h"})

ENDED = Record(
    id="id",
    owner="o",
    created=T0,
    state=State.EXECUTOR_ERROR,
    status=STATUS,
    task=TASK,
    logs=Logs(
        (ExecutorLog(start_time=T0, end_time=T1, exit_code=0), ExecutorLog(start_time=T1, end_time=T1, exit_code=3)),
        (OutputFileLog(url="file:///o/b.x", path="/w/b.x", size_bytes=HUGE),),
    ),
    detail=Detail(("EXECUTOR_FAILED: it failed",), (("out", ""), ("", "err"))),
)

QUEUED = Record(id="id", owner="o", created=T0, state=State.QUEUED, status=Status(backend="local", rule="default", waiting="WAITING_TURN: soon"), task=TASK)


def shown(record: Brief, view: View, compat: str, tails: Tails | None = None) -> Any:
    return msgspec.json.decode(views.task_json(record, view, compat, getattr(record, "owner", ""), tails))


def whole(view: View, compat: str) -> dict[str, Any]:
    """What ENDED has to look like."""
    new = compat == "1.1"
    full = view is View.FULL
    first: dict[str, Any] = {"start_time": "2026-03-01T09:30:00Z", "end_time": "2026-03-01T09:30:01.500000Z", "exit_code": 0}
    second: dict[str, Any] = {"start_time": "2026-03-01T09:30:01.500000Z", "end_time": "2026-03-01T09:30:01.500000Z", "exit_code": 3}
    log: dict[str, Any] = {
        "logs": [first | ({"stdout": "out", "stderr": ""} if full else {}), second | ({"stdout": "", "stderr": "err"} if full else {})],
        "outputs": [{"url": "file:///o/b.x", "path": "/w/b.x", "size_bytes": HUGE}],
        "metadata": {"host": "h"} if new else {"vm_price_per_hour_usd": "0", "host": "h"},
        "start_time": "2026-03-01T09:30:00Z",
        "end_time": "2026-03-01T09:30:01.500000Z",
    }
    return {
        "id": "id",
        "state": "EXECUTOR_ERROR",
        "name": "all of it",
        "description": "",
        "inputs": [
            {"path": "/w/a", "url": "file:///a", "type": "FILE", "name": "a", "description": "first"} | ({"streamable": True} if new else {}),
            {"path": "/w/b", "type": "FILE"} | ({"content": "b\0"} if full else {}),
        ],
        "outputs": [{"path": "/w/*.x", "url": "file:///o", "type": "DIRECTORY"} | ({"path_prefix": "/w"} if new else {})],
        "resources": {"cpu_cores": 1.5 if new else 2, "ram_gb": 2.0, "disk_gb": 0.5, "preemptible": False, "zones": ["z"]}
        | ({"backend_parameters": {"max_runtime": "1h"}, "backend_parameters_strict": False} if new else {}),
        "executors": [
            {"image": "i", "command": ["a", ""], "env": {"A": ""}, "workdir": "/w", "stdin": "/w/a", "stdout": "/w/o", "stderr": "/w/e"}
            | ({"ignore_error": True} if new else {}),
            {"image": "j", "command": ["b"]},
        ],
        "volumes": ["/v"],
        "tags": {"": "x", "y": ""},
        "logs": [log | ({"system_logs": ["EXECUTOR_FAILED: it failed"]} if full else {})],
        "creation_time": "2026-03-01T09:30:00Z",
    }


def as_read(record: Record, view: View) -> Record:
    """What a store reads of a record for a view (model/record.py)."""
    if view is View.FULL:
        return record
    assert record.task is not None
    inputs = tuple(msgspec.structs.replace(item, content=None) for item in record.task.inputs or ())
    return msgspec.structs.replace(record, task=msgspec.structs.replace(record.task, inputs=inputs), detail=None)


@pytest.mark.parametrize("compat", ["clients", "1.1"])
@pytest.mark.parametrize("view", [View.BASIC, View.FULL])
def test_rows_9_11_12_14_everything_that_an_ended_task_shows(view: View, compat: str) -> None:
    assert shown(as_read(ENDED, view), view, compat) == whole(view, compat)


@pytest.mark.parametrize("compat", ["clients", "1.1"])
@pytest.mark.parametrize("state", [*State])
def test_rows_10_and_35_minimal_is_id_and_state(state: State, compat: str) -> None:
    assert views.task_json(Brief(id="id", state=state), View.MINIMAL, compat, "o") == b'{"id":"id","state":"%s"}' % state.encode()
    assert shown(msgspec.structs.replace(ENDED, state=state), View.MINIMAL, compat) == {"id": "id", "state": state}


@pytest.mark.parametrize("compat", ["clients", "1.1"])
def test_row_9_what_was_not_given_is_not_shown(compat: str) -> None:
    bare = Record(id="id", owner="o", created=T0, state=State.QUEUED, status=Status(backend="b", rule="r"), task=Task(executors=TASK.executors[1:]))
    expected = {"id": "id", "state": "QUEUED", "executors": [{"image": "j", "command": ["b"]}], "creation_time": "2026-03-01T09:30:00Z"}
    for view in (View.BASIC, View.FULL):
        assert shown(bare, view, compat) == expected


@pytest.mark.parametrize(("given", "clients", "new"), [(1.0, b"1", b"1"), (0.1, b"1", b"0.1"), (2, b"2", b"2"), (2.5, b"3", b"2.5"), (-0.0, b"0", b"0")])
def test_row_9_cores_are_whole_where_they_can_be(given: float, clients: bytes, new: bytes) -> None:
    record = msgspec.structs.replace(QUEUED, task=Task(executors=TASK.executors, resources=Resources(cpu_cores=given)))
    for compat, text in (("clients", clients), ("1.1", new)):
        assert b'"resources":{"cpu_cores":' + text + b"}" in views.task_json(record, View.BASIC, compat, "o")


@pytest.mark.parametrize("given", [Task(executors=()), Task(executors=(), inputs=(), outputs=())])
def test_types_of_nothing(given: Task) -> None:
    assert views.with_types(given) == given


def test_row_9_a_type_is_filled_in_and_never_changed() -> None:
    typed = views.with_types(
        Task(
            executors=(),
            inputs=(Input(path="/a", content=""), Input(path="/b", url="/b", type=FileType.DIRECTORY)),
            outputs=(Output(path="/c", url="/c"), Output(path="/d", url="/d", type=FileType.DIRECTORY)),
        )
    )
    assert [item.type for item in typed.inputs or ()] == [item.type for item in typed.outputs or ()] == [FileType.FILE, FileType.DIRECTORY]


def test_row_13_canceling_is_the_state_before_for_old_clients() -> None:
    for state in (State.QUEUED, State.INITIALIZING, State.RUNNING):
        canceling = Brief(id="id", state=state, canceling=True)
        assert shown(canceling, View.MINIMAL, "clients")["state"] == state
        assert shown(canceling, View.MINIMAL, "1.1")["state"] == "CANCELING"
    for state in ENDS:
        assert shown(Brief(id="id", state=state, canceling=True), View.MINIMAL, "1.1")["state"] == state


def test_why_a_task_waits_is_a_system_log_until_it_ends() -> None:
    assert shown(QUEUED, View.FULL, "clients")["logs"] == [{"logs": [], "outputs": [], "system_logs": ["WAITING_TURN: soon"]}]
    assert "logs" not in shown(as_read(QUEUED, View.BASIC), View.BASIC, "clients")
    ended = msgspec.structs.replace(QUEUED, state=State.CANCELED)
    assert shown(ended, View.FULL, "clients")["logs"] == [{"logs": [], "outputs": []}]


@pytest.mark.parametrize("state", sorted(ENDS))
def test_rows_14_and_33_every_end_has_its_log(state: State) -> None:
    record = msgspec.structs.replace(QUEUED, state=state, status=Status(backend="b", rule="r"))
    for view in (View.BASIC, View.FULL):
        assert shown(record, view, "clients")["logs"] == [{"logs": [], "outputs": []}]


def test_live_output_shows_while_its_attempt_runs() -> None:
    running = Record(id="id", owner="o", created=T0, state=State.RUNNING, status=msgspec.structs.replace(STATUS, attempt=2, end_time=T1), task=TASK)
    tails = Tails(2, (ExecutorLog(start_time=T0, stdout="so far", stderr=""),))
    (log,) = shown(running, View.FULL, "1.1", tails)["logs"]
    assert log == {
        "logs": [{"start_time": "2026-03-01T09:30:00Z", "stdout": "so far", "stderr": ""}],
        "outputs": [],
        "metadata": {"host": "h"},
        "start_time": "2026-03-01T09:30:00Z",
    }, "row 10: no exit_code until it is known; no end before the end"
    (of_another_attempt,) = shown(running, View.FULL, "1.1", Tails(1, tails.executors))["logs"]
    assert of_another_attempt["logs"] == []


def test_row_30_a_page() -> None:
    page = [Brief(id="b", state=State.RUNNING), Brief(id="a", state=State.COMPLETE)]
    tasks = [{"id": "b", "state": "RUNNING"}, {"id": "a", "state": "COMPLETE"}]
    assert msgspec.json.decode(views.list_json(page, "token", View.MINIMAL, "clients", "o")) == {"tasks": tasks, "next_page_token": "token"}
    assert msgspec.json.decode(views.list_json(page, None, View.MINIMAL, "clients", "o")) == {"tasks": tasks}
    assert views.list_json([], None, View.FULL, "1.1", "o") == b'{"tasks":[]}'
    assert msgspec.json.decode(views.list_json([ENDED], None, View.FULL, "clients", "o")) == {"tasks": [whole(View.FULL, "clients")]}


@pytest.mark.parametrize("compat", ["clients", "1.1"])
@pytest.mark.parametrize("view", [*View])
def test_py_tes_takes_every_answer(view: View, compat: str) -> None:
    # Its models check types, and refuse keys that they do not know. Fractions of cores are for `compat = "clients"` to round (row 9).
    assert TASK.resources is not None
    cores = 1.5 if compat == "clients" else 2.0
    spec = msgspec.structs.replace(TASK, resources=msgspec.structs.replace(TASK.resources, cpu_cores=cores))
    for record in (ENDED, QUEUED):
        read = as_read(msgspec.structs.replace(record, task=spec), view)
        task = tes.utils.unmarshal(views.task_json(read, view, compat, "o").decode(), tes.Task)
        assert (task.id, task.state) == (record.id, record.state)


SIGNED = "https://u:CANARY@h/x?sv=1&sig=CANARY%2B&se=2"
PLAIN = "https://***@h/x?sv=1&sig=***&se=2"


@pytest.mark.parametrize("view", [View.BASIC, View.FULL])
def test_who_is_not_the_owner_sees_no_credential_of_a_url(view: View) -> None:
    record = msgspec.structs.replace(
        ENDED,
        task=msgspec.structs.replace(
            TASK,
            name=f"from {SIGNED}",
            inputs=(Input(path="/w/a", url=SIGNED), Input(path="/w/b", url='ftp://u:CANARY "CANARY@h/b'), Input(path="/w/c", content=f'{{"url": "{SIGNED}"}}')),
            outputs=(Output(path="/w/o", url=SIGNED),),
            executors=(Executor(image="i", command=("sh", "-c", f"curl '{SIGNED}' | tee x\n"), env={"SAS": SIGNED}),),
            tags={"from": SIGNED},
        ),
        logs=Logs((ExecutorLog(exit_code=0), ExecutorLog(exit_code=3)), (OutputFileLog(url=SIGNED, path="/w/o", size_bytes="1"),)),
        detail=Detail((), ((f"+ curl {SIGNED}\n", ""), ("", ""))),
    )
    read = as_read(record, view)
    assert b"CANARY" in views.task_json(read, view, "1.1", "o")
    assert views.list_json([read], None, view, "1.1", "o") == b'{"tasks":[' + views.task_json(read, view, "1.1", "o") + b"]}"
    others = views.task_json(read, view, "1.1", "root")
    assert b"CANARY" not in others
    assert views.list_json([read, read], "t", view, "1.1", "root") == b'{"tasks":[' + others + b"," + others + b'],"next_page_token":"t"}'
    shown = msgspec.json.decode(others)
    assert shown["inputs"][0]["url"] == shown["outputs"][0]["url"] == shown["logs"][0]["outputs"][0]["url"] == shown["executors"][0]["env"]["SAS"] == PLAIN
    assert shown["executors"][0]["command"] == ["sh", "-c", f"curl '{PLAIN}' | tee x\n"]
    if view is View.FULL:
        assert json.loads(shown["inputs"][2]["content"]) == {"url": PLAIN}
        assert shown["logs"][0]["logs"][0]["stdout"] == f"+ curl {PLAIN}\n"


@pytest.mark.parametrize("view", [*View])
def test_without_credentials_everybody_sees_the_same(view: View) -> None:
    for record in (ENDED, QUEUED):
        read = as_read(record, view)
        assert views.task_json(read, view, "1.1", "root") == views.task_json(read, view, "1.1", "o")
