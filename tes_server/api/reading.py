"""A task from JSON by the same contract as a request, for `tes-server plan`."""

from __future__ import annotations

from connexion.operations import OpenAPIOperation
from connexion.resolver import Resolver
from connexion.spec import Specification

from tes_server.api.application import description_file
from tes_server.api.body import Body
from tes_server.model.task import Task
from tes_server.settings_server import ServerSettings


def task(raw: bytes, limit: int = ServerSettings().body_limit) -> Task:
    """The task that the bytes hold. Raises `errors.Invalid` with the pointer of the field at fault."""
    specification = Specification.load(description_file())
    operation = OpenAPIOperation.from_spec(specification, path="/tasks", method="post", resolver=Resolver(lambda _: None))
    return Body(operation.body_schema(), Task, limit).decode(raw)
