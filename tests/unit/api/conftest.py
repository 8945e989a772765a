from __future__ import annotations

import pytest
from starlette.types import ASGIApp

from tes_server import settings
from tes_server.api import application
from tes_server.settings_server import ServerSettings
from tests.unit.api import asgi
from tests.unit.api.service import TASK, MemoryService

BODY_LIMIT = 300_000


@pytest.fixture(scope="session")
def served() -> tuple[MemoryService, ASGIApp]:
    """Building takes a tenth of a second, so it is done once; `service` starts each test afresh."""
    service = MemoryService()
    return service, application.build(service, settings.Settings(server=ServerSettings(body_limit=BODY_LIMIT)))


@pytest.fixture
def service(served: tuple[MemoryService, ASGIApp]) -> MemoryService:
    served[0].forget()
    return served[0]


@pytest.fixture
def app(served: tuple[MemoryService, ASGIApp], service: MemoryService) -> ASGIApp:
    return served[1]


@pytest.fixture
def task_id(app: ASGIApp) -> str:
    created: str = asgi.post(app, "/v1/tasks", TASK).json["id"]
    return created
