"""The human pages: what they show, that they escape it, and that they keep to themselves."""

from __future__ import annotations

import html.parser

import msgspec
import pytest
from starlette.types import ASGIApp

from tes_server.control.service import ListRequest
from tes_server.model.record import View
from tes_server.model.states import State
from tests.unit.api import asgi
from tests.unit.api.service import TASK, MemoryService

HOSTILE = "<script>alert(1)</script>\"'&{{7*7}}"


class Links(html.parser.HTMLParser):
    """Collects what a page loads, links to and posts to."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.tags: set[str] = set()
        self.feed(page.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.found |= {value for name, value in attrs if name in ("href", "src", "action") and value}


@pytest.mark.parametrize("path", ["/", "/ui", "/ui/"])
def test_the_list_shows_state_name_and_link(app: ASGIApp, path: str) -> None:
    body = {**msgspec.json.decode(TASK), "name": "align 7"}
    task_id = asgi.post(app, "/v1/tasks", msgspec.json.encode(body)).json["id"]
    page = asgi.get(app, path)
    assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert b"align 7" in page.body
    assert b"QUEUED" in page.body
    assert f"/ui/tasks/{task_id}" in Links(page.body).found


def test_filters_and_pages_reach_the_service(app: ASGIApp, service: MemoryService) -> None:
    for _ in range(60):
        asgi.post(app, "/v1/tasks", TASK)
    first = asgi.get(app, "/ui?state=QUEUED&name_prefix=&tag_key=a&tag_value=b%26c")
    (following,) = (link for link in Links(first.body).found if "page_token" in link)
    second = asgi.get(app, following)
    assert not any("page_token" in link for link in Links(second.body).found)
    wanted = ListRequest(view=View.BASIC, page_size=50, state=State.QUEUED, tag_key=("a",), tag_value=("b&c",))
    assert service.lists == [wanted, msgspec.structs.replace(wanted, page_token="50")]


def test_a_page_of_one_task(app: ASGIApp, task_id: str) -> None:
    page = asgi.get(app, f"/ui/tasks/{task_id}")
    assert page.status == 200
    assert b"alpine" in page.body
    assert f"/ui/tasks/{task_id}/cancel" in Links(page.body).found


def test_logs_and_files_are_shown(app: ASGIApp, service: MemoryService, task_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    full = {
        "id": task_id,
        "state": "EXECUTOR_ERROR",
        "executors": [{"image": "alpine", "command": ["sh", "-c", "echo a b"]}, {"image": "busybox", "command": ["true"]}],
        "inputs": [{"path": "/in/a", "content": "12345", "type": "FILE"}, {"path": "/in/b", "url": "file:///b", "type": "FILE"}],
        "outputs": [{"path": "/out/a", "url": "file:///out/a", "type": "FILE"}],
        "tags": {"project": "p7"},
        "logs": [
            {
                "logs": [{"stdout": "to out", "stderr": "to err", "exit_code": 0, "start_time": "2026-03-01T09:30:00Z"}],
                "outputs": [{"url": "file:///out/a", "path": "/out/a", "size_bytes": "4711"}],
                "system_logs": ["OUTPUT_MISSING: /out/b"],
            }
        ],
    }
    monkeypatch.setattr(service, "get_json", lambda *_: msgspec.json.encode(full))
    page = asgi.get(app, f"/ui/tasks/{task_id}").body.decode()
    for text in (
        "sh -c &#39;echo a b&#39;",
        "exit code 0",
        "to out",
        "to err",
        "4711",
        "OUTPUT_MISSING: /out/b",
        "5 characters given",
        "file:///b",
        "p7",
        "busybox",
    ):
        assert text in page
    assert "Cancel" not in page


def test_everything_is_escaped(app: ASGIApp) -> None:
    body = {
        "name": HOSTILE,
        "description": HOSTILE,
        "tags": {HOSTILE: HOSTILE},
        "inputs": [{"path": HOSTILE, "url": HOSTILE}],
        "executors": [{"image": HOSTILE, "command": [HOSTILE]}],
    }
    task_id = asgi.post(app, "/v1/tasks", msgspec.json.encode(body)).json["id"]
    for target in ("/ui", f"/ui/tasks/{task_id}", "/ui?name_prefix=%3Cscript%3E%22&tag_key=%3Cscript%3E", "/ui/tasks/%3Cscript%3E"):
        page = asgi.get(app, target)
        assert "script" not in Links(page.body).tags
        assert b"49" not in page.body.replace(task_id.encode(), b"")


@pytest.mark.parametrize("target", ["/", "/ui", "/ui/tasks/unknown", "/ui/nowhere", "/ui/static/style.css", "/ui?state=x"])
def test_pages_are_hardened(app: ASGIApp, target: str) -> None:
    headers = asgi.get(app, target).headers
    assert headers["content-security-policy"].startswith("default-src 'self'")
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert (headers["x-content-type-options"], headers["x-frame-options"]) == ("nosniff", "DENY")
    assert headers["referrer-policy"] == "same-origin"


def test_nothing_comes_from_elsewhere_nor_needs_javascript(app: ASGIApp, task_id: str) -> None:
    for target in ("/ui", f"/ui/tasks/{task_id}"):
        links = Links(asgi.get(app, target).body)
        assert all(link.startswith("/") and not link.startswith("//") for link in links.found)
        assert "script" not in links.tags
        for link in links.found:
            assert asgi.get(app, link).status in (200, 405)


def test_the_cancel_button_works(app: ASGIApp, service: MemoryService, task_id: str) -> None:
    same = {**asgi.LOOPBACK, "origin": "http://127.0.0.1:8000", "sec-fetch-site": "same-origin", "content-type": "application/x-www-form-urlencoded"}
    answer = asgi.post(app, f"/ui/tasks/{task_id}/cancel", headers=same)
    assert (answer.status, answer.headers["location"]) == (303, f"/ui/tasks/{task_id}?canceling=")
    assert service.states[task_id] == "CANCELED"
    assert b"refresh" not in asgi.get(app, f"/ui/tasks/{task_id}?canceling=").body
    assert "form" not in Links(asgi.get(app, f"/ui/tasks/{task_id}").body).tags
    assert asgi.get(app, f"/ui/tasks/{task_id}/cancel").status == 405


def test_a_page_says_that_cancel_was_asked_for_until_it_shows(app: ASGIApp, task_id: str) -> None:
    page = asgi.get(app, f"/ui/tasks/{task_id}?canceling=")
    assert b"asked to stop" in page.body
    assert b'http-equiv="refresh"' in page.body
    assert "form" not in Links(page.body).tags


@pytest.mark.parametrize(
    ("target", "status"),
    [("/ui/tasks/unknown", 404), ("/ui/nowhere", 404), ("/ui/tasks/a%2Fb", 404), ("/ui?state=x", 400), ("/ui?page_token=x", 400), ("/ui/tasks/breaks", 500)],
)
def test_problems_are_pages_too(app: ASGIApp, target: str, status: int) -> None:
    page = asgi.get(app, target)
    assert page.status == status
    assert b"secret" not in page.body


@pytest.mark.parametrize("target", ["/ui?name_prefix=%C3%A9", "/ui?%FF=%zz", "/ui/tasks/é", "/ui?name_prefix=%00"])
def test_odd_urls_do_no_harm(app: ASGIApp, target: str) -> None:
    assert asgi.get(app, target).status in (200, 404)


def test_a_problem_page_names_the_parameter(app: ASGIApp) -> None:
    assert b"<code>state</code> is not a state" in asgi.get(app, "/ui?state=x").body
