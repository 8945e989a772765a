"""Bodies: every mistake is a 400 that names its place, and none is a 500."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from starlette.types import ASGIApp

from tes_server.api import body
from tes_server.model.task import Task
from tests.unit.api import asgi
from tests.unit.api.conftest import BODY_LIMIT
from tests.unit.api.service import TASK, MemoryService

EXECUTOR = {"image": "alpine", "command": ["true"]}


def task(**fields: Any) -> dict[str, Any]:
    return {"executors": [EXECUTOR], **fields}


def executor(**fields: Any) -> dict[str, Any]:
    return {"executors": [{**EXECUTOR, **fields}]}


WRONG_VALUES: list[tuple[Any, str, str]] = [
    ({}, "/executors", "is missing"),
    ({"executors": None}, "/executors", "is missing"),
    ({"executors": {}}, "/executors", "expected an array, got an object"),
    ({"executors": "true"}, "/executors", 'expected an array, got the text "true"'),
    ({"executors": [None]}, "/executors/0", "expected an object, got null"),
    ({"executors": [EXECUTOR, 3]}, "/executors/1", "expected an object, got a number"),
    ({"executors": [{"command": ["true"]}]}, "/executors/0/image", "is missing"),
    ({"executors": [{"image": "alpine"}]}, "/executors/0/command", "is missing"),
    ({"executors": [{"image": "alpine", "command": None}]}, "/executors/0/command", "is missing"),
    (executor(image=["alpine"]), "/executors/0/image", "expected a string, got an array"),
    (executor(command="true"), "/executors/0/command", 'expected an array, got the text "true"'),
    (executor(command=["sleep", "1", 2]), "/executors/0/command/2", "expected a string, got a number"),
    (executor(command=["sleep", None]), "/executors/0/command/1", "expected a string, got null"),
    (executor(env=[]), "/executors/0/env", "expected an object, got an array"),
    (executor(env={"A": 1}), "/executors/0/env/A", "expected a string, got a number"),
    (executor(env={"a/b~c": True}), "/executors/0/env/a~1b~0c", "expected a string, got true"),
    (executor(ignore_error="yes"), "/executors/0/ignore_error", 'expected true or false, got the text "yes"'),
    (executor(stdin=7), "/executors/0/stdin", "expected a string, got a number"),
    (executor(workdir={}), "/executors/0/workdir", "expected a string, got an object"),
    (task(name=["a"]), "/name", "expected a string, got an array"),
    (task(description=False), "/description", "expected a string, got false"),
    (task(inputs={}), "/inputs", "expected an array, got an object"),
    (task(inputs=[{"url": "file:///a"}]), "/inputs/0/path", "is missing"),
    (task(inputs=[{"path": "/a", "type": "file"}]), "/inputs/0/type", 'expected one of FILE, DIRECTORY, got the text "file"'),
    (task(inputs=[{"path": "/a", "content": {"a": 1}}]), "/inputs/0/content", "expected a string, got an object"),
    (task(inputs=[{"path": "/a"}, {"path": "/b", "streamable": 1}]), "/inputs/1/streamable", "expected true or false, got a number"),
    (task(outputs=[{"path": "/a"}]), "/outputs/0/url", "is missing"),
    (task(outputs=[{"url": "file:///a"}]), "/outputs/0/path", "is missing"),
    (task(outputs=[[]]), "/outputs/0", "expected an object, got an array"),
    (task(resources=[]), "/resources", "expected an object, got an array"),
    (task(resources={"cpu_cores": "4"}), "/resources/cpu_cores", 'expected a number, got the text "4"'),
    (task(resources={"ram_gb": True}), "/resources/ram_gb", "expected a number, got true"),
    (task(resources={"disk_gb": []}), "/resources/disk_gb", "expected a number, got an array"),
    (task(resources={"preemptible": "no"}), "/resources/preemptible", 'expected true or false, got the text "no"'),
    (task(resources={"zones": "a"}), "/resources/zones", 'expected an array, got the text "a"'),
    (task(resources={"zones": [None]}), "/resources/zones/0", "expected a string, got null"),
    (task(resources={"backend_parameters": {"k": 1}}), "/resources/backend_parameters/k", "expected a string, got a number"),
    (task(resources={"backend_parameters_strict": 0}), "/resources/backend_parameters_strict", "expected true or false, got a number"),
    (task(volumes=[1]), "/volumes/0", "expected a string, got a number"),
    (task(tags={"a": {}}), "/tags/a", "expected a string, got an object"),
    (task(tags=["a"]), "/tags", "expected an object, got an array"),
    (task(resources={"cpu_cores": msgspec.Raw(b"1" + b"0" * 400)}), "/resources/cpu_cores", "number out of range"),
    (task(name=1, tags=[1]), "/name", "expected a string, got a number"),
    (executor(command="x" * 1000), "/executors/0/command", f'expected an array, got the text "{"x" * 40}..."'),
]

WRONG_DOCUMENTS: list[tuple[Any, str]] = [
    ([], "the body: expected an object, got an array"),
    (None, "the body: expected an object, got null"),
    ("task", 'the body: expected an object, got the text "task"'),
    (1, "the body: expected an object, got a number"),
]

BROKEN = [
    b"",
    b" \r\n\t",
    b"{",
    b'{"executors":',
    b'{"executors":[],}',
    b"{'executors':[]}",
    TASK + b"x",
    TASK + TASK,
    TASK + b"\x00",
    b"\x00",
    b"\xff\xfe{\x00}\x00",
    b"\xef\xbb\xbf" + TASK,
    b'{"name":"\xff","executors":[]}',
    b'{"name":"\xed\xa0\x80","executors":[]}',
    b'{"name":"\\ud800","executors":[]}',
    b'{"name":"\\x41","executors":[]}',
    b'{"name":"a\nb","executors":[]}',
    b'{"resources":{"ram_gb":NaN},"executors":[]}',
    b'{"resources":{"ram_gb":Infinity},"executors":[]}',
    b'{"resources":{"ram_gb":-Infinity},"executors":[]}',
    b'{"resources":{"ram_gb":1e400},"executors":[]}',
    b'{"resources":{"ram_gb":01},"executors":[]}',
    b'{"resources":{"cpu_cores":1' + b"0" * 400 + b'},"executors":[]}',
    b'{"resources":{"cpu_cores":1' + b"0" * 5000 + b'},"executors":[]}',
    b'{"executors":[/* none */]}',
    b"[" * 100_000,
    b'{"a":' * 5_000 + b"null" + b"}" * 5_000,
    b'{"executors":[],"tags":' + b'{"a":' * 900 + b"null" + b"}" * 901,
    b"executors=x&image=y",
    b"--boundary\r\n",
]


@pytest.mark.parametrize(("value", "pointer", "sentence"), WRONG_VALUES)
def test_a_wrong_value_is_told_by_its_place(app: ASGIApp, service: MemoryService, value: Any, pointer: str, sentence: str) -> None:
    answer = asgi.post(app, "/v1/tasks", msgspec.json.encode(value))
    assert answer.json == {"status": 400, "title": "Bad Request", "detail": sentence, "pointer": pointer}
    assert answer.status == 400
    assert service.tasks == {}


@pytest.mark.parametrize(("value", "detail"), WRONG_DOCUMENTS)
def test_a_body_that_is_no_object(app: ASGIApp, value: Any, detail: str) -> None:
    answer = asgi.post(app, "/v1/tasks", msgspec.json.encode(value))
    assert answer.json == {"status": 400, "title": "Bad Request", "detail": detail}


@pytest.mark.parametrize("raw", BROKEN, ids=lambda raw: repr(raw[:24]))
def test_a_broken_body_is_400_and_no_more(app: ASGIApp, service: MemoryService, raw: bytes) -> None:
    answer = asgi.post(app, "/v1/tasks", raw)
    assert answer.status == 400
    assert answer.headers["content-type"] == "application/json"
    assert len(answer.body) < 300
    assert service.tasks == {}


@pytest.mark.parametrize(
    "content_type", [None, "application/json", "application/json; charset=utf-8", "application/x-www-form-urlencoded", "text/plain", "*/*", "nonsense", "a/b/c"]
)
def test_row_5_any_content_type_is_json(app: ASGIApp, content_type: str | None) -> None:
    headers = asgi.LOOPBACK if content_type is None else {**asgi.LOOPBACK, "content-type": content_type}
    assert asgi.post(app, "/v1/tasks", TASK, headers=headers).status == 200


def test_a_body_in_parts(app: ASGIApp) -> None:
    assert asgi.post(app, "/v1/tasks", [TASK[index : index + 1] for index in range(len(TASK))]).status == 200


def test_a_large_body_is_taken_off_the_event_loop(app: ASGIApp, service: MemoryService) -> None:
    content = "x" * (2 * body.SMALL)
    raw = msgspec.json.encode(task(inputs=[{"path": "/a", "content": content}]))
    task_id = asgi.post(app, "/v1/tasks", raw).json["id"]
    kept = service.tasks[task_id].inputs
    assert kept is not None
    assert kept[0].content == content


def test_a_body_over_the_limit_is_413(app: ASGIApp, service: MemoryService) -> None:
    raw = TASK + b" " * BODY_LIMIT
    announced = asgi.post(app, "/v1/tasks", raw)
    streamed = asgi.post(app, "/v1/tasks", [raw[:1000], raw[1000:]])
    lying = asgi.post(app, "/v1/tasks", [raw], headers={**asgi.LOOPBACK, "content-length": "5"})
    for answer in (announced, streamed, lying):
        assert answer.json == {
            "status": 413,
            "title": "Content Too Large",
            "detail": f"the body is larger than {BODY_LIMIT} bytes, the most that this server takes",
        }
    assert service.tasks == {}


def test_a_body_at_the_limit_is_taken(app: ASGIApp) -> None:
    assert asgi.post(app, "/v1/tasks", TASK + b" " * (BODY_LIMIT - len(TASK))).status == 200


def test_an_announced_length_is_refused_before_anything_is_read(app: ASGIApp) -> None:
    answer = asgi.request(app, "POST", "/v1/tasks", b"", headers={**asgi.LOOPBACK, "content-length": "9" * 30}, disconnects=True)
    assert answer is not None
    assert answer.status == 413


def test_a_caller_that_hangs_up_gets_nothing_and_makes_nothing(app: ASGIApp, service: MemoryService) -> None:
    assert asgi.request(app, "POST", "/v1/tasks", TASK, disconnects=True) is None
    assert service.tasks == {}


def test_row_6_null_is_a_field_not_given(app: ASGIApp, service: MemoryService) -> None:
    nulls = {
        "id": None,
        "state": None,
        "name": None,
        "inputs": [{"path": "/a", "content": "a", "name": None, "url": None, "type": None, "streamable": None}],
        "outputs": None,
        "resources": {"cpu_cores": None, "backend_parameters": {"vm_size": None, "a": "b"}, "zones": None},
        "executors": [{**EXECUTOR, "env": {"A": None, "B": "b"}, "workdir": None}],
        "volumes": None,
        "tags": {"project": None, "owner": "o"},
        "logs": None,
        "creation_time": None,
    }
    task_id = asgi.post(app, "/v1/tasks", msgspec.json.encode(nulls)).json["id"]
    given = {
        "inputs": [{"path": "/a", "content": "a"}],
        "resources": {"backend_parameters": {"a": "b"}},
        "executors": [{**EXECUTOR, "env": {"B": "b"}}],
        "tags": {"owner": "o"},
    }
    assert service.tasks[task_id] == msgspec.convert(given, Task)


def test_null_as_text_stays(app: ASGIApp, service: MemoryService) -> None:
    task_id = asgi.post(app, "/v1/tasks", msgspec.json.encode(task(name="null", tags={"null": "null"}))).json["id"]
    assert (service.tasks[task_id].name, service.tasks[task_id].tags) == ("null", {"null": "null"})


def test_row_8_what_clients_leave_out_or_overdo(app: ASGIApp, service: MemoryService) -> None:
    sent = {
        "description": "",
        "inputs": [],
        "volumes": [],
        "tags": {},
        "resources": {"cpu_cores": 0.5, "ram_gb": 1.5, "disk_gb": 2},
        "executors": [{"image": f"alpine@sha256:{'0' * 64}", "command": ["sh", "-c", "x" * 120_000]}],
    }
    task_id = asgi.post(app, "/v1/tasks", msgspec.json.encode(sent)).json["id"]
    assert service.tasks[task_id] == msgspec.convert(sent, Task)


def test_what_only_the_server_sets_is_ignored_so_a_task_can_be_sent_again(app: ASGIApp, service: MemoryService) -> None:
    again = task(id=7, state="NEVER", logs=[{"logs": [{}]}], creation_time=False)
    task_id = asgi.post(app, "/v1/tasks", msgspec.json.encode(again)).json["id"]
    assert service.tasks[task_id] == msgspec.convert(task(), Task)


def test_unknown_fields_are_ignored(app: ASGIApp) -> None:
    assert asgi.post(app, "/v1/tasks", msgspec.json.encode(task(max_time=7, executors=[{**EXECUTOR, "gpu": None}]))).status == 200


def test_text_of_every_kind_arrives_as_it_was_sent(app: ASGIApp, service: MemoryService) -> None:
    argv = ["", "$HOME", "a b", '"', "'", "\\", "\n", "é", "😀", "*", "{{x}}", "\u0000"]
    task_id = asgi.post(app, "/v1/tasks", msgspec.json.encode(executor(command=argv))).json["id"]
    assert list(service.tasks[task_id].executors[0].command) == argv
