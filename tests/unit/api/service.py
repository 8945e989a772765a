"""A service on dicts: what the API needs of `control.service.Service`, with the answers of an old client's view.

It keeps tasks as they are sent, so tests see what the API passes on, and records each call.
"""

from __future__ import annotations

import concurrent.futures
import threading
from typing import Any

import msgspec

from tes_server import errors
from tes_server.control.service import ListRequest, Service
from tes_server.model.principal import Principal
from tes_server.model.record import View
from tes_server.model.task import Task

TASK = b'{"executors":[{"image":"alpine","command":["true"]}]}'
"""The smallest task."""


class MemoryService(Service):
    """Tasks in a dict, newest first. `threads` holds the name of the thread of each call, `owner` is who has to create them."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Be as new."""
        self.blocking = False
        self.compat = "clients"
        self.limits = None
        self.audit = None
        self.tasks: dict[str, Task] = {}
        self.states: dict[str, str] = {}
        self.keys: list[str | None] = []
        self.lists: list[ListRequest] = []
        self.threads: list[str] = []
        self.down = False
        self.owner = "anonymous"

    def create(self, principal: Principal, task: Task, idempotency_key: str | None = None) -> concurrent.futures.Future[str]:
        assert principal.owner == self.owner
        self.threads.append(threading.current_thread().name)
        if not task.executors:
            raise errors.Invalid("needs at least one executor", "/executors")
        self.keys.append(idempotency_key)
        task_id = f"{len(self.tasks):026d}"
        answer: concurrent.futures.Future[str] = concurrent.futures.Future()
        if idempotency_key == "conflict":
            answer.set_exception(errors.Conflict("this Idempotency-Key was used for another task"))
        else:
            self.tasks[task_id] = task
            self.states[task_id] = "QUEUED"
            answer.set_result(task_id)
        return answer

    def get_json(self, principal: Principal, task_id: str, view: View) -> bytes:
        self.threads.append(threading.current_thread().name)
        return msgspec.json.encode(self._shown(task_id, view))

    def list_json(self, principal: Principal, request: ListRequest) -> bytes:
        self.threads.append(threading.current_thread().name)
        self.lists.append(request)
        if request.page_token and not request.page_token.isdigit():
            raise errors.Invalid("is not a page_token of this server", "page_token")
        if len(request.tag_value) > len(request.tag_key):
            raise errors.Invalid("has more entries than tag_key", "tag_value")
        ids = [task_id for task_id in reversed(self.tasks) if request.state in (None, self.states[task_id])]
        first = int(request.page_token or 0)
        shown = ids[first : first + request.page_size]
        page: dict[str, Any] = {"tasks": [self._shown(task_id, request.view) for task_id in shown]}
        if first + len(shown) < len(ids):
            page["next_page_token"] = str(first + len(shown))
        return msgspec.json.encode(page)

    def cancel(self, principal: Principal, task_id: str) -> None:
        self._shown(task_id, View.MINIMAL)
        self.states[task_id] = "CANCELED"

    def service_info(self, principal: Principal) -> dict[str, object]:
        return {
            "id": "org.example.test",
            "name": "test",
            "type": {"group": "org.ga4gh", "artifact": "tes", "version": "1.1.0"},
            "organization": {"name": "test", "url": "https://example.org"},
            "version": "0",
            "storage": [],
            "tesResources_backend_parameters": [],
        }

    def legacy_service_info(self, principal: Principal) -> dict[str, object]:
        return {"name": "test", "doc": "", "storage": []}

    def ready(self) -> None:
        if self.down:
            raise errors.Unavailable("the store does not answer", retry_after=2.5)

    def _shown(self, task_id: str, view: View) -> dict[str, Any]:
        if task_id == "breaks":
            raise RuntimeError("secret detail")
        if task_id not in self.tasks:
            raise errors.NotFound(f"there is no task {task_id[:64]!r}")
        shown: dict[str, Any] = {"id": task_id, "state": self.states[task_id]}
        if view is not View.MINIMAL:
            shown |= msgspec.to_builtins(self.tasks[task_id]) | {"creation_time": "2026-03-01T09:30:00Z"}
        return shown
