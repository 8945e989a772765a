"""A TES server by script, for the `tes` command's tests."""

import json
import re
from typing import Any

from pytest_httpserver import HTTPServer
from werkzeug import Request, Response
from werkzeug.datastructures import MultiDict

ECHO = ["--image", "img", "--", "echo", "hi"]


class Tes:
    """A TES server by script: each task is a list of answers, one a look; the last one stays."""

    def __init__(self, httpserver: HTTPServer) -> None:
        self.url = httpserver.url_for("").rstrip("/")
        self.tasks: dict[str, list[dict[str, Any]]] = {}
        self.created: list[dict[str, Any]] = []
        self.canceled: list[str] = []
        self.lists: list[MultiDict[str, str]] = []
        self.views: list[str] = []
        self.is_stubborn = False
        self.on_create: list[dict[str, Any]] = [{"state": "COMPLETE"}]
        httpserver.no_handler_status_code = 404
        httpserver.expect_request("/v1/service-info").respond_with_json({"name": "scripted", "type": {"artifact": "tes", "version": "1.1.0"}})
        httpserver.expect_request("/v1/tasks", method="POST").respond_with_handler(self._create)
        httpserver.expect_request("/v1/tasks", method="GET").respond_with_handler(self._list)
        for method in ("GET", "POST"):
            httpserver.expect_request(re.compile("/v1/tasks/.+"), method=method).respond_with_handler(self._task)

    def _create(self, request: Request) -> Response:
        self.created.append(request.get_json())
        task_id = f"task-{len(self.created)}"
        if "executors" not in self.created[-1]:
            return self._json({"title": "Bad Request", "status": 400, "detail": "is required", "pointer": "/executors"}, 400)
        self.tasks[task_id] = [{"id": task_id, **answer} for answer in self.on_create]
        return self._json({"id": task_id})

    def _list(self, request: Request) -> Response:
        self.lists.append(request.args)
        return self._json({"tasks": [answers[-1] for answers in self.tasks.values()]})

    def _task(self, request: Request) -> Response:
        task_id, _, verb = request.path.rpartition("/")[2].partition(":")
        if task_id not in self.tasks:
            return self._json({"title": "Not Found", "status": 404, "detail": f"no task {task_id}"}, 404)
        if verb == "cancel":
            self.canceled.append(task_id)
            if not self.is_stubborn:
                self.tasks[task_id] = [{"id": task_id, "state": "CANCELED"}]
            return self._json({})
        self.views.append(request.args["view"])
        answers = self.tasks[task_id]
        return self._json(answers.pop(0) if len(answers) > 1 else answers[0])

    @staticmethod
    def _json(answer: dict[str, Any], status: int = 200) -> Response:
        return Response(json.dumps(answer), status=status, content_type="application/json")


def log(state: str, stdout: str = "", stderr: str = "", **more: Any) -> dict[str, Any]:
    return {"state": state, "logs": [{"logs": [{"stdout": stdout, "stderr": stderr, **more}]}]}
