"""The compiled contract against what it must agree with: schemathesis, and stock connexion on the same file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
import jsonschema_rs
import msgspec
import pytest
import schemathesis
import yaml
from schemathesis.specs.openapi import checks
from starlette.types import ASGIApp

from tes_server import errors, settings
from tes_server.api import application
from tes_server.control.service import ListRequest
from tes_server.model.principal import ANONYMOUS
from tes_server.model.record import View
from tes_server.model.task import Task
from tests.acceptance.server import served
from tests.integration import api_server
from tests.unit.api import asgi, deviations
from tests.unit.api.service import TASK, MemoryService

DOCUMENT: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(yaml.safe_load(application.description_file().read_text())))

# -- schemathesis -------------------------------------------------------------------------------------------------------

SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
SCHEMA.config.generation.update(database="none", deterministic=True)


def excused(case: schemathesis.Case[Any], response: Any) -> Iterator[Callable[..., Any]]:
    """Checks that a deviation makes useless for this request."""
    yield checks.status_code_conformance  # deviations.RESPONSES["errors"]
    yield checks.response_schema_conformance  # deviations.RESPONSES["MINIMAL"]; `conforms` checks the rest
    if case.operation.path.endswith(":cancel"):
        yield checks.allow_header_conformance  # deviations.RESPONSES["cancel"]
    if response.status_code == 400 and (response.json().get("parameter") in ("page_token", "tag_value") or response.json().get("pointer") == "/executors"):
        yield checks.positive_data_acceptance  # deviations.RESPONSES["meaning"]
    if response.status_code == 400 and case.method == "POST" and "pointer" in response.json():
        yield checks.positive_data_acceptance  # deviations.RESPONSES["meaning"]: roots, images and paths of a real site
    if holds_null(case.body):
        yield checks.negative_data_rejection  # deviations.RESPONSES["nulls"]


def holds_null(value: Any) -> bool:
    """Is there a null anywhere but in an array?"""
    if isinstance(value, dict):
        return any(inner is None or holds_null(inner) for inner in value.values())
    return isinstance(value, list) and any(holds_null(inner) for inner in value)


@pytest.fixture(scope="module", params=["memory", "serve"])
def address(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The API over a service on dicts, which takes every task, and the command itself over its store, which runs none."""
    if request.param == "memory":
        with api_server.running() as (host, port):
            yield f"http://{host}:{port}"
    else:
        with served(tmp_path_factory.mktemp("serve") / "data", "--api-only", "--engine", "docker", "--root", "/") as server:
            yield server.url


@SCHEMA.parametrize()
@hypothesis.settings(max_examples=60, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
def test_schemathesis_finds_nothing(case: schemathesis.Case[Any], address: str) -> None:
    response = case.call(base_url=f"{address}/v1")
    assert response.status_code < 500
    assert response.headers["content-type"] == ["application/json"]
    case.validate_response(response, excluded_checks=list(excused(case, response)))
    if response.status_code == 200:
        conforms(case, response.json())


def conforms(case: schemathesis.Case[Any], answer: dict[str, Any]) -> None:
    """The answer keeps its schema, but that MINIMAL tasks are id and state and nothing else."""
    for task in answer.get("tasks", [answer] if "state" in answer else []):
        if (case.query or {}).get("view") not in ("BASIC", "FULL"):
            assert task.keys() == {"id", "state"}
            task["executors"] = []
    operation = DOCUMENT["paths"][case.operation.path][case.method.lower()]
    schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
    jsonschema_rs.Draft4Validator({**schema, "components": DOCUMENT["components"]}).validate(answer)


# -- stock connexion ----------------------------------------------------------------------------------------------------


def stock(service: MemoryService) -> ASGIApp:
    """The same file and the same service behind connexion's own AsyncApp."""
    import connexion
    from connexion.resolver import Resolver

    def task_of(task_id: str, view: View) -> Any:
        try:
            return msgspec.json.decode(service.get_json(ANONYMOUS, task_id, view))
        except errors.NotFound:
            raise connexion.ProblemException(status=404, title="Not Found", detail="") from None

    async def get_service_info() -> Any:
        return service.service_info(ANONYMOUS)

    async def list_tasks(**query: Any) -> Any:
        return msgspec.json.decode(service.list_json(ANONYMOUS, msgspec.convert(query, ListRequest)))

    async def create_task(body: Any) -> Any:
        return {"id": service.create(ANONYMOUS, msgspec.convert(body, Task)).result()}

    async def get_task(id: str, view: str = "MINIMAL") -> Any:  # noqa: A002 - the file's name
        return task_of(id, View(view))

    async def cancel_task(id: str) -> Any:  # noqa: A002 - the file's name
        task_of(id, View.MINIMAL)
        service.cancel(ANONYMOUS, id)
        return {}

    by_operation = {
        "GetServiceInfo": get_service_info,
        "ListTasks": list_tasks,
        "CreateTask": create_task,
        "GetTask": get_task,
        "CancelTask": cancel_task,
    }
    app = connexion.AsyncApp("tes_server.api", resolver=Resolver(by_operation.__getitem__))
    app.add_api(DOCUMENT, base_path="/v1")
    return app  # type: ignore[no-any-return]  # connexion is not typed


JSON = {**asgi.LOOPBACK, "content-type": "application/json"}

EQUAL: list[tuple[str, str, bytes]] = [
    ("GET", "/v1/service-info", b""),
    ("GET", "/v1/tasks", b""),
    ("GET", "/v1/tasks?view=FULL&page_size=3&state=QUEUED&name_prefix=a", b""),
    ("GET", "/v1/tasks?tag_key=a&tag_value=b&tag_key=c", b""),
    ("GET", "/v1/tasks?unknown=1", b""),
    ("GET", "/v1/tasks?view=FULL&view=BASIC", b""),
    ("GET", "/v1/tasks?view=full", b""),
    ("GET", "/v1/tasks?view=", b""),
    ("GET", "/v1/tasks?state=DONE", b""),
    ("GET", "/v1/tasks?state=", b""),
    ("GET", "/v1/tasks?page_size=abc", b""),
    ("GET", "/v1/tasks?page_size=0", b""),
    ("GET", "/v1/tasks?page_size=2048", b""),
    ("GET", "/v1/tasks?page_size=1.5", b""),
    ("GET", "/v1/tasks?page_size=", b""),
    ("GET", f"/v1/tasks/{0:026d}", b""),
    ("GET", f"/v1/tasks/{0:026d}?view=BASIC", b""),
    ("GET", f"/v1/tasks/{0:026d}?view=NONE", b""),
    ("GET", "/v1/tasks/unknown", b""),
    ("GET", "/v1/tasks/unknown:cancel", b""),
    ("GET", "/v1/tasks/a%2Fb", b""),
    ("HEAD", "/v1/tasks", b""),
    ("POST", "/v1/tasks/unknown", b""),
    ("PUT", "/v1/tasks", TASK),
    ("DELETE", f"/v1/tasks/{0:026d}", b""),
    ("POST", f"/v1/tasks/{0:026d}:cancel", b""),
    ("POST", f"/v1/tasks/{0:026d}%3Acancel", b"{}"),
    ("POST", "/v1/tasks/a:b:cancel", b""),
    ("GET", "/v2/tasks", b""),
    ("POST", "/tasks", TASK),
    ("POST", "/v1/tasks", TASK),
    ("POST", "/v1/tasks", b""),
    ("POST", "/v1/tasks", b"{"),
    ("POST", "/v1/tasks", b"[]"),
    ("POST", "/v1/tasks", b"null"),
    ("POST", "/v1/tasks", b"{}"),
    ("POST", "/v1/tasks", b'{"executors":{}}'),
    ("POST", "/v1/tasks", b'{"executors":[{"image":"a"}]}'),
    ("POST", "/v1/tasks", b'{"executors":[{"image":"a","command":["b",3]}]}'),
    ("POST", "/v1/tasks", b'{"executors":[{"image":"a","command":[null]}]}'),
    ("POST", "/v1/tasks", b'{"executors":[{"image":"a","command":["b"],"env":{"c":1}}]}'),
    ("POST", "/v1/tasks", b'{"executors":[{"image":"a","command":["b"]}],"extra":{"c":null}}'),
    ("POST", "/v1/tasks", b'{"executors":[{"image":"a","command":["b"]}],"id":"x","state":"COMPLETE","logs":[]}'),
    ("POST", "/v1/tasks", b'{"executors":[{"image":"a","command":["b"]}],"resources":{"cpu_cores":0.5}}'),
    ("POST", "/v1/tasks", b'{"executors":[{"image":"a","command":["b"]}],"inputs":[{"path":"/a","type":"LINK"}]}'),
    ("POST", "/v1/tasks", b'{"executors":[{"image":"a","command":["b"]}],"outputs":[{"path":"/a"}]}'),
]

OTHERWISE: list[tuple[str, str, bytes, dict[str, str], int, int, str]] = [
    ("GET", "/v1/tasks/", b"", {}, 307, 200, "trailing slash"),
    ("PUT", "/v1/tasks/service-info", b"", {}, 405, 405, "row 3 makes it a path of its own"),
    ("GET", "/v1/tasks/service-info", b"", {}, 404, 200, "row 3 makes it a path of its own"),
    ("GET", "/service-info", b"", {}, 404, 200, "row 2"),
    ("POST", "/v1/tasks", TASK, {"content-type": "text/plain"}, 415, 200, "content types"),
    ("POST", "/v1/tasks", TASK, {"content-type": "application/x-www-form-urlencoded"}, 415, 200, "content types"),
    ("POST", "/v1/tasks", b'{"executors":[{"image":"a","command":["b"],"workdir":null}]}', {}, 400, 200, "nulls"),
    ("POST", "/v1/tasks", b'{"executors":[{"image":"a","command":["b"]}],"tags":{"c":null}}', {}, 400, 200, "nulls"),
    ("POST", "/v1/tasks", b'{"executors":[{"image":"a","command":["b"]}],"state":"x"}', {}, 400, 200, "read-only"),
    ("POST", "/v1/tasks", b'{"executors":[{"image":"a","command":["b"]}],"name":"\xff"}', {}, 500, 400, "a fault of the stock application"),
    ("POST", "/v1/tasks", b"[" * 100_000, {}, 500, 400, "a fault of the stock application"),
    (
        "POST",
        "/v1/tasks",
        b'{"executors":[{"image":"a","command":["b"]}],"resources":{"ram_gb":NaN}}',
        {},
        200,
        400,
        "NaN is not JSON; the stock application takes it",
    ),
]
"""Requests that are answered otherwise: stock connexion's status, ours, and a key of deviations.RESPONSES or the reason itself."""


@pytest.fixture(scope="module")
def pairs() -> list[tuple[MemoryService, ASGIApp]]:
    services = MemoryService(), MemoryService()
    return [(services[0], stock(services[0])), (services[1], application.build(services[1], settings.Settings()))]


@pytest.fixture
def both(pairs: list[tuple[MemoryService, ASGIApp]]) -> tuple[ASGIApp, ASGIApp]:
    """The stock application and ours, each with one task."""
    for service, app in pairs:
        service.forget()
        asgi.post(app, "/v1/tasks", TASK, headers=JSON)
    return pairs[0][1], pairs[1][1]


def statuses(apps: tuple[ASGIApp, ASGIApp], method: str, target: str, body: bytes, headers: dict[str, str]) -> tuple[int, int]:
    answers = [asgi.request(app, method, target, body, headers={**JSON, **headers}) for app in apps]
    found = [answer.status for answer in answers if answer is not None]
    return found[0], found[1]


@pytest.mark.parametrize(("method", "target", "body"), EQUAL)
def test_stock_connexion_answers_alike(both: tuple[ASGIApp, ASGIApp], method: str, target: str, body: bytes) -> None:
    theirs, ours = statuses(both, method, target, body, {})
    assert theirs == ours


@pytest.mark.parametrize(("method", "target", "body", "headers", "theirs", "ours", "why"), OTHERWISE)
def test_stock_connexion_answers_otherwise_only_where_we_mean_it(
    both: tuple[ASGIApp, ASGIApp], method: str, target: str, body: bytes, headers: dict[str, str], theirs: int, ours: int, why: str
) -> None:
    assert statuses(both, method, target, body, headers) == (theirs, ours), deviations.RESPONSES.get(why, why)


@pytest.mark.parametrize("target", [target for method, target, _ in EQUAL if method == "GET"])
def test_stock_connexion_answers_the_same_values(both: tuple[ASGIApp, ASGIApp], target: str) -> None:
    theirs, ours = (asgi.get(app, target, headers=JSON) for app in both)
    if ours.status == 200:
        assert theirs.json == ours.json
