"""The rows of clients.md section 5 that the API keeps by itself, each under its number.

Rows 5, 6 and 8 stand in test_body, row 18 in test_auth; those of answers (9 to 14, 33, 35) with `model.views`.
"""

from __future__ import annotations

import msgspec
import pytest
from starlette.types import ASGIApp

from tes_server.api import application
from tes_server.control.service import ListRequest
from tes_server.model.principal import ANONYMOUS
from tes_server.model.record import View
from tests.unit.api import asgi
from tests.unit.api.service import TASK, MemoryService

BASES = application.BASE_PATHS

ELSEWHERE = [
    "/tasks",
    "/tasks/x",
    "/tasks/x:cancel",
    "/v2/tasks",
    "/v1",
    "/v1/",
    "/ga4gh/tes/v1",
    "/ga4gh/tes/v2/tasks",
    "/ga4gh/tes/tasks",
    "/api/v1/tasks",
    "/v1/v1/tasks",
    "/v1//tasks",
    "//v1/tasks",
    "/v1/tasks//",
    "/v1/tasks/x/y",
    "/v1/tasks/a%2Fb",
    "/v1/tasks%0A",
    "/V1/tasks",
    "/v1/service-infos",
    "/v1/openapi.json",
    "/favicon.ico",
]


@pytest.mark.parametrize("base", BASES)
def test_row_1_both_bases_serve_all_of_it(app: ASGIApp, base: str) -> None:
    task_id = asgi.post(app, f"{base}/tasks", TASK).json["id"]
    assert asgi.get(app, f"{base}/tasks/{task_id}").json == {"id": task_id, "state": "QUEUED"}
    assert asgi.get(app, f"{base}/tasks").json == {"tasks": [{"id": task_id, "state": "QUEUED"}]}
    assert asgi.post(app, f"{base}/tasks/{task_id}:cancel").json == {}


@pytest.mark.parametrize("path", ELSEWHERE)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_row_1_any_other_path_is_a_plain_404(app: ASGIApp, method: str, path: str) -> None:
    answer = asgi.request(app, method, path, TASK if method == "POST" else b"")
    assert answer is not None
    assert (answer.status, answer.headers["content-type"]) == (404, "application/json")
    assert answer.json == {"status": 404, "title": "Not Found", "detail": "there is nothing at this path"}


@pytest.mark.parametrize("path", ["/service-info", *(f"{base}/service-info" for base in BASES)])
def test_row_2_service_info_at_three_places(app: ASGIApp, service: MemoryService, path: str) -> None:
    assert asgi.get(app, path).json == service.service_info(ANONYMOUS)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("tail", ["", "/", "?view=nonsense"])
def test_row_3_the_old_service_info_is_no_task(app: ASGIApp, base: str, tail: str) -> None:
    assert asgi.get(app, f"{base}/tasks/service-info{tail}").json.keys() == {"name", "doc", "storage"}


@pytest.mark.parametrize("body", [b"", b"{}", b"not json", b"\xff", b"null"])
@pytest.mark.parametrize("content_type", [None, "application/json", "application/x-www-form-urlencoded"])
@pytest.mark.parametrize("separator", [":", "%3A", "%3a"])
def test_row_4_cancel_takes_anything_and_answers_an_object(app: ASGIApp, task_id: str, body: bytes, content_type: str | None, separator: str) -> None:
    headers = asgi.LOOPBACK | ({} if content_type is None else {"content-type": content_type})
    answer = asgi.post(app, f"/v1/tasks/{task_id}{separator}cancel", body, headers=headers)
    assert (answer.status, answer.body, answer.headers["content-type"]) == (200, b"{}", "application/json")


def test_row_4_cancel_may_be_repeated_and_knows_unknown_tasks(app: ASGIApp, service: MemoryService, task_id: str) -> None:
    assert [asgi.post(app, f"/v1/tasks/{task_id}:cancel").status for _ in range(2)] == [200, 200]
    assert service.states[task_id] == "CANCELED"
    assert asgi.post(app, "/v1/tasks/unknown:cancel").status == 404


@pytest.mark.parametrize("path", ["/v1/tasks", "/v1/tasks/{id}", "/v1/service-info"])
def test_row_5_a_body_on_get_is_not_read(app: ASGIApp, task_id: str, path: str) -> None:
    assert asgi.get(app, path.format(id=task_id), body=b"not json").status == 200


def test_row_7_unknown_backend_parameters_reach_the_service(app: ASGIApp, service: MemoryService) -> None:
    parameters = {"internal_path_prefix": "a", "workflow_execution_identity": "b", "vm_size": "c"}
    body = {**msgspec.json.decode(TASK), "resources": {"backend_parameters": parameters}}
    task_id = asgi.post(app, "/v1/tasks", msgspec.json.encode(body)).json["id"]
    resources = service.tasks[task_id].resources
    assert resources is not None
    assert resources.backend_parameters == parameters


def test_row_10_the_view_is_minimal_unless_asked_for(app: ASGIApp, task_id: str) -> None:
    assert asgi.get(app, f"/v1/tasks/{task_id}").json.keys() == {"id", "state"}
    assert asgi.get(app, f"/v1/tasks/{task_id}?view=MINIMAL").json.keys() == {"id", "state"}
    for view in ("BASIC", "FULL"):
        assert "executors" in asgi.get(app, f"/v1/tasks/{task_id}?view={view}").json


ODD_IDS = [
    "%20",
    "%00",
    "%0A",
    "x%0A",
    "%FF",
    "é",
    "%F0%9F%98%80",
    "..",
    ".",
    "%2e%2e",
    "a:b",
    "a:cancel",
    ":cancel",
    "{id}",
    "a'b\"c",
    "<script>",
    "%25",
    "x" * 5_000,
]


@pytest.mark.parametrize("task_id", ODD_IDS)
def test_row_17_odd_ids_are_404_in_json(app: ASGIApp, task_id: str) -> None:
    for answer in (asgi.get(app, f"/v1/tasks/{task_id}"), asgi.post(app, f"/v1/tasks/{task_id}:cancel")):
        assert (answer.status, answer.headers["content-type"]) == (404, "application/json")
        assert answer.json["status"] == 404


@pytest.mark.parametrize(
    ("method", "target", "body", "status"),
    [
        ("GET", "/v1/tasks", b"", 200),
        ("POST", "/v1/tasks", TASK, 200),
        ("POST", "/v1/tasks", b"{}", 400),
        ("GET", "/v1/tasks?view=x", b"", 400),
        ("GET", "/v1/tasks/unknown", b"", 404),
        ("GET", "/nowhere", b"", 404),
        ("DELETE", "/v1/tasks", b"", 405),
        ("GET", "/v1/tasks/breaks", b"", 500),
        ("GET", "/healthz", b"", 200),
        ("GET", "/openapi.json", b"", 200),
    ],
)
def test_row_17_every_answer_is_json(app: ASGIApp, method: str, target: str, body: bytes, status: int) -> None:
    answer = asgi.request(app, method, target, body)
    assert answer is not None
    assert (answer.status, answer.headers["content-type"]) == (status, "application/json")
    assert int(answer.headers["content-length"]) == len(answer.body)
    assert isinstance(answer.json, dict)


def test_row_17_create_answers_the_id(app: ASGIApp, service: MemoryService) -> None:
    answer = asgi.post(app, "/v1/tasks", TASK)
    assert [answer.json] == [{"id": task_id} for task_id in service.tasks]


def test_row_30_pages_and_views_of_a_list(app: ASGIApp, service: MemoryService) -> None:
    ids = [asgi.post(app, "/v1/tasks", TASK).json["id"] for _ in range(5)]
    first = asgi.get(app, "/v1/tasks?page_size=3&view=BASIC").json
    second = asgi.get(app, f"/v1/tasks?page_size=3&page_token={first['next_page_token']}").json
    assert [task["id"] for task in first["tasks"] + second["tasks"]] == ids[::-1]
    assert "next_page_token" not in second
    assert service.lists == [ListRequest(view=View.BASIC, page_size=3), ListRequest(page_size=3, page_token="3")]
